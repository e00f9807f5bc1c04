//! Writing the site into a copy of an artefact, in place: the site file into an
//! ISO's reserved area, its address into a unified kernel image.

mod kernel;

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use surplus_medium::area::{self, AreaError};
use surplus_site::{PointerError, Site, SiteError};

pub use self::kernel::{CustomizedKernel, SiteAddress, customize_kernel};
use crate::efi::EfiError;
use crate::iso::{Iso, OpenError};
use crate::signing::SignError;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customized {
    /// Whether the input had a site file already, which the output has not.
    pub replaced: bool,
    /// Bytes of the site file.
    pub site_size: usize,
    /// Whether a join token is in it: then the output is a secret itself.
    pub has_token: bool,
}

/// Why no customised copy was made. The input is as it was, and the output too.
#[derive(Debug, thiserror::Error)]
pub enum CustomizeError {
    #[error("reading the site file {}", path.display())]
    ReadSite { path: PathBuf, source: io::Error },
    #[error("the site file {}: {source}", path.display())]
    Site { path: PathBuf, source: SiteError },
    #[error("the site file {}: {source}; shorten it, comments first", path.display())]
    Area { path: PathBuf, source: AreaError },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "{} is input and output at once; give the output another name, the input stays as it is",
        path.display()
    )]
    SameFile { path: PathBuf },
    #[error("writing {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{0}; {next}", next = .0.next())]
    SiteAddress(PointerError),
    #[error(
        "{url} is no address that a host could fetch the root image from; write \
         http://HOST[:PORT]/root.img (it is verified by its hash)"
    )]
    RootAddress { url: String },
    #[error("reading {}", path.display())]
    ReadKernel { path: PathBuf, source: io::Error },
    #[error("{}", path.display())]
    Kernel { path: PathBuf, source: EfiError },
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Copies `input` to `output` with the site file in its reserved area.
///
/// The site file is checked first. `output` is replaced as a whole; it is
/// readable by its owner alone, since a token may be in it.
pub fn customize(site: &Path, input: &Path, output: &Path) -> Result<Customized, CustomizeError> {
    let text = fs::read(site).map_err(|source| CustomizeError::ReadSite {
        path: site.to_owned(),
        source,
    })?;
    // Size first: what cannot be a site file need not be explained line by line.
    let area = area::encode(&text).map_err(|source| CustomizeError::Area {
        path: site.to_owned(),
        source,
    })?;
    let parsed = Site::parse_bytes(&text).map_err(|source| CustomizeError::Site {
        path: site.to_owned(),
        source,
    })?;

    let mut iso = Iso::open(input)?;
    if is_same_file(input, output) {
        return Err(CustomizeError::SameFile {
            path: input.to_owned(),
        });
    }
    write(&mut iso, &area, output).map_err(|source| CustomizeError::Write {
        path: output.to_owned(),
        source,
    })?;
    Ok(Customized {
        replaced: iso.site.is_some(),
        site_size: text.len(),
        has_token: parsed.marketplace.token.is_some(),
    })
}

fn write(iso: &mut Iso, area: &[u8], output: &Path) -> io::Result<()> {
    replace(output, PRIVATE, |part| {
        iso.file.seek(SeekFrom::Start(0))?;
        let copied = io::copy(&mut iso.file, part)?;
        if copied != iso.size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the input changed while it was read",
            ));
        }
        part.seek(SeekFrom::Start(iso.area.offset))?;
        part.write_all(area)
    })
}

/// A token may be in it.
const PRIVATE: u32 = 0o600;

/// Writes beside the output, and renames when all of it is on the disk; a
/// failure on the way removes the half-made file.
fn replace(
    output: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let directory = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut part = tempfile::Builder::new()
        .prefix(".surplus-image-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)?;
    fill(part.as_file_mut())?;
    part.as_file().sync_all()?;
    part.persist(output)?;
    Ok(())
}

/// Also by another name: a link, or another way to the same directory.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| {
        fs::metadata(path)
            .map(|entry| (entry.dev(), entry.ino()))
            .ok()
    };
    identity(one).is_some() && identity(one) == identity(other)
}

#[cfg(test)]
mod tests;
