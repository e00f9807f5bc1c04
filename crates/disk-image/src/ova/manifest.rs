//! The manifest: what each member's digest shall be.

use std::io::{Read, Seek, SeekFrom};

use sha1::Digest as _;

use super::{MAX_TEXT, Member};
use crate::{Fault, Unfit};

/// Checks each line, `SHA256(disk.vmdk)= 0123…`.
pub(super) fn check(
    file: &mut (impl Read + Seek),
    list: &Member,
    members: &[Member],
) -> Result<(), Fault> {
    let malformed = || Unfit::Archive("has a manifest that cannot be read");
    if list.bytes > MAX_TEXT {
        return Err(malformed().into());
    }
    file.seek(SeekFrom::Start(list.offset))?;
    let mut text = String::new();
    let read = file.by_ref().take(list.bytes).read_to_string(&mut text);
    read.map_err(|_| malformed())?;
    let mut checked = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (algorithm, rest) = line.split_once('(').ok_or_else(malformed)?;
        let (name, digest) = rest.rsplit_once(")=").ok_or_else(malformed)?;
        let refuse = |why| Unfit::Member {
            name: name.chars().take(80).collect(),
            why,
        };
        let member = members.iter().find(|member| member.name == name);
        let member = member.ok_or_else(|| refuse("is in the manifest and not there"))?;
        // Each is read once, however often the manifest names it.
        if !checked.insert(name) {
            return Err(refuse("is in the manifest twice").into());
        }
        let found = match algorithm.trim() {
            "SHA1" => hash(file, member, sha1::Sha1::new(), |hash, bytes| {
                hash.update(bytes);
            })?
            .finalize()
            .to_vec(),
            "SHA256" => hash(file, member, sha2::Sha256::default(), |hash, bytes| {
                sha2::Digest::update(hash, bytes);
            })
            .map(|hash| sha2::Digest::finalize(hash).to_vec())?,
            _ => return Err(Unfit::Archive("has a manifest of other than SHA1 and SHA256").into()),
        };
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        if !found.eq_ignore_ascii_case(digest.trim()) {
            return Err(refuse("is not what the manifest says").into());
        }
    }
    Ok(())
}

fn hash<H>(
    file: &mut (impl Read + Seek),
    member: &Member,
    mut hash: H,
    update: impl Fn(&mut H, &[u8]),
) -> Result<H, Fault> {
    file.seek(SeekFrom::Start(member.offset))?;
    let mut left = file.by_ref().take(member.bytes);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = left.read(&mut buffer)?;
        if count == 0 {
            return Ok(hash);
        }
        update(&mut hash, &buffer[..count]);
    }
}
