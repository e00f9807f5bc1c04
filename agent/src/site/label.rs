//! Labels of the file systems that people put on sticks and CDs.
//!
//! Read by hand, so that a look needs neither udev's links nor a library: FAT
//! (boot sector, Microsoft's specification, "BS_VolLab", and the root
//! directory's entry is the same text on sticks made by mkfs.fat and Windows) and
//! ISO 9660 (ECMA-119, 8.4.7).

/// Bytes that [`read`] needs from the start of a device.
pub(super) const NEEDED: usize = 34 * 1024;

/// A file system that may carry a site file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    Fat,
    Iso9660,
}

/// The file system and label in a device's first bytes.
pub(super) fn read(start: &[u8]) -> Option<(FileSystem, String)> {
    let text = |from: usize, length: usize| {
        let bytes = start.get(from..from + length)?;
        let text = String::from_utf8_lossy(bytes);
        Some(text.trim_end_matches(['\0', ' ']).to_owned())
    };
    let is = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    if is(0x52, b"FAT32") {
        Some((FileSystem::Fat, text(0x47, 11)?))
    } else if is(0x36, b"FAT1") {
        Some((FileSystem::Fat, text(0x2b, 11)?))
    } else if is(0x8001, b"CD001") {
        Some((FileSystem::Iso9660, text(0x8028, 32)?))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let mut device = vec![0; NEEDED];
        for (at, bytes) in pieces {
            device[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        device
    }

    #[test]
    fn labels_of_the_usual_file_systems_are_read() {
        let labelled = |filesystem| Some((filesystem, "SURPLUS".to_owned()));
        let fat32 = device(&[(0x52, b"FAT32   "), (0x47, b"SURPLUS    ")]);
        assert_eq!(read(&fat32), labelled(FileSystem::Fat));
        let fat16 = device(&[(0x36, b"FAT16   "), (0x2b, b"SURPLUS    ")]);
        assert_eq!(read(&fat16), labelled(FileSystem::Fat));
        let iso = device(&[
            (0x8000, b"\x01CD001"),
            (0x8028, b"SURPLUS                         "),
        ]);
        assert_eq!(read(&iso), labelled(FileSystem::Iso9660));
    }

    #[test]
    fn other_devices_have_no_label() {
        assert_eq!(read(&device(&[])), None);
        assert_eq!(read(&[]), None);
        assert_eq!(read(b"FAT"), None);
    }
}
