//! Buyers and operators.

use rand::Rng as _;
use surplus_market::records::ImageRecord;
use surplus_market::rent::Asker;
use surplus_market::suite::digest;
use surplus_protocol::api::{CreateLease, QuoteRequest};
use surplus_protocol::ids::{HostId, LeaseId, QuoteId};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{Firmware, ImageFormat, OnLostLink};

use super::{Event, HOUR, Index, MINUTE, SECOND, World};
use crate::clock::{millis, timestamp};
use crate::hub::buyer;
use crate::weather::Fault;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The image that everybody rents.
pub(super) fn image() -> ImageRecord {
    ImageRecord {
        digest: digest(200),
        name: "image".to_owned(),
        format: ImageFormat::Qcow2,
        size_bytes: 100,
        virtual_bytes: 100,
        owner: buyer(),
        public: true,
        added_at: timestamp(0),
    }
}

impl World {
    /// Somebody wants a guest; the marketplace may have none.
    pub(super) fn rents(&mut self) {
        if !self.hub.up {
            return;
        }
        let (lease, quote): ([u8; 16], [u8; 16]) = self.random.random();
        let seconds = self.random.random_range(90..self.climate.longest / SECOND);
        let on_lost_link = if self.chance(500) {
            let after_seconds = self.random.random_range(60..900);
            OnLostLink::Fence { after_seconds }
        } else {
            OnLostLink::Keep
        };
        let resources = Resources {
            vcpus: self.random.random_range(1..3),
            memory_bytes: self.random.random_range(1..12) * 256 * MIB,
            disk_bytes: self.random.random_range(1..10) * GIB,
            addresses: u32::from(self.chance(200)),
        };
        let request = QuoteRequest {
            resources,
            seconds,
            on_lost_link,
            site: None,
        };
        let asker = Asker {
            owner: buyer(),
            quote: QuoteId::from_bytes(quote),
            lease: LeaseId::from_bytes(lease),
            open_quotes: None,
        };
        let order = CreateLease {
            quote: asker.quote,
            name: "guest".to_owned(),
            image: "image".to_owned(),
            firmware: Firmware::Bios,
            ssh_keys: Vec::new(),
            user_data: None,
            ports: Vec::new(),
        };
        let Ok(record) = self.hub.rent(asker, &request, order) else {
            return;
        };
        self.leases.push(record.id);
        self.last_end = self.last_end.max(millis(record.ends_at));
        if self.chance(400) {
            let wait = self.random.random_range(0..2 * HOUR);
            self.after(wait, Event::Ends(record.id));
        }
        self.wake(&[record.host]);
        self.trouble_at_the_start(record.host);
    }

    /// Now and then something goes wrong just while a guest is being made.
    fn trouble_at_the_start(&mut self, host: HostId) {
        let host = self.hosts.iter().position(|it| it.id == host);
        let Some(host) = host.filter(|_| self.chance(200)) else {
            return;
        };
        let wait = self.random.random_range(0..25 * SECOND);
        let time = self.random.random_range(MINUTE..30 * MINUTE);
        let fault = match self.random.random_range(0..3) {
            0 => Fault::Freeze { host, time },
            1 => Fault::Cut { host, time },
            _ => Fault::LibvirtAway { host, time },
        };
        self.after(wait, Event::Strikes(fault));
    }

    pub(super) fn ends(&mut self, lease: LeaseId) {
        if !self.hub.up {
            // The buyer tries again.
            return self.after(MINUTE, Event::Ends(lease));
        }
        if let Some(host) = self.hub.end(lease) {
            self.wake(&[host]);
        }
    }

    /// The operator has seen that the machine is off: this very boot of it.
    pub(super) fn confirms_off(&mut self, host: Index, boots: u32) {
        let it = &self.hosts[host];
        if it.boot.is_none() && it.boots == boots && self.hub.up {
            self.hub.confirm_off(it.id);
            self.check_placed();
        }
    }
}
