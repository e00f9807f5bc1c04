//! Keeping the host registered: certificates renewed before they run out, and
//! the host enrolled again where the marketplace does not know it any more.

use std::sync::Arc;

use surplus_https::Client;
use surplus_protocol::enrol::HostFacts;
use surplus_site::Site;
use tokio::sync::{Notify, watch};

use crate::clock::Kernel;
use crate::enrol::{self, Credentials, Means, Pace};
use crate::hub::Road;
use crate::identity::Ram;
use crate::stages::Announcer;
use crate::status::Board;

/// What registration needs for as long as the daemon runs.
pub(super) struct Registration {
    pub(super) site: Site,
    pub(super) road: Road,
    pub(super) anonymous: Client,
    pub(super) facts: HostFacts,
    pub(super) storage: Ram,
    pub(super) floor: jiff::Timestamp,
    pub(super) credentials: watch::Sender<Credentials>,
    pub(super) consoles: Announcer,
    pub(super) board: Board,
    /// Rung where the marketplace says that it does not know this host.
    pub(super) stranger: Arc<Notify>,
    /// Rung where it enrolled again, under another id.
    pub(super) newcomer: Arc<Notify>,
}

impl Registration {
    /// Runs until the host was registered anew under another id, which it says
    /// by `newcomer`, and for ever otherwise.
    pub(super) async fn keep(self) {
        let means = Means {
            storage: &self.storage,
            clock: &Kernel,
            floor: self.floor,
            consoles: &*self.consoles,
            board: &self.board,
            pace: Pace::default(),
        };
        let registrar = enrol::Marketplace {
            road: &self.road,
            client: self.anonymous,
            token: self.site.marketplace.token.as_ref(),
            facts: &self.facts,
        };
        // Cancel-safe: only the end of the registration ends both.
        tokio::select! {
            () = enrol::keep_renewed(&self.road, &self.facts, &means, &self.credentials) => {}
            () = enrol::keep_registered(
                &registrar,
                &self.road,
                &means,
                &self.stranger,
                &self.credentials,
            ) => self.newcomer.notify_one(),
        }
    }
}
