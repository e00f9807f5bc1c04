//! What the booted system is told: `/run/surplus`.
//!
//! `boot.conf` says in `key=value` lines how the host was booted. The site file
//! of the medium's area goes to `site/area.toml`, readable by root alone since
//! it may hold the join token. The area lies outside verity: its text is passed
//! on only if its checksum is right, and the agent still reads it as untrusted.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use surplus_medium::area;
use surplus_medium::iso9660::{self, Extent, SECTOR};
use surplus_stage::Stage;

use crate::conf::RootConf;
use crate::failure::{Context as _, Failure, KERNEL};
use crate::net::process::Report;
use crate::source::Source;

const DIRECTORY: &str = "/run/surplus";

/// What to do about a medium without a site file.
const CUSTOMISE: &str = "write the site file with `surplus-image customize --site site.toml IN.iso OUT.iso`, \
     unless this host has it from elsewhere";

/// Writes all of `/run/surplus`.
pub(crate) fn write(conf: &RootConf, source: &Source) -> Result<(), Failure> {
    write_into(Path::new(DIRECTORY), conf, source).failed("root", "writing /run/surplus", KERNEL)
}

fn write_into(directory: &Path, conf: &RootConf, source: &Source) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(directory)?;
    DirBuilder::new()
        .mode(0o700)
        .create(directory.join("site"))?;
    fs::write(directory.join("boot.conf"), boot_conf(conf, source))?;
    let Some(extent) = source.area() else {
        if source.is_medium() {
            site_missing("the medium has no site area (/site.bin)").announce();
        }
        return Ok(());
    };
    let device = File::open(Path::new("/dev").join(source.device()));
    match device
        .map_err(|error| error.to_string())
        .and_then(|device| read_area(device, extent))
    {
        Ok(Some(text)) => write_secret(&directory.join("site/area.toml"), &text),
        Ok(None) => {
            site_missing("the medium's site area is empty").announce();
            Ok(())
        }
        Err(why) => {
            site_missing(format!("reading the medium's site area: {why}")).announce();
            Ok(())
        }
    }
}

/// No reason to stop: the agent looks in other places too, and says so.
fn site_missing(why: impl std::fmt::Display) -> Stage {
    Stage::new("site").failed(why, CUSTOMISE)
}

fn boot_conf(conf: &RootConf, source: &Source) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "source={}", source.kind());
    if let Some(Report {
        url,
        interface,
        mac,
    }) = source.report()
    {
        let _ = writeln!(text, "url={url}\ninterface={interface}\nmac={mac}");
    }
    let _ = writeln!(text, "device={}", source.device());
    let _ = writeln!(text, "volume={}", conf.volume_id());
    let _ = writeln!(text, "root_hash={}", conf.hash);
    let _ = writeln!(text, "root_bytes={}", source.image_size());
    text
}

fn read_area(
    mut medium: impl io::Read + io::Seek,
    extent: Extent,
) -> Result<Option<Vec<u8>>, String> {
    if extent.size != area::SIZE as u64 || !extent.offset.is_multiple_of(SECTOR) {
        return Err(format!(
            "it has {} bytes instead of {}",
            extent.size,
            area::SIZE
        ));
    }
    let mut bytes = vec![0; area::SIZE];
    iso9660::read_at(&mut medium, extent.offset, &mut bytes).map_err(|error| error.to_string())?;
    let payload = area::decode(&bytes).map_err(|error| error.to_string())?;
    Ok(payload.map(<[u8]>::to_vec))
}

fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn medium_with(area: &[u8]) -> (Cursor<Vec<u8>>, Extent) {
        let mut bytes = vec![0; 4096];
        bytes.extend(area);
        (
            Cursor::new(bytes),
            Extent {
                offset: 4096,
                size: area.len() as u64,
            },
        )
    }

    #[test]
    fn only_an_area_with_the_right_checksum_is_passed_on() {
        let (medium, extent) = medium_with(&area::encode(b"version = 1").unwrap());
        assert_eq!(read_area(medium, extent), Ok(Some(b"version = 1".to_vec())));
        let (medium, extent) = medium_with(&area::empty());
        assert_eq!(read_area(medium, extent), Ok(None));
        let mut damaged = area::encode(b"version = 1").unwrap();
        damaged[70] ^= 1;
        let (medium, extent) = medium_with(&damaged);
        assert!(
            read_area(medium, extent)
                .unwrap_err()
                .contains("checksum is wrong")
        );
        let (medium, extent) = medium_with(b"short");
        assert!(read_area(medium, extent).unwrap_err().contains("5 bytes"));
    }

    #[test]
    fn the_site_file_is_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("area.toml");
        write_secret(&path, b"token").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn the_booted_system_learns_how_it_was_booted() {
        let conf = RootConf {
            hash: "ab".repeat(32),
            data_blocks: 1,
            hash_offset: 4096,
        };
        let text = boot_conf(&conf, &Source::for_tests((8, 16), 2048, 8192));
        assert!(
            text.starts_with("source=medium\ndevice=sdb\nvolume=SURPLUS_ABAB"),
            "{text}"
        );
        assert!(text.ends_with("root_bytes=8192\n"), "{text}");
        let report = Report {
            url: "http://a/root.img".into(),
            interface: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
        };
        let fetched = Source::in_memory("loop0".into(), (7, 0), 8192, Some(report));
        let text = boot_conf(&conf, &fetched);
        assert!(
            text.starts_with(
                "source=network\nurl=http://a/root.img\ninterface=eth0\nmac=02:00:00:00:00:01\n\
                 device=loop0\n"
            ),
            "{text}"
        );
    }
}
