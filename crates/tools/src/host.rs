//! What the building machine itself has to have: the packages that make the
//! tools tree, and those that the Rust build links against.
//!
//! What always holds: nothing is installed without a line that says what and
//! why, and nothing is installed twice.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::ToolsError;

/// A package of this machine, how it is recognised, and why it is needed.
struct Need {
    package: &'static str,
    found_at: &'static [&'static str],
    why: &'static str,
}

/// Packages for one purpose.
pub(crate) struct Needs(&'static [Need]);

/// What every build needs.
pub(crate) const BUILD: Needs = Needs(&[
    Need {
        package: "mmdebstrap",
        found_at: &["/usr/bin/mmdebstrap"],
        why: "makes the tools tree",
    },
    Need {
        package: "debian-archive-keyring",
        found_at: &["/usr/share/keyrings/debian-archive-keyring.gpg"],
        why: "verifies Debian's packages",
    },
    Need {
        package: "bubblewrap",
        found_at: &["/usr/bin/bwrap"],
        why: "runs programs in the tools tree",
    },
    Need {
        package: "libvirt-dev",
        found_at: &["/usr/include/libvirt/libvirt.h"],
        why: "the agent links against libvirt",
    },
    Need {
        package: "pkg-config",
        found_at: &["/usr/bin/pkg-config", "/usr/bin/pkgconf"],
        why: "finds libvirt for the build",
    },
    Need {
        package: "build-essential",
        found_at: &["/usr/bin/cc"],
        why: "compiles what Rust crates bring in C",
    },
]);

/// Peers that the tests hold our formats and protocols against.
pub(crate) const TESTS: Needs = Needs(&[
    Need {
        package: "curl",
        found_at: &["/usr/bin/curl"],
        why: "enrols over EST as others do",
    },
    Need {
        package: "openssl",
        found_at: &["/usr/bin/openssl"],
        why: "makes certificate requests for curl",
    },
    Need {
        package: "strongswan-pki",
        found_at: &["/usr/bin/pki"],
        why: "enrols over EST as others do",
    },
    Need {
        package: "libstrongswan-standard-plugins",
        found_at: &["/usr/lib/ipsec/plugins/libstrongswan-openssl.so"],
        why: "elliptic curves for strongswan-pki",
    },
    Need {
        package: "xorriso",
        found_at: &["/usr/bin/xorriso"],
        why: "makes the ISOs that our reader is tested on",
    },
    Need {
        package: "cryptsetup-bin",
        found_at: &["/usr/sbin/veritysetup"],
        why: "makes the hash trees that ours are compared with",
    },
    Need {
        package: "cpio",
        found_at: &["/usr/bin/cpio", "/bin/cpio"],
        why: "reads the archives that ours writes",
    },
    Need {
        package: "qemu-utils",
        found_at: &["/usr/bin/qemu-img"],
        why: "makes the disks that the agent judges and grows",
    },
    Need {
        package: "fdisk",
        found_at: &["/usr/sbin/sfdisk", "/sbin/sfdisk"],
        why: "partitions the disks that the agent takes",
    },
    Need {
        package: "e2fsprogs",
        found_at: &["/usr/sbin/mke2fs", "/sbin/mke2fs"],
        why: "makes file systems that the agent must not take for blank disks",
    },
    Need {
        package: "xfsprogs",
        found_at: &["/usr/sbin/mkfs.xfs", "/sbin/mkfs.xfs"],
        why: "makes file systems that the agent must not take for blank disks",
    },
    Need {
        package: "kea-dhcp4-server",
        found_at: &["/usr/sbin/kea-dhcp4"],
        why: "takes the settings that we give for it",
    },
    Need {
        package: "iproute2",
        found_at: &["/usr/sbin/ip", "/sbin/ip"],
        why: "lays the cable between DHCP servers and a test",
    },
    Need {
        package: "sbsigntool",
        found_at: &["/usr/bin/sbsign"],
        why: "signs and checks the boot images that ours are compared with",
    },
]);

/// Whether this process runs as root.
pub(crate) fn is_root() -> Result<bool, ToolsError> {
    let path = Path::new("/proc/self");
    let entry = path.metadata();
    let entry = entry.map_err(|source| ToolsError::io("look at", path, source))?;
    Ok(std::os::unix::fs::MetadataExt::uid(&entry) == 0)
}

/// A command that runs with the rights of root.
pub(crate) fn as_root(program: &str, root: bool) -> Command {
    if root {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    // The mirror and proxy settings must survive sudo's clean environment.
    command.arg("--preserve-env").arg(program);
    command
}

/// Installs by apt the packages of `needs` that are not there.
pub(crate) fn install_missing(
    needs: &Needs,
    root: bool,
    progress: &dyn Fn(&str),
) -> Result<(), ToolsError> {
    let missing: Vec<&Need> = needs
        .0
        .iter()
        .filter(|need| !need.found_at.iter().any(|path| Path::new(path).exists()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        progress(&format!(
            "installing package {} ({})",
            need.package, need.why
        ));
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(ToolsError::NoApt {
            missing: packages.join(" "),
        });
    }
    // A machine's package lists may be old or absent: try, refresh, try again.
    if apt(root, &install(&packages))? {
        return Ok(());
    }
    progress("refreshing the package lists (the first attempt failed)");
    apt(root, &["update"])?;
    if apt(root, &install(&packages))? {
        return Ok(());
    }
    Err(ToolsError::Apt {
        packages: packages.join(" "),
    })
}

fn install<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(packages);
    args
}

fn apt(root: bool, args: &[&str]) -> Result<bool, ToolsError> {
    let status = as_root("apt-get", root)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .arg("-qq")
        .args(args)
        .status()
        .map_err(|source| ToolsError::Start {
            program: "apt-get".into(),
            source,
        })?;
    Ok(status.success())
}

/// Where AppArmor keeps its profiles, and what ours says.
const PROFILE: &str = "/etc/apparmor.d/surplus-bwrap";
const PROFILE_TEXT: &str = "abi <abi/4.0>,\n\
    # Lets bubblewrap make user namespaces, which Ubuntu restricts by default.\n\
    profile surplus-bwrap /usr/bin/bwrap flags=(unconfined) {\n  userns,\n}\n";

/// Makes sure that bubblewrap works without root. Ubuntu 24.04 forbids it by
/// AppArmor; there a profile that allows it is added, by sudo.
pub(crate) fn allow_sandbox(progress: &dyn Fn(&str)) -> Result<(), ToolsError> {
    if sandbox_works()? {
        return Ok(());
    }
    if Path::new("/etc/apparmor.d/abi/4.0").exists() && !Path::new(PROFILE).exists() {
        progress(&format!(
            "adding {PROFILE}, so that bubblewrap may make namespaces without root"
        ));
        let script =
            format!("cat >{PROFILE} <<'END'\n{PROFILE_TEXT}END\napparmor_parser -r {PROFILE}");
        as_root("sh", false)
            .args(["-c", &script])
            .status()
            .map_err(|source| ToolsError::Start {
                program: "sudo".into(),
                source,
            })?;
        if sandbox_works()? {
            return Ok(());
        }
    }
    Err(ToolsError::Sandbox)
}

fn sandbox_works() -> Result<bool, ToolsError> {
    let status = Command::new("bwrap")
        .args(["--ro-bind", "/", "/", "/bin/true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|source| ToolsError::Start {
            program: "bwrap".into(),
            source,
        })?;
    Ok(status.success())
}
