//! OVA: a tar archive of an OVF package with one VMDK disk.
//!
//! Nothing is unpacked: the disk is read where it lies in the archive. Source:
//! DMTF DSP0243, Open Virtualization Format, §5.1; POSIX.1-2001, pax.

mod manifest;

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};

use tar::EntryType;

use super::{Fault, Unfit};

/// Members of an archive, at most.
const MAX_MEMBERS: usize = 64;
/// The longest manifest, and extended header, in bytes.
const MAX_TEXT: u64 = 64 << 10;

/// A file of the archive.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub name: String,
    pub offset: u64,
    pub bytes: u64,
}

/// Whether a file begins as a tar archive of today does.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// Where the one disk lies.
pub(crate) fn judge(file: &mut (impl Read + Seek)) -> Result<Member, Fault> {
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let members = members(file, length)?;
    let ends = |member: &Member, end: &str| member.name.to_ascii_lowercase().ends_with(end);
    if !members.iter().any(|member| ends(member, ".ovf")) {
        return Err(Unfit::Archive("has no OVF descriptor").into());
    }
    let mut disks = members.iter().filter(|member| ends(member, ".vmdk"));
    let disk = match (disks.next(), disks.next()) {
        (Some(disk), None) => disk.clone(),
        (None, _) => return Err(Unfit::Archive("has no VMDK disk").into()),
        (Some(_), Some(_)) => {
            return Err(Unfit::Archive("has more than one disk, and one is taken").into());
        }
    };
    for list in members.iter().filter(|member| ends(member, ".mf")) {
        manifest::check(file, list, &members)?;
    }
    Ok(disk)
}

fn members<F: Read + Seek>(file: &mut F, length: u64) -> Result<Vec<Member>, Fault> {
    let damaged = |_| Unfit::Archive("is damaged or cut off");
    if !length.is_multiple_of(512) {
        return Err(Unfit::Archive("is damaged or cut off").into());
    }
    let mut archive = tar::Archive::new(file);
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    // Raw: a long name would be read into memory, however long it is.
    for entry in archive.entries_with_seek().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |why| Unfit::Member {
            name: name.chars().take(80).collect(),
            why,
        };
        let (offset, bytes) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(refuse("is longer than the archive").into());
        }
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::XHeader | EntryType::XGlobalHeader => {
                if bytes > MAX_TEXT || !is_harmless(&mut entry)? {
                    return Err(refuse("renames or resizes another").into());
                }
                continue;
            }
            EntryType::Symlink | EntryType::Link => {
                return Err(refuse("is a link").into());
            }
            _ => return Err(refuse("is no plain file").into()),
        }
        if name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with("..") {
            return Err(refuse("has a path instead of a name").into());
        }
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(refuse("is there twice").into());
        }
        if found.len() >= MAX_MEMBERS {
            return Err(Unfit::Archive("has too many members").into());
        }
        found.push(Member {
            name,
            offset,
            bytes,
        });
    }
    Ok(found)
}

/// Whether a pax header says times and owners alone.
fn is_harmless(entry: &mut impl Read) -> Result<bool, Fault> {
    let mut text = Vec::new();
    entry.take(MAX_TEXT).read_to_end(&mut text)?;
    let telling: [&[u8]; 4] = [b" path=", b" linkpath=", b" size=", b" GNU."];
    let says = |key: &&[u8]| text.windows(key.len()).any(|window| window == *key);
    Ok(!telling.iter().any(says))
}
