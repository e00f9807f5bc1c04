//! On files in a disk's place, with what the real programs write.

use std::process::Command;

use super::*;
use crate::storage::volume;

/// What XFS wants at least.
const SIZE: u64 = 320 << 20;
const HOST: &str = "4c4c4544-0031-3010-8054-b7c04f4d5931";

struct Disk {
    directory: tempfile::TempDir,
    tools: Tools,
}

impl Disk {
    fn blank() -> Self {
        let directory = tempfile::tempdir().unwrap();
        File::create(directory.path().join("disk"))
            .unwrap()
            .set_len(SIZE)
            .unwrap();
        Self {
            directory,
            tools: Tools::default(),
        }
    }

    /// With what a program writes; none where the program is missing here.
    fn made_by(program: &str, arguments: &[&str]) -> Option<Self> {
        let disk = Self::blank();
        let run = Command::new(program)
            .args(arguments)
            .arg(disk.path())
            .output();
        match run {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{program}: {said}");
                Some(disk)
            }
            Err(error) => {
                eprintln!("{program} is not on this machine: {error}");
                None
            }
        }
    }

    fn with(bytes: &[(u64, &[u8])]) -> Self {
        let disk = Self::blank();
        for (at, bytes) in bytes {
            disk.write(*at, bytes);
        }
        disk
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("disk")
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn look(&self) -> Contents {
        look(&self.tools, &self.path(), SIZE)
    }

    fn take(&self) -> Extent {
        let ours = match self.look() {
            Contents::Ours { extent, .. } => Some(extent),
            _ => None,
        };
        let taken = volume::take(&self.tools, &self.path(), SIZE, ours, HOST);
        taken.unwrap().extent
    }

    #[track_caller]
    fn carries(&self, kind: &str) {
        let Contents::Signed(signatures) = self.look() else {
            panic!("{kind}: {:?}", self.look());
        };
        assert!(
            signatures.iter().any(|it| it.kind == kind),
            "{kind}: {signatures:?}"
        );
    }
}

#[test]
fn a_disk_of_zeros_is_blank_and_one_with_a_single_other_byte_is_not() {
    assert_eq!(Disk::blank().look(), Contents::Blank);
    for at in [0, 511, ENDS - 1, SIZE - ENDS, SIZE - 1] {
        let disk = Disk::with(&[(at, b"\x01")]);
        assert_eq!(disk.look(), Contents::Unknown(at));
    }
    // Data between, whose beginning was lost.
    let disk = Disk::with(&[(30 << 20, &[0x55; 2 << 20])]);
    assert!(matches!(disk.look(), Contents::Unknown(_)));
}

#[test]
fn a_disk_is_sampled_from_end_to_end() {
    let size = 3 << 30;
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    assert_eq!(first_byte(&file, size).unwrap(), None);
    file.write_all_at(&[0x55; 16 << 20], 1 << 30).unwrap();
    assert!(first_byte(&file, size).unwrap().unwrap() >= 1 << 30);
}

#[test]
fn what_real_programs_write_is_known() {
    for (program, arguments, kind) in [
        ("/usr/sbin/mke2fs", &["-q", "-F", "-t", "ext4"][..], "ext4"),
        ("/usr/sbin/mkfs.xfs", &["-q"], "xfs"),
        ("/usr/sbin/mkfs.btrfs", &["-q", "--mixed"], "btrfs"),
        ("/usr/sbin/mkfs.vfat", &[], "vfat"),
        ("/usr/sbin/mkswap", &["-q"], "swap"),
        (
            "/usr/sbin/cryptsetup",
            &[
                "luksFormat",
                "-q",
                "--type",
                "luks2",
                "--pbkdf=pbkdf2",
                "--pbkdf-force-iterations=1000",
                "--key-file=/proc/version",
            ],
            "crypto_LUKS",
        ),
    ] {
        if let Some(disk) = Disk::made_by(program, arguments) {
            disk.carries(kind);
        }
    }
}

#[test]
fn the_marks_of_volume_managers_and_hypervisors_are_known() {
    let mut zfs = vec![(0x3f000, 0x00ba_b10c_u64.to_le_bytes())];
    zfs.extend((0..16_u64).map(|number| (0x21000 + number * 1024, 0x00ba_b10c_u64.to_le_bytes())));
    let zfs: Vec<_> = zfs.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    for (kind, marks) in [
        ("LVM2_member", &[(512, &lvm_label()[..])][..]),
        ("linux_raid_member", &[(4096, &md_superblock()[..])]),
        ("zfs_member", &zfs[..]),
        ("VMFS_volume_member", &[(1 << 20, b"\x0d\xd0\x01\xc0")]),
        ("VMFS", &[(2 << 20, b"\x5e\xf1\xab\x2f")]),
        ("ceph_bluestore", &[(0, b"bluestore block device")]),
        (
            "BitLocker",
            &[
                (0, b"\xeb\x58\x90-FVE-FS-\0\x02\x08"),
                (176, b"\0\0\x10\0\0\0\0\0"),
                (1 << 20, b"-FVE-FS-\x40\0\x02\0"),
            ],
        ),
        (
            "dos",
            &[
                (446, b"\x80\x20\x21\0\x83\xfe\xff\xff\0\x08\0\0\0\0\x01\0"),
                (510, b"\x55\xaa"),
            ],
        ),
    ] {
        let disk = Disk::with(marks);
        disk.carries(kind);
    }
}

/// As `pvcreate` writes it, in sector 1: LABELONE, its sector, CRC, offset,
/// type.
fn lvm_label() -> Vec<u8> {
    let mut label = vec![0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8..16].copy_from_slice(&1_u64.to_le_bytes());
    label[20..24].copy_from_slice(&32_u32.to_le_bytes());
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(b"tdjcBzkbvmdTGmdZxUGZYMvGTxHtAAAA");
    let checksum = lvm_crc(&label[20..]);
    label[16..20].copy_from_slice(&checksum.to_le_bytes());
    label
}

fn lvm_crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

/// Version 1.2 of md's superblock, as far as it is looked at.
fn md_superblock() -> Vec<u8> {
    let mut block = vec![0_u8; 1024];
    block[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    block[4..8].copy_from_slice(&1_u32.to_le_bytes());
    block[16..32].copy_from_slice(&[7; 16]);
    // Where it lies itself, in sectors.
    block[144..152].copy_from_slice(&8_u64.to_le_bytes());
    let sum: u64 = block[..256]
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())))
        .sum();
    let sum = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap();
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    block
}

#[test]
fn a_disk_that_was_taken_is_known_again_and_taken_as_it_is() {
    let disk = Disk::blank();
    let extent = disk.take();
    let host = HOST.to_owned();
    assert_eq!(disk.look(), Contents::Ours { extent, host });
    // As a guest's disk looks: anything, behind the stamp.
    disk.write(extent.start + stamp::BYTES, &[0xa5; 4096]);
    assert!(matches!(disk.look(), Contents::Ours { .. }));
    assert_eq!(disk.take(), extent);
}

#[test]
fn a_disk_that_its_owner_took_back_is_his() {
    let table = |script: &str| {
        let disk = Disk::blank();
        disk.take();
        let mut sfdisk = Command::new("/usr/sbin/sfdisk");
        sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel", "--force"]);
        let script = format!("printf '%b' '{script}' | \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).arg(sfdisk.get_program());
        shell.args(sfdisk.get_args()).arg(disk.path());
        assert!(shell.status().unwrap().success());
        disk
    };
    // Another partition beside, one of another type, or none at all.
    for script in [
        format!(
            "label: gpt\\nsize=16M, type={}, name={}\\nsize=8M\\n",
            stamp::TYPE,
            stamp::NAME
        ),
        format!("label: gpt\\ntype=linux, name={}\\n", stamp::NAME),
        format!("label: gpt\\ntype={}, name=data\\n", stamp::TYPE),
        "label: gpt\\n".to_owned(),
    ] {
        table(&script).carries("gpt");
    }
    // A file system in the partition that was ours.
    for (at, mark) in [
        (0x438, &b"\x53\xef"[..]),
        (0, b"XFSB"),
        (0x10040, b"_BHRfS_M"),
    ] {
        let disk = Disk::blank();
        let extent = disk.take();
        disk.write(extent.start + at, mark);
        assert!(matches!(disk.look(), Contents::Overwritten(_)), "{at:#x}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_never_blank() {
    let disk = Disk::blank();
    let missing = look(&disk.tools, Path::new("/nowhere/at/all"), SIZE);
    assert!(matches!(missing, Contents::Unreadable(_)), "{missing:?}");
    // Shorter than the kernel says: reading its end fails.
    let short = look(&disk.tools, &disk.path(), SIZE * 2);
    assert!(matches!(short, Contents::Unreadable(_)), "{short:?}");
    let without = |change: fn(&mut Tools)| {
        let mut tools = Tools::default();
        change(&mut tools);
        look(&tools, &disk.path(), SIZE)
    };
    for looked in [
        without(|tools| tools.wipefs = "/nowhere/wipefs".into()),
        without(|tools| tools.wipefs = "/bin/false".into()),
    ] {
        assert!(matches!(looked, Contents::Unreadable(_)), "{looked:?}");
    }
}
