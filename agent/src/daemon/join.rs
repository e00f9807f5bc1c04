//! From power-on to a certificate.

use std::sync::Arc;

use surplus_pki::Certificate;
use surplus_protocol::enrol::HostFacts;
use surplus_site::{Addressing, Site};
use surplus_stage::Stage;

use super::{DaemonError, World};
use crate::backoff::Backoff;
use crate::clock::{self, Kernel};
use crate::enrol::{self, Credentials, Marketplace, Means, Pace};
use crate::hub::{Road, in_one_line};
use crate::identity::{Ram, Storage};
use crate::inventory;
use crate::network::look::KernelLinks;
use crate::network::{self, Configured, units};
use crate::site::medium::{KernelMounter, Media};
use crate::site::{self, FileSource, Source};
use crate::system::networkd;

/// Where systemd keeps the credentials that came from outside: SMBIOS, the
/// hypervisor, the boot loader (systemd-creds(1)).
const SYSTEM_CREDENTIALS: &str = "/run/credentials/@system";

/// A host that is in the register.
pub(super) struct Joined {
    pub(super) site: Site,
    pub(super) road: Road,
    pub(super) facts: HostFacts,
    pub(super) storage: Ram,
    pub(super) floor: jiff::Timestamp,
    pub(super) credentials: Credentials,
    /// The CA that vouches for tickets.
    pub(super) authority: Certificate,
}

pub(super) async fn join(world: &World) -> Result<Joined, DaemonError> {
    let root = &world.settings.root;
    let consoles = &*world.settings.consoles;
    let (site, road) = find_site(world).await;
    bring_up(world, &site).await;

    let storage = Ram::at(world.settings.run_directory.join("identity"));
    let facts = HostFacts {
        site: site.place.name.clone().unwrap_or_default(),
        key_storage: storage.kind().to_owned(),
        identity: inventory::identity(root),
    };
    consoles.say(
        Stage::new("enrol")
            .with("marketplace", road.shown())
            .with("key", storage.kind()),
    );
    world.board.update(|status| {
        status.state = "enrolling".to_owned();
        status.marketplace = Some(road.shown());
    });
    let floor = clock::built_at(root);
    let means = Means {
        storage: &storage,
        clock: &Kernel,
        floor,
        consoles,
        board: &world.board,
        pace: Pace::default(),
    };
    let token = site.marketplace.token.as_ref();
    let registrar = Marketplace {
        road: &road,
        client: road.anonymous()?,
        token,
        facts: &facts,
    };
    let identity = enrol::identity(&registrar, &means).await?;
    let credentials = Credentials::new(&road, identity)?;
    let authority = authority(&road, &credentials, consoles).await;
    Ok(Joined {
        site,
        road,
        facts,
        storage,
        floor,
        credentials,
        authority,
    })
}

/// A site file whose marketplace can be used.
async fn find_site(world: &World) -> (Site, Road) {
    world
        .board
        .update(|status| status.state = "looking for a site file".to_owned());
    let consoles = &*world.settings.consoles;
    let mut backoff = Backoff::quick();
    loop {
        let found = site::find(sources(world), consoles).await;
        match Road::new(&found.site.marketplace) {
            Ok(road) => {
                world.board.update(|status| {
                    status.site = found.site.place.name.clone();
                    status.site_source = Some(found.source.clone());
                });
                return (found.site, road);
            }
            Err(error) => {
                let next = "compare the site file with what `surplus site-file` prints; the host goes on looking";
                let stage = Stage::new("site").with("source", &found.source);
                consoles.say(stage.failed(in_one_line(&error), next));
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

/// The sources in their order.
fn sources(world: &World) -> Vec<Box<dyn Source>> {
    let settings = &world.settings;
    let mounter = KernelMounter::at(settings.run_directory.join("medium"));
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if let Some(path) = &settings.site_file {
        sources.push(Box::new(FileSource::named(path)));
    }
    sources.push(Box::new(FileSource::area(&settings.root)));
    sources.push(Box::new(Media::new(settings.root.clone(), mounter)));
    // The unit's own credentials, and what the system was given at boot.
    let directories = settings.credentials.iter().cloned();
    for directory in directories.chain([settings.root.path(SYSTEM_CREDENTIALS)]) {
        sources.push(Box::new(FileSource::credential(directory)));
    }
    sources
}

/// Configures the network as the site file says, and waits for it.
async fn bring_up(world: &World, site: &Site) {
    let root = &world.settings.root;
    let consoles = &*world.settings.consoles;
    world
        .board
        .update(|status| status.state = "waiting for the network".to_owned());
    let files = units::plan(&site.network, &site.time.servers, &inventory::cards(root));
    match units::write(root, &files) {
        Ok(false) => {}
        Ok(true) => {
            if let Err(error) = networkd::reload(&world.bus).await {
                let next = "the host goes on with the network as it is";
                consoles.say(Stage::new("network").failed(in_one_line(&error), next));
            }
        }
        Err(error) => {
            let what = format!(
                "cannot write the site file's network to {}: {error}",
                units::DIRECTORY
            );
            consoles.say(Stage::new("network").failed(what, "the host goes on with DHCP"));
        }
    }
    let configured = match site.network.addressing {
        Addressing::Dhcp => Configured::Dhcp,
        Addressing::Static(_) => Configured::Static,
    };
    let mut links = KernelLinks::open(root.clone(), Arc::clone(&world.bus));
    network::wait_until_up(&mut links, configured, consoles).await;
}

/// The CA's certificate, asked for until it is known.
async fn authority(
    road: &Road,
    credentials: &Credentials,
    consoles: &dyn crate::stages::Announce,
) -> Certificate {
    let mut backoff = Backoff::quick();
    let mut said = crate::stages::Repeating::default();
    loop {
        match road.authority(&credentials.client).await {
            Ok(authority) => return authority,
            Err(error) => {
                let next = "check the network between this host and the marketplace; the host goes on trying";
                let stage = Stage::new("enrol").failed(in_one_line(&error), next);
                said.say(consoles, stage, std::time::Instant::now());
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}
