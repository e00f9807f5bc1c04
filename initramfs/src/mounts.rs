//! The mounts that the first stage makes.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::failure::{Context as _, Failure, KERNEL, MEDIUM};

/// Where the root is mounted until the switch.
pub(crate) const ROOT: &str = "/sysroot";
/// Mount points that move into the root, in the order of their mounting.
pub(crate) const KERNEL_FILESYSTEMS: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Mounts what the kernel offers: processes, devices, and memory for `/run`.
pub(crate) fn mount_kernel_filesystems() -> Result<(), Failure> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    for (kind, target, flags, options) in [
        ("proc", "/proc", quiet, None),
        ("sysfs", "/sys", quiet, None),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, Some("mode=0755")),
        (
            "tmpfs",
            "/run",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=0755,size=20%"),
        ),
    ] {
        match mount(Some(kind), target, Some(kind), flags, options) {
            // A kernel built to do it mounts /dev by itself.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => Err(error).failed("root", &format!("mounting {target}"), KERNEL)?,
        }
    }
    Ok(())
}

/// Mounts the verified device, read-only.
pub(crate) fn mount_root(node: &Path) -> Result<(), Failure> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some(node), ROOT, Some("squashfs"), flags, None::<&str>).failed(
        "root",
        &format!("mounting the root from {}", node.display()),
        MEDIUM,
    )
}
