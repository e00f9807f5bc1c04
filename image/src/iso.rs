//! Opening an ISO of ours: the volume is known by its id, the site area by its
//! signature and checksum, confirmed by the ISO's own directory.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use surplus_medium::area::{self, AreaError};
use surplus_medium::iso9660::{self, Entry, Extent, IsoError, Volume};

/// Where the root image and the site area lie in our ISOs.
pub(crate) const ROOT: &str = "/root.img";
const AREA: &str = "/site.bin";

const VOLUME: &str = "SURPLUS_";

/// An ISO that is ours and complete.
#[derive(Debug)]
pub struct Iso {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) volume: Volume,
    pub(crate) root: Extent,
    /// Where the site area lies.
    pub(crate) area: Extent,
    /// The site file in it, if any.
    pub(crate) site: Option<Vec<u8>>,
    /// Bytes of the whole file.
    pub(crate) size: u64,
}

/// Why a file is not an ISO of ours that can be worked with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no ISO image", path.display())]
    NotIso { path: PathBuf },
    #[error("{} is an ISO image, but not one of Surplus: its volume is {volume:?}", path.display())]
    Foreign { path: PathBuf, volume: String },
    #[error(
        "{} is truncated: it has {size} bytes, and its content goes up to {expected}; \
         download or build it again", path.display()
    )]
    Truncated {
        path: PathBuf,
        size: u64,
        expected: u64,
    },
    #[error("{} is damaged: {source}; download or build it again", path.display())]
    Damaged { path: PathBuf, source: IsoError },
    #[error("{} has no site area where its directory says; it is damaged, build it again", path.display())]
    NoArea { path: PathBuf },
    #[error("{}: {source}; take an undamaged copy of the ISO", path.display())]
    Area { path: PathBuf, source: AreaError },
}

impl Iso {
    /// Opens an ISO for reading and finds its parts. The content of files is
    /// not checked; that is [`crate::verify`]'s.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let path = path.to_owned();
        let read = |source| OpenError::Read {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let damaged = |source: IsoError| match source {
            IsoError::NotIso => OpenError::NotIso { path: path.clone() },
            source => OpenError::Damaged {
                path: path.clone(),
                source,
            },
        };
        let volume = iso9660::volume(&mut file).map_err(damaged)?;
        if !volume.id.starts_with(VOLUME) {
            return Err(OpenError::Foreign {
                path,
                volume: volume.id,
            });
        }
        // Before anything else is looked for: it may lie in what is missing.
        if size < volume.size {
            return Err(OpenError::Truncated {
                path,
                size,
                expected: volume.size,
            });
        }
        let root = iso9660::file(&mut file, &volume, ROOT).map_err(damaged)?;
        let entry = iso9660::file(&mut file, &volume, AREA).map_err(damaged)?;
        let expected = root.end().max(entry.end());
        if size < expected {
            return Err(OpenError::Truncated {
                path,
                size,
                expected,
            });
        }
        let site = read_area(&path, &mut file, entry)?;
        Ok(Self {
            path,
            file,
            volume,
            root,
            area: entry,
            site,
            size,
        })
    }

    /// All files with their paths and extents, in the order of the directories.
    pub fn files(&mut self) -> Result<Vec<(String, Extent)>, OpenError> {
        let mut files = Vec::new();
        let damaged = |source| OpenError::Damaged {
            path: self.path.clone(),
            source,
        };
        let top = iso9660::entry(&mut self.file, &self.volume, "/").map_err(damaged)?;
        let mut open: Vec<(String, Entry)> = vec![(String::new(), top)];
        // A directory that contains itself would go on for ever.
        let mut left = 1000;
        while let Some((parent, directory)) = open.pop() {
            for entry in iso9660::list(&mut self.file, &directory).map_err(damaged)? {
                let path = format!("{parent}/{}", entry.name.to_ascii_lowercase());
                if !entry.is_directory {
                    files.push((path, entry.extent));
                } else if left > 0 {
                    left -= 1;
                    open.push((path, entry));
                }
            }
        }
        Ok(files)
    }

    /// The root hash as the kernel command lines on the ISO have it.
    pub fn root_hash(&mut self) -> Result<String, crate::VerityError> {
        let root = self.root;
        let hash = crate::verity::find_root_hash(&mut self.file, self.size, root)?;
        let named = self.volume.id[VOLUME.len()..].to_ascii_lowercase();
        if named.is_empty() || !hash.starts_with(&named) {
            return Err(crate::VerityError::OtherVolume {
                hash,
                volume: self.volume.id.clone(),
            });
        }
        Ok(hash)
    }
}

/// The payload of the area, which must be where signature, checksum and
/// directory all agree that it is.
fn read_area(path: &Path, file: &mut File, entry: Extent) -> Result<Option<Vec<u8>>, OpenError> {
    let read = |source| OpenError::Read {
        path: path.to_owned(),
        source,
    };
    let no_area = || OpenError::NoArea {
        path: path.to_owned(),
    };
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let signed = area::find(BufReader::new(&mut *file)).map_err(read)?;
    if !signed.contains(&entry.offset) || entry.size != area::SIZE as u64 {
        return Err(no_area());
    }
    let mut bytes = vec![0; area::SIZE];
    file.seek(SeekFrom::Start(entry.offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(read)?;
    let payload = area::decode(&bytes).map_err(|source| OpenError::Area {
        path: path.to_owned(),
        source,
    })?;
    Ok(payload.map(<[u8]>::to_vec))
}
