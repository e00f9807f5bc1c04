//! The switch to the root: the kernel's file systems move along, the initramfs
//! goes, systemd takes over as process 1.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execv};

use crate::failure::{Context as _, Failure, MEDIUM};
use crate::mounts::KERNEL_FILESYSTEMS;
use crate::verity;
use crate::watcher;

const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Replaces this program by the root's; returns only on failure.
///
/// `arguments` are what the kernel gave us from its command line for `/init`;
/// they were meant for whoever is process 1.
pub(crate) fn switch(root: &Path, arguments: &[String]) -> Result<Infallible, Failure> {
    let read = read_ahead(root).failed("root", "reading systemd from the root", MEDIUM);
    if read.is_err() && verity::is_corrupted() {
        watcher::leave_it_the_word();
    }
    read?;
    for source in KERNEL_FILESYSTEMS {
        let target = root.join(&source[1..]);
        mount(
            Some(source),
            &target,
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .failed("root", &format!("moving {source} into the root"), MEDIUM)?;
    }
    // Modules and firmware are the bulk of the initramfs, and its memory is never
    // swapped; the kernel looks for firmware in the root from now on. The mount
    // points stay: the watcher's own mounts hang on them.
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_dir_all("/lib");
    enter(root).failed("root", "entering the root", MEDIUM)?;
    let outcome = exec(arguments).failed("root", &format!("starting {SYSTEMD}"), MEDIUM);
    if outcome.is_err() && verity::is_corrupted() {
        watcher::leave_it_the_word();
    }
    outcome
}

/// Reads what systemd consists of. A bad block in it would kill process 1, and
/// the kernel panics then before the watcher can say why; met here, it is an
/// error like any other. What is read stays in memory, for systemd to use.
fn read_ahead(root: &Path) -> io::Result<()> {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut files = vec![root.join(&SYSTEMD[1..])];
    for directory in [libraries.join("systemd"), libraries.clone()] {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let needed = [
                "ld-linux",
                "libc.so.",
                "libsystemd-core",
                "libsystemd-shared",
            ];
            if needed.iter().any(|start| name.starts_with(start)) {
                files.push(path);
            }
        }
    }
    for file in files {
        io::copy(&mut File::open(file)?, &mut io::sink())?;
    }
    Ok(())
}

fn enter(root: &Path) -> nix::Result<()> {
    chdir(root)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")
}

fn exec(arguments: &[String]) -> nix::Result<Infallible> {
    let rest = arguments.iter().skip(1).map(String::as_str);
    let arguments: Vec<_> = std::iter::once(SYSTEMD)
        .chain(rest)
        .filter_map(|word| CString::new(word).ok())
        .collect();
    let program = CString::new(SYSTEMD).unwrap_or_default();
    execv(&program, &arguments)
}
