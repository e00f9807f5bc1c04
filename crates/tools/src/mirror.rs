//! Which Debian mirror packages come from.
//!
//! `SURPLUS_MIRROR` decides where it is set (a pinned snapshot, for example);
//! else a Debian machine's own apt setting; else the standard name.

use std::fs;
use std::path::Path;

/// The release that the appliance and the tools tree are made of.
pub(crate) const RELEASE: &str = "trixie";

const STANDARD: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";

/// A Debian mirror: its archive and its security archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// URL of the main archive.
    pub main: String,
    /// URL of the security archive.
    pub security: String,
}

impl Mirror {
    /// The mirror names that work everywhere.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            main: STANDARD.into(),
            security: SECURITY.into(),
        }
    }

    /// The mirror that this machine's environment or its apt setting names.
    pub(crate) fn of_this_machine() -> Self {
        if let Ok(main) = std::env::var("SURPLUS_MIRROR") {
            return Self::named(&main);
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if !release.lines().any(|line| line == "ID=debian") {
            return Self::standard();
        }
        Self::among(&apt_urls(Path::new("/etc/apt")))
    }

    /// The mirror at `main`, with the security archive beside it.
    fn named(main: &str) -> Self {
        let main = main.trim_end_matches('/');
        let security = match main.rsplit_once("/debian/") {
            // A snapshot: …/archive/debian/<time>.
            Some((base, time)) => format!("{base}/debian-security/{time}"),
            None => format!("{main}-security"),
        };
        Self {
            main: main.into(),
            security,
        }
    }

    /// Picks Debian's own archives out of all that apt uses.
    fn among(urls: &[String]) -> Self {
        let pick = |suffix: &str, otherwise: &str| {
            let found = urls.iter().find(|url| url.ends_with(suffix));
            found.map_or_else(|| otherwise.to_owned(), Clone::clone)
        };
        Self {
            main: pick("/debian", STANDARD),
            security: pick("/debian-security", SECURITY),
        }
    }

    /// apt's one-line sources of the release on this mirror.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        let Self { main, security } = self;
        vec![
            format!("deb {main} {RELEASE} main non-free-firmware"),
            format!("deb {main} {RELEASE}-updates main non-free-firmware"),
            format!("deb {security} {RELEASE}-security main non-free-firmware"),
        ]
    }
}

/// All HTTP URLs in apt's source lists, in either format.
fn apt_urls(etc_apt: &Path) -> Vec<String> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(parts) = fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(parts.flatten().map(|part| part.path()));
    }
    files.sort();
    let mut urls = Vec::new();
    for text in files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
    {
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| line.starts_with("deb ") || line.starts_with("URIs:")) {
            let words = line
                .split_whitespace()
                .filter(|word| word.starts_with("http"));
            urls.extend(words.map(|url| url.trim_end_matches('/').to_owned()));
        }
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_mirror_is_taken_and_strangers_archives_are_not() {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(
            etc.path().join("sources.list"),
            "# deb http://old.example/debian bookworm main\n\
             deb [arch=amd64] http://near.example/debian/ bookworm main\n",
        )
        .unwrap();
        fs::write(
            parts.join("other.sources"),
            "Types: deb\nURIs: https://packages.example/tool\nSuites: nodistro\n",
        )
        .unwrap();
        let mirror = Mirror::among(&apt_urls(etc.path()));
        assert_eq!(mirror.main, "http://near.example/debian");
        assert_eq!(mirror.security, SECURITY);
    }

    #[test]
    fn a_pinned_snapshot_brings_its_security_archive_of_the_same_moment() {
        let mirror = Mirror::named("https://snap.example/archive/debian/20260101T000000Z/");
        assert_eq!(
            mirror.security,
            "https://snap.example/archive/debian-security/20260101T000000Z"
        );
        let plain = Mirror::named("http://near.example/debian");
        assert_eq!(plain.security, "http://near.example/debian-security");
    }
}
