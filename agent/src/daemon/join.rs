//! From power-on to a certificate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use surplus_pki::Certificate;
use surplus_protocol::enrol::HostFacts;
use surplus_site::Site;
use surplus_stage::Stage;

use super::find::{Directions, another_site, find_site};
use super::{DaemonError, World};
use crate::backoff::Backoff;
use crate::clock::{self, Kernel};
use crate::enrol::{self, Credentials, Marketplace, Means, Pace};
use crate::hub::{Road, in_one_line};
use crate::identity::{Identity, Ram, Storage};
use crate::inventory::{self, Card};
use crate::network::look::KernelLinks;
use crate::network::{self, Wanted, units};
use crate::stages::{Announce, Repeating};
use crate::sysroot::SysRoot;
use crate::system::networkd;

/// Between looks for cards that came, went, or got their names.
const CARDS_LOOK: Duration = Duration::from_millis(500);

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
    let links = KernelLinks::by_clock(world.settings.root.clone(), Arc::clone(&world.bus));
    // Cancel-safe: asking networkd leaves nothing half done.
    tokio::select! {
        joined = enter(world) => joined,
        () = network::keep_asking(&links) => std::future::pending().await,
    }
}

async fn enter(world: &World) -> Result<Joined, DaemonError> {
    let found = find_site(world).await;
    let (directions, enrolled) = with_the_newest(
        found,
        async |directions| enrol(world, directions).await,
        async |directions| another_site(world, directions).await,
    )
    .await;
    let Enrolled {
        facts,
        storage,
        floor,
        identity,
    } = enrolled?;
    let Directions { site, road, .. } = directions;
    let credentials = Credentials::new(&road, identity)?;
    let authority = authority(&road, &credentials, &*world.settings.consoles).await;
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

/// Does what `found` says; does it anew with each other that comes before it is
/// done, so that what keeps a host out can be mended.
async fn with_the_newest<F, T>(
    mut found: F,
    work: impl AsyncFn(&F) -> T,
    another: impl AsyncFn(&F) -> F,
) -> (F, T) {
    loop {
        // Cancel-safe: the key is kept before it asks, and asks again; a
        // certificate that is here is kept at once, and wins.
        tokio::select! {
            biased;
            done = work(&found) => return (found, done),
            other = another(&found) => found = other,
        }
    }
}

struct Enrolled {
    facts: HostFacts,
    storage: Ram,
    floor: jiff::Timestamp,
    identity: Identity,
}

async fn enrol(world: &World, directions: &Directions) -> Result<Enrolled, DaemonError> {
    let root = &world.settings.root;
    let consoles = &*world.settings.consoles;
    let Directions { site, road, up, .. } = directions;
    bring_up(world, site, *up).await;

    let storage = Ram::at(world.settings.run_directory.join("identity"));
    let facts = HostFacts {
        site: site.place.name.clone().unwrap_or_default(),
        rack: site.place.rack.clone().unwrap_or_default(),
        key_storage: storage.kind().to_owned(),
        identity: inventory::identity(root),
        cpu_model: inventory::cpu_model(root),
        memory_bytes: inventory::memory_bytes(root),
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
    let registrar = Marketplace {
        road,
        client: road.anonymous()?,
        token: site.marketplace.token.as_ref(),
        facts: &facts,
    };
    let identity = enrol::identity(&registrar, &means).await?;
    Ok(Enrolled {
        facts,
        storage,
        floor,
        identity,
    })
}

/// Configures the network as the site file says, and waits for it; anew with
/// each card that comes, goes, or gets its name meanwhile. A network that is
/// `up` and stays as it is is left alone.
async fn bring_up(world: &World, site: &Site, up: bool) {
    let root = &world.settings.root;
    let consoles = &*world.settings.consoles;
    let mut links = KernelLinks::open(root.clone(), Arc::clone(&world.bus));
    let mut first = true;
    loop {
        let cards = inventory::cards(root);
        let files = units::plan(site, &cards);
        let mut wanted = units::wanted(site, &cards);
        match units::write(root, &files) {
            Ok(false) if up && first => return,
            // Also where nothing is new: an agent may have been killed between.
            Ok(changed) if changed || first && !files.is_empty() => apply(world).await,
            Ok(_) => {}
            Err(error) => {
                let what = format!(
                    "cannot write the site file's network to {}: {error}",
                    units::DIRECTORY
                );
                consoles.say(Stage::new("network").failed(what, "the host goes on with DHCP"));
                wanted = Wanted::default();
            }
        }
        first = false;
        world
            .board
            .update(|status| status.state = "waiting for the network".to_owned());
        // Cancel-safe: both sides only look.
        tokio::select! {
            _ = network::wait_until_up(&mut links, &wanted, consoles) => return,
            () = other_cards(root, &cards) => {}
        }
    }
}

/// Ends once the machine's cards are others than `known`, or named otherwise.
async fn other_cards(root: &SysRoot, known: &[Card]) {
    while inventory::cards(root) == known {
        tokio::time::sleep(CARDS_LOOK).await;
    }
}

/// Has networkd read its files, until it did.
async fn apply(world: &World) {
    let mut backoff = Backoff::quick();
    let mut said = Repeating::default();
    while let Err(error) = networkd::reload(&world.bus).await {
        let next = "wait; if it stays so, restart the host; it goes on trying";
        let stage = Stage::new("network").failed(in_one_line(&error), next);
        said.say(&*world.settings.consoles, stage, Instant::now());
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// The CA's certificate, asked for until it is known.
async fn authority(road: &Road, credentials: &Credentials, consoles: &dyn Announce) -> Certificate {
    let mut backoff = Backoff::quick();
    let mut said = Repeating::default();
    loop {
        match road.authority(&credentials.client).await {
            Ok(authority) => return authority,
            Err(error) => {
                let next = "check the network between this host and the marketplace; the host goes on trying";
                let stage = Stage::new("enrol").failed(in_one_line(&error), next);
                said.say(consoles, stage, Instant::now());
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
