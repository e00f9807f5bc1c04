//! Finding a site file whose marketplace can be used: which places are asked,
//! in which order, and what the console says of them.

use std::sync::Arc;
use std::time::Duration;

use surplus_protocol::inventory::BootSource;
use surplus_site::{Pointer, Site};
use surplus_stage::Stage;

use super::World;
use crate::backoff::Backoff;
use crate::clock::{self, Kernel};
use crate::hub::{Road, in_one_line};
use crate::inventory;
use crate::network::look::KernelLinks;
use crate::network::{self, Wanted};
use crate::site::fetch::Fetch;
use crate::site::medium::Media;
use crate::site::{FileSource, Found, KEPT_NAME, Search, Source};
use crate::sysroot::SysRoot;

/// Where systemd keeps the credentials that came from outside: SMBIOS, the
/// hypervisor, the boot loader (systemd-creds(1)).
const SYSTEM_CREDENTIALS: &str = "/run/credentials/@system";

const COMMAND_LINE: &str = "/proc/cmdline";

/// How soon, and how seldom at most (with as much again by chance), a host that
/// is not let in asks whether its site file was changed.
const ANOTHER: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(150)];

/// A site file whose marketplace can be used.
pub(super) struct Directions {
    pub(super) site: Site,
    pub(super) road: Road,
    /// The network was needed to find it, and is as that left it.
    pub(super) up: bool,
    /// The file, where it came over the network in this boot.
    fetched: Option<Vec<u8>>,
}

/// Looks until there is a site file that can be used.
pub(super) async fn find_site(world: &World) -> Directions {
    world
        .board
        .update(|status| status.state = "looking for a site file".to_owned());
    let consoles = &*world.settings.consoles;
    let mut backoff = Backoff::quick();
    loop {
        let found = search(world).await;
        match Road::new(&found.site.marketplace) {
            Ok(road) => return directions(world, found, road),
            Err(error) => {
                let next = "compare the site file with what `surplus site-file` prints; the host goes on looking";
                let stage = Stage::new("site").with("source", &found.source);
                consoles.say(stage.failed(in_one_line(&error), next));
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

/// Ends when the network has another site file than the one in use; never where
/// that came from elsewhere.
pub(super) async fn another_site(world: &World, in_use: &Directions) -> Directions {
    let (pointer, _) = pointed_at(&world.settings.root);
    let (Some(known), Some(pointer)) = (&in_use.fetched, pointer) else {
        return std::future::pending().await;
    };
    let [first, longest] = ANOTHER;
    let fetch = fetch(world, pointer);
    let (found, road) = fetch.another(known, Backoff::new(first, longest)).await;
    Directions {
        // It may have been left half configured.
        up: false,
        ..directions(world, found, road)
    }
}

/// Notes what was found, and keeps it for the next agent if it was fetched.
fn directions(world: &World, found: Found, road: Road) -> Directions {
    let root = &world.settings.root;
    world.board.update(|status| {
        status.site = found.site.place.name.clone();
        status.site_source = Some(found.source.clone());
    });
    if let Some(fetched) = &found.fetched
        && let Err(error) = fetched.keep(root)
    {
        tracing::warn!(%error, "the site file is not kept for the next agent");
    }
    Directions {
        road: road.by_any_card(root.clone()),
        up: found.fetched.is_some(),
        fetched: over_the_network(root, &found),
        site: found.site,
    }
}

/// The site file, where this agent or an earlier one of this boot fetched it.
fn over_the_network(root: &SysRoot, found: &Found) -> Option<Vec<u8>> {
    match &found.fetched {
        Some(fetched) => Some(fetched.bytes.clone()),
        None if found.source == KEPT_NAME => FileSource::kept(root).read().ok().flatten(),
        None => None,
    }
}

fn fetch(world: &World, pointer: Pointer) -> Fetch<'_> {
    let root = &world.settings.root;
    Fetch {
        pointer,
        root: root.clone(),
        clock: Arc::new(Kernel),
        floor: clock::built_at(root),
        consoles: &*world.settings.consoles,
    }
}

/// Asks every source, the network last.
async fn search(world: &World) -> Found {
    let root = &world.settings.root;
    let consoles = &*world.settings.consoles;
    let (pointer, complaints) = pointed_at(root);
    let search = Search {
        sources: sources(world),
        complaints,
        advice: pointer.is_none().then(|| advice(root)),
    };
    let network = async {
        let Some(pointer) = pointer else {
            return std::future::pending().await;
        };
        let mut links = KernelLinks::open(root.clone(), Arc::clone(&world.bus));
        network::wait_until_up(&mut links, &Wanted::default(), consoles).await;
        fetch(world, pointer).run().await
    };
    search.run(network, consoles).await
}

/// Where the kernel command line says that the site file is, and lines about
/// what of it is of no use.
fn pointed_at(root: &SysRoot) -> (Option<Pointer>, Vec<Stage>) {
    let stage = || Stage::new("site").with("source", "network");
    // Bytes that are no text spoil their own word alone.
    match std::fs::read(root.path(COMMAND_LINE)) {
        Ok(line) => {
            let (pointer, errors) = Pointer::read(&String::from_utf8_lossy(&line));
            let lines = errors
                .iter()
                .map(|error| stage().failed(error, error.next()));
            (pointer, lines.collect())
        }
        Err(error) => {
            let what = format!("cannot read {COMMAND_LINE}: {error}");
            let next = "boot the host again; it goes on looking in the other places";
            (None, vec![stage().failed(what, next)])
        }
    }
}

/// What to do on a host that finds no site file anywhere.
fn advice(root: &SysRoot) -> &'static str {
    match inventory::booted_from(root) {
        Some(BootSource::Network { .. }) => {
            "give the boot server the site file (surplus-netboot serve --site site.toml), or plug in a stick labelled SURPLUS with site.toml on it; the host goes on looking"
        }
        _ => {
            "run `surplus-image customize` on the ISO, or plug in a stick labelled SURPLUS with site.toml on it; the host goes on looking"
        }
    }
}

/// The sources in their order.
fn sources(world: &World) -> Vec<Box<dyn Source>> {
    let settings = &world.settings;
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if let Some(path) = &settings.site_file {
        sources.push(Box::new(FileSource::named(path)));
    }
    sources.push(Box::new(FileSource::area(&settings.root)));
    sources.push(Box::new(Media::new(settings.root.clone())));
    // The unit's own credentials, and what the system was given at boot.
    let directories = settings.credentials.iter().cloned();
    for directory in directories.chain([settings.root.path(SYSTEM_CREDENTIALS)]) {
        sources.push(Box::new(FileSource::credential(directory)));
    }
    sources.push(Box::new(FileSource::kept(&settings.root)));
    sources
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Fetched;
    use crate::sysroot::fixture::Tree;

    #[test]
    fn a_command_line_that_cannot_be_read_is_a_line_and_no_end() {
        let (pointer, lines) = pointed_at(&Tree::new().root());
        assert_eq!(pointer, None);
        let line = lines[0].line(0.0);
        assert!(
            line.contains("cannot read /proc/cmdline") && line.contains("next="),
            "{line}"
        );
    }

    #[test]
    fn bytes_that_are_no_text_spoil_their_own_word_alone() {
        let tree = Tree::new();
        let mut line = b"quiet surplus.site=\xff\xfe surplus.site=https://boot/site.toml ".to_vec();
        line.extend_from_slice(format!("surplus.ca=sha256:{}\n", "ab".repeat(32)).as_bytes());
        tree.file(COMMAND_LINE, &line);
        let (pointer, lines) = pointed_at(&tree.root());
        assert_eq!(pointer.unwrap().urls.len(), 1);
        assert_eq!(lines.len(), 1, "{lines:?}");
        tree.file(COMMAND_LINE, "quiet");
        assert_eq!(pointed_at(&tree.root()), (None, Vec::new()));
    }

    #[test]
    fn a_host_without_a_site_file_is_told_what_to_do_where_it_was_booted() {
        let tree = Tree::new();
        assert!(advice(&tree.root()).contains("surplus-image customize"));
        tree.file("/run/surplus/boot.conf", "source=network\nurl=http://a/b\n");
        assert!(advice(&tree.root()).contains("surplus-netboot serve --site"));
    }

    #[test]
    fn a_file_that_an_earlier_agent_fetched_came_over_the_network_and_a_sticks_did_not() {
        let tree = Tree::new();
        let text = format!(
            "version = 1\n[marketplace]\nurl = \"https://hub\"\nca_sha256 = \"sha256:{}\"\n",
            "0".repeat(64)
        );
        let bytes = text.clone().into_bytes();
        let fetched = Fetched {
            url: "https://boot/site.toml".to_owned(),
            bytes: bytes.clone(),
        };
        fetched.keep(&tree.root()).unwrap();
        let found = |source: &str, fetched| Found {
            site: Site::parse(&text).unwrap(),
            source: source.to_owned(),
            fetched,
        };
        let came = |found| over_the_network(&tree.root(), &found);
        assert_eq!(came(found("network", Some(fetched))), Some(bytes.clone()));
        let kept = FileSource::kept(&tree.root()).name();
        assert_eq!(came(found(&kept, None)), Some(bytes));
        assert_eq!(came(found("medium", None)), None);
    }
}
