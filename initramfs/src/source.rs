//! Where the root image lies: on a medium, or as a file in the initramfs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::{fs, io};

use surplus_medium::iso9660::Extent;
use surplus_stage::Stage;

use crate::conf::RootConf;
use crate::failure::{Context as _, Failure, KERNEL};
use crate::loopdev;
use crate::medium;
use crate::modules::Modules;

/// The root image as network boot hands it over.
const FILE: &str = "/root.img";

/// A device that carries the root image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    name: String,
    number: (u32, u32),
    image: Extent,
    /// The medium's site area; `None` where the root came without a medium.
    area: Option<Extent>,
    is_medium: bool,
}

/// Finds the root; waits for its medium as long as it takes.
pub(crate) fn find(
    conf: &RootConf,
    modules: &mut Modules,
    uevents: &OwnedFd,
) -> Result<Source, Failure> {
    if let Ok(metadata) = fs::metadata(FILE) {
        modules.load_by_name("loop")?;
        let name = loopdev::attach(Path::new(FILE)).failed(
            "medium",
            "using the root image in the initramfs",
            KERNEL,
        )?;
        let number =
            device_number(&name).failed("medium", &format!("looking at {name}"), KERNEL)?;
        Stage::new("medium")
            .with("device", "initramfs")
            .with("bytes", metadata.len())
            .announce();
        return Ok(Source::in_memory(name, number, metadata.len()));
    }
    let source = medium::wait(conf, modules, uevents)?;
    Stage::new("medium")
        .with("device", source.device())
        .with("volume", conf.volume_id())
        .announce();
    Ok(source)
}

/// Major and minor number of a block device, by its kernel name.
pub(crate) fn device_number(name: &str) -> io::Result<(u32, u32)> {
    let text = fs::read_to_string(Path::new("/sys/class/block").join(name).join("dev"))?;
    parse_number(&text).ok_or_else(|| io::Error::other("unreadable device number"))
}

fn parse_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Source {
    pub(crate) fn on_medium(
        name: String,
        number: (u32, u32),
        image: Extent,
        area: Option<Extent>,
    ) -> Self {
        Self {
            name,
            number,
            image,
            area,
            is_medium: true,
        }
    }

    fn in_memory(name: String, number: (u32, u32), size: u64) -> Self {
        Self {
            name,
            number,
            image: Extent { offset: 0, size },
            area: None,
            is_medium: false,
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(number: (u32, u32), offset: u64, size: u64) -> Self {
        Self::on_medium("sdb".into(), number, Extent { offset, size }, None)
    }

    /// Kernel name of the device.
    pub(crate) fn device(&self) -> &str {
        &self.name
    }

    pub(crate) fn device_number(&self) -> (u32, u32) {
        self.number
    }

    pub(crate) fn image_offset(&self) -> u64 {
        self.image.offset
    }

    pub(crate) fn image_size(&self) -> u64 {
        self.image.size
    }

    pub(crate) fn area(&self) -> Option<Extent> {
        self.area
    }

    /// Whether the root stays on something that can be pulled out.
    pub(crate) fn is_medium(&self) -> bool {
        self.is_medium
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_read_as_sysfs_writes_them() {
        assert_eq!(parse_number("11:0\n"), Some((11, 0)));
        assert_eq!(parse_number(""), None);
    }
}
