//! What is in an ISO or an EFI program, for people; secrets are masked.

mod efi;

use std::path::Path;

use surplus_medium::iso9660::{SECTOR, read_at};
use surplus_site::Site;

pub use self::efi::{ShowEfiError, ShownEfi, show_efi};
use crate::iso::{Iso, OpenError};

/// What is in an ISO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub volume_id: String,
    /// 64 hexadecimal digits, or why it could not be found.
    pub root_hash: Result<String, String>,
    /// When the ISO was made, as it says itself: `2025-08-09 00:00:00`.
    pub made: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Path and bytes of each file.
    pub files: Vec<(String, u64)>,
    pub site: ShownSite,
}

/// The site file in an ISO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShownSite {
    /// None was written yet.
    Empty,
    /// Its text, secrets masked.
    Site(String),
    /// There is one, and a host would refuse it for this reason.
    Refused(String),
}

/// Looks into an ISO.
pub fn show(path: &Path) -> Result<Shown, OpenError> {
    let mut iso = Iso::open(path)?;
    let files = iso
        .files()?
        .into_iter()
        .map(|(path, extent)| (path, extent.size))
        .collect();
    let site = match &iso.site {
        None => ShownSite::Empty,
        // Written anew from what was understood: nothing that a masked copy of
        // the text could have missed comes through.
        Some(bytes) => match Site::parse_bytes(bytes) {
            Ok(site) => ShownSite::Site(site.to_masked_toml()),
            Err(error) => ShownSite::Refused(error.to_string()),
        },
    };
    Ok(Shown {
        volume_id: iso.volume.id.clone(),
        root_hash: iso.root_hash().map_err(|error| error.to_string()),
        made: made(&mut iso),
        size: iso.size,
        files,
        site,
    })
}

/// The volume's creation date: 16 digits at byte 813 of its descriptor.
fn made(iso: &mut Iso) -> Option<String> {
    let mut digits = [0; 16];
    read_at(&mut iso.file, 16 * SECTOR + 813, &mut digits).ok()?;
    let text = std::str::from_utf8(&digits)
        .ok()
        .filter(|_| digits.iter().all(u8::is_ascii_digit))?;
    let part = |from: usize, to: usize| &text[from..to];
    (part(0, 4) != "0000").then(|| {
        format!(
            "{}-{}-{} {}:{}:{}",
            part(0, 4),
            part(4, 6),
            part(6, 8),
            part(8, 10),
            part(10, 12),
            part(12, 14)
        )
    })
}
