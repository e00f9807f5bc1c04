//! With the real qemu-img; where it stands for something, a script.

use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use surplus_disk_image::Unfit;

use super::super::confinement::{Confinement, Direct, Job, Outcome};
use super::super::disk::DiskError;
use super::super::prepare::Cure;
use super::super::test_ticket;
use super::super::uplink::fake::FakeUplink;
use super::*;

const DISK: u64 = 8 << 20;

/// The real thing, and what it was asked.
#[derive(Debug, Default)]
struct Listening {
    direct: Direct,
    jobs: Mutex<Vec<Job>>,
    /// For the next conversion, instead of its measured size.
    file_bytes: Mutex<Option<u64>>,
}

impl Confinement for Listening {
    fn run(&self, mut job: Job) -> BoxFuture<'_, io::Result<Outcome>> {
        self.jobs.lock().unwrap().push(job.clone());
        if let Some(bytes) = *self.file_bytes.lock().unwrap() {
            job.limits.file_bytes = bytes;
        }
        self.direct.run(job)
    }
}

struct Rig {
    _temp: tempfile::TempDir,
    dir: Utf8PathBuf,
    uplink: FakeUplink,
    images: ImageStore,
    tool: Arc<Listening>,
    qemu_img: QemuImg,
}

impl Rig {
    fn new(limit: Option<u64>) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(temp.path().join("images")).unwrap();
        std::fs::create_dir(&dir).unwrap();
        let tool = Arc::<Listening>::default();
        Self {
            _temp: temp,
            images: ImageStore::new(dir.clone(), limit),
            dir,
            uplink: FakeUplink::default(),
            qemu_img: QemuImg::confined_by(tool.clone()),
            tool,
        }
    }

    /// The marketplace has an image; what a guest with it would be.
    fn offer(&self, image: Vec<u8>, format: ImageFormat) -> GuestSpec {
        let mut guest = test_ticket(1, 1).guest;
        guest.image_bytes = image.len() as u64;
        guest.image = self.uplink.offer(image);
        guest.image_format = format;
        guest.resources.disk_bytes = 2 * DISK;
        guest
    }

    async fn ready(&self, guest: &GuestSpec) -> Result<Base, PrepareError> {
        let (images, tool) = (&self.images, &self.qemu_img);
        super::ready(images, tool, &self.uplink, guest, &|_| {}).await
    }

    async fn unfit(&self, image: Vec<u8>, format: ImageFormat) -> Unfit {
        let error = self.ready(&self.offer(image, format)).await.unwrap_err();
        assert_eq!(error.cure(), Cure::None, "{error:?}");
        match error {
            PrepareError::Disk(DiskError::Unfit(unfit)) => unfit,
            other => panic!("{other:?}"),
        }
    }

    fn asked(&self) -> Vec<String> {
        let jobs = std::mem::take(&mut *self.tool.jobs.lock().unwrap());
        jobs.into_iter()
            .map(|job| job.arguments[0].clone())
            .collect()
    }

    fn files(&self) -> Vec<String> {
        let entries = self.dir.read_dir_utf8().unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// As qemu-img makes it from `disk`.
    fn made(&self, disk: &[u8], driver: &str, options: &str) -> Vec<u8> {
        let (raw, image) = (
            self.dir.with_file_name("raw"),
            self.dir.with_file_name("made"),
        );
        std::fs::write(&raw, disk).unwrap();
        let mut command = Command::new("/usr/bin/qemu-img");
        command.args(["convert", "-f", "raw", "-O", driver]);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        let done = command.args([&raw, &image]).output();
        let done = done.expect("needs `apt install qemu-utils`");
        assert!(done.status.success(), "{done:?}");
        std::fs::read(image).unwrap()
    }
}

fn disk() -> Vec<u8> {
    let mut disk = vec![0; usize::try_from(DISK).unwrap()];
    // Hardly packs.
    let mut state = 1_u32;
    for byte in disk.iter_mut().take(3 << 20).skip(1 << 20) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    }
    disk
}

/// An OVA around a disk.
fn packed(vmdk: &[u8]) -> Vec<u8> {
    let member = |name: &str, bytes: &[u8]| {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        block[148..156].copy_from_slice(b"        ");
        block[156] = b'0';
        block[257..263].copy_from_slice(b"ustar\0");
        block[263..265].copy_from_slice(b"00");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block.extend_from_slice(bytes);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    };
    let mut archive = member("box.ovf", b"<Envelope/>");
    archive.extend(member("box.vmdk", vmdk));
    archive.extend([0; 1024]);
    archive
}

const STREAM: &str = "subformat=streamOptimized";

#[tokio::test]
async fn every_format_becomes_the_disk_that_it_was_made_from() {
    let rig = Rig::new(None);
    let disk = disk();
    let stream = rig.made(&disk, "vmdk", STREAM);
    for (image, format) in [
        (rig.made(&disk, "qcow2", ""), ImageFormat::Qcow2),
        (rig.made(&disk, "vmdk", ""), ImageFormat::Vmdk),
        (packed(&stream), ImageFormat::Ova),
        (stream, ImageFormat::Vmdk),
        (rig.made(&disk, "vpc", ""), ImageFormat::Vhd),
        (
            rig.made(&disk, "vpc", "subformat=fixed,force_size=on"),
            ImageFormat::Vhd,
        ),
        (rig.made(&disk, "vhdx", ""), ImageFormat::Vhdx),
    ] {
        let guest = rig.offer(image, format);
        let base = rig.ready(&guest).await.unwrap();
        assert_eq!(base.format, DiskFormat::Qcow2);
        let raw = rig.dir.with_file_name("back");
        let back = Command::new("/usr/bin/qemu-img")
            .args(["convert", "-f", "qcow2", "-O", "raw"])
            .args([&base.path, &raw])
            .status();
        assert!(back.unwrap().success());
        let back = std::fs::read(&raw).unwrap();
        assert!(back.starts_with(&disk), "{format}");
        // One file of each image stays.
        let own = |name: &String| name.starts_with(&guest.image.to_hex());
        assert_eq!(rig.files().iter().filter(|name| own(name)).count(), 1);
        std::fs::remove_file(base.path).unwrap();
    }
}

#[tokio::test]
async fn many_leases_of_an_image_fetch_and_convert_it_once() {
    let rig = Rig::new(None);
    let guest = rig.offer(rig.made(&disk(), "vmdk", STREAM), ImageFormat::Vmdk);
    let all = futures_util::future::join_all((0..8).map(|_| rig.ready(&guest))).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|base| base.as_ref().unwrap() == first));
    assert_eq!(rig.uplink.offsets.lock().unwrap().len(), 1);
    let conversions = rig.asked().into_iter().filter(|what| what == "convert");
    assert_eq!(conversions.count(), 1);
    assert_eq!(
        rig.files(),
        [format!("{}.vmdk.qcow2", guest.image.to_hex())]
    );
    // A later one with a smaller disk is judged all the same.
    let mut small = guest.clone();
    small.resources.disk_bytes = DISK / 2;
    let error = rig.ready(&small).await.unwrap_err();
    assert!(error.to_string().contains("rent a larger disk"), "{error}");
    assert_eq!(rig.uplink.offsets.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_converted_image_counts_and_goes_like_others_and_never_in_use() {
    // An original of some 2 MiB and its conversion, of 3 MiB with SLACK beside.
    let rig = Rig::new(Some(22 << 20));
    let guest = rig.offer(rig.made(&disk(), "vmdk", ""), ImageFormat::Vmdk);
    let base = rig.ready(&guest).await.unwrap();
    let fill = rig.offer(vec![1; 20 << 20], ImageFormat::Raw);
    let mut fill = GuestSpec { ..fill };
    fill.resources.disk_bytes = 1 << 30;
    rig.images.keep([guest.image].into());
    let error = rig.ready(&fill).await.unwrap_err();
    assert!(
        matches!(error, PrepareError::Image(ImageError::NoRoom { .. })),
        "{error:?}"
    );
    assert!(base.path.exists());
    rig.images.keep([].into());
    rig.ready(&fill).await.unwrap();
    assert!(!base.path.exists());
}

#[tokio::test]
async fn a_conversion_that_finds_no_room_waits_and_leaves_nothing() {
    let rig = Rig::new(Some(4 << 20));
    let guest = rig.offer(rig.made(&disk(), "vmdk", ""), ImageFormat::Vmdk);
    let error = rig.ready(&guest).await.unwrap_err();
    assert_eq!(error.cure(), Cure::Time, "{error:?}");
    assert!(!rig.asked().contains(&"convert".to_owned()));
    assert_eq!(rig.files(), [guest.image.to_hex()]);
}

#[tokio::test]
async fn a_bomb_stops_at_the_size_that_was_measured() {
    let rig = Rig::new(None);
    let noise: Vec<u8> = (0..DISK).map(|at| (at % 255) as u8 + 1).collect();
    let guest = rig.offer(rig.made(&noise, "vmdk", STREAM), ImageFormat::Vmdk);
    assert!(guest.image_bytes < DISK / 10, "it hardly packs");
    // As if it unfolded to more than it had said.
    *rig.tool.file_bytes.lock().unwrap() = Some(1 << 20);
    let error = rig.ready(&guest).await.unwrap_err();
    assert!(
        matches!(
            error,
            PrepareError::Disk(
                DiskError::Overran { limit: "space", .. } | DiskError::Refused { .. }
            )
        ),
        "{error:?}"
    );
    assert_eq!(error.cure(), Cure::None);
    assert_eq!(rig.files(), [guest.image.to_hex()]);
    let jobs = rig.tool.jobs.lock().unwrap();
    let told = jobs.iter().map(|job| job.limits.file_bytes).max();
    assert!(told.unwrap() <= DISK + SLACK + (1 << 20), "{told:?}");
}

#[tokio::test]
async fn a_tool_is_told_of_one_file_to_read_and_one_to_write() {
    let rig = Rig::new(None);
    let guest = rig.offer(rig.made(&disk(), "vmdk", ""), ImageFormat::Vmdk);
    let base = rig.ready(&guest).await.unwrap();
    let jobs = rig.tool.jobs.lock().unwrap();
    assert_eq!(jobs.len(), 2);
    for job in &*jobs {
        assert_eq!(job.reads, rig.dir.join(guest.image.to_hex()));
    }
    assert_eq!(jobs[0].writes, None);
    assert_eq!(
        jobs[1].writes,
        Some(base.path.with_extension("converting").join("disk"))
    );
}

#[tokio::test]
async fn what_an_agent_that_died_was_converting_goes() {
    let rig = Rig::new(None);
    let half = rig.dir.join("ab.vmdk.converting");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("disk"), "half").unwrap();
    ImageStore::new(rig.dir.clone(), None);
    assert_eq!(rig.files(), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_hostile_image_made_of_the_tool_is_not_believed() {
    // A converter that was taken over leaves a reference to the host's files.
    let rig = Rig::new(None);
    let script = rig.dir.with_file_name("qemu-img");
    let body = "#!/bin/sh\n[ \"$1\" = convert ] || exec /usr/bin/qemu-img \"$@\"\n\
                exec /usr/bin/qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw \"$6\" 8M\n";
    std::fs::write(&script, body).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let guest = rig.offer(rig.made(&disk(), "vmdk", ""), ImageFormat::Vmdk);
    let qemu_img = QemuImg::stand_in(script.as_str());
    let ready = super::ready(&rig.images, &qemu_img, &rig.uplink, &guest, &|_| {});
    let error = ready.await.unwrap_err();
    assert!(
        matches!(
            error,
            PrepareError::Disk(DiskError::Unfit(Unfit::BackingFile))
        ),
        "{error:?}"
    );
    assert_eq!(rig.files(), [guest.image.to_hex()]);
}

#[tokio::test]
async fn an_image_that_is_not_what_its_ticket_says_or_not_whole_is_refused_for_good() {
    let rig = Rig::new(None);
    let disk = disk();
    for (driver, options, format) in [
        ("qcow2", "", ImageFormat::Qcow2),
        ("vmdk", "", ImageFormat::Vmdk),
        ("vmdk", STREAM, ImageFormat::Vmdk),
        ("vpc", "", ImageFormat::Vhd),
        ("vhdx", "", ImageFormat::Vhdx),
    ] {
        let mut image = rig.made(&disk, driver, options);
        let other = rig.unfit(vec![7; 1 << 20], format).await;
        assert_eq!(other, Unfit::Unlike(format));
        image.truncate(image.len() * 2 / 3);
        let cut = rig.unfit(image, format).await;
        assert!(matches!(cut, Unfit::CutOff { .. }), "{cut}");
    }
    assert_eq!(rig.asked(), Vec::<String>::new(), "qemu-img saw one");
}
