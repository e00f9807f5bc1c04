//! Keeps the board from what the servers hear, and shows it.
//!
//! What always holds: whoever reports here is never held up by a terminal or a
//! pipe that nobody reads; then lines are lost, not boots.

mod arp;
mod show;

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use jiff::Timestamp;
use surplus_artefacts::{Observer, Transfer};

use crate::board::{Board, Row, Stage};
use crate::dhcp::Client;
use crate::hardware::Mac;

pub use show::{Above, Look};

/// Rows that may wait for being shown.
const WAITING: usize = 1024;

/// The board, and where its changes go.
#[derive(Debug)]
pub struct Watch {
    board: Mutex<Board>,
    changes: SyncSender<Row>,
}

impl Watch {
    /// Shows the board as `look` says, in a thread of its own, for as long as
    /// the watch lives.
    pub fn start(look: Look) -> Arc<Self> {
        let (changes, shown) = sync_channel(WAITING);
        let watch = Arc::new(Self {
            board: Mutex::default(),
            changes,
        });
        let board = Arc::downgrade(&watch);
        thread::spawn(move || show::run(&look, &shown, &board));
        watch
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All hosts now.
    pub fn rows(&self) -> Vec<Row> {
        self.board().rows().into_iter().cloned().collect()
    }

    fn report(&self, row: Option<&Row>) {
        if let Some(row) = row {
            // Full: nobody reads. The next change says where the host is then.
            let _ = self.changes.try_send(row.clone());
        }
    }

    /// DHCP told a host where to boot from.
    pub fn asked(&self, mac: Mac, client: Client) {
        self.report(self.board().asked(mac, client, Timestamp::now()));
    }

    /// DHCP said whose an address is.
    pub fn learned(&self, mac: Mac, address: IpAddr) {
        self.board().learned(mac, address);
    }

    /// A first stage by TFTP.
    pub fn first_stage(&self, address: IpAddr, name: &str, position: u64, total: u64) {
        let Some(stage) = Stage::of_file(name) else {
            return;
        };
        if position == 0 {
            self.identify(address, None);
            let mut board = self.board();
            self.report(board.begun(address, stage, 0, total, Timestamp::now()));
        } else {
            let mut board = self.board();
            self.report(board.sent(address, stage, position, Timestamp::now()));
        }
    }

    /// A host was given the site file; its hardware address, where known.
    pub fn site_given(&self, address: IpAddr) -> Option<Mac> {
        let address = address.to_canonical();
        self.identify(address, None);
        let mut board = self.board();
        let row = board.site(address, Timestamp::now());
        let mac = row.mac;
        self.report(Some(row));
        mac
    }

    /// Learns whose an address is: from what the host says of itself, else from
    /// the kernel's neighbours. DHCP's word is not asked for twice.
    fn identify(&self, address: IpAddr, user_agent: Option<&str>) {
        let said = user_agent.and_then(mac_in);
        if said.is_none() && self.board().owner(address).is_some() {
            return;
        }
        if let Some(mac) = said.or_else(|| arp::look_up(address)) {
            self.learned(mac, address);
        }
    }
}

/// `surplus-init/0.1.0 (MAC 52:54:00:12:34:56)`.
fn mac_in(user_agent: &str) -> Option<Mac> {
    let (_, rest) = user_agent
        .strip_prefix("surplus-init/")?
        .split_once("(MAC ")?;
    rest.split_once(')')?.0.parse().ok()
}

fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

impl Observer for Watch {
    fn begun(&self, transfer: &Transfer) {
        let Some(stage) = Stage::of_file(&transfer.name) else {
            return;
        };
        let address = canonical(transfer.peer);
        self.identify(address, transfer.user_agent.as_deref());
        let mut board = self.board();
        let (first, total) = (transfer.first, transfer.total);
        self.report(board.begun(address, stage, first, total, Timestamp::now()));
    }

    fn sent(&self, transfer: &Transfer, position: u64) {
        let Some(stage) = Stage::of_file(&transfer.name) else {
            return;
        };
        let address = canonical(transfer.peer);
        let mut board = self.board();
        self.report(board.sent(address, stage, position, Timestamp::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initramfs_says_whose_address_it_has() {
        let mac: Mac = "52:54:00:12:34:56".parse().unwrap();
        let said = mac_in("surplus-init/0.1.0 (MAC 52:54:00:12:34:56)");
        assert_eq!(said, Some(mac));
        for other in ["curl/8", "surplus-init/0.1.0", "surplus-init/1 (MAC x)"] {
            assert_eq!(mac_in(other), None);
        }
    }
}
