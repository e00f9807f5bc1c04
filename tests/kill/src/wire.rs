//! What agent and world say to each other: one JSON text a line.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use surplus_agent::guests::GuestsReport;
use surplus_protocol::Digest;
use surplus_protocol::agent::{ReceiptAck, Tombstone, UsageAck};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{EndReceipt, LeaseStatus, Ticket, UsageRecord};

/// What the agent's process asks. Each but `Hello` is a point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// The agent is there.
    Hello,
    Domains,
    Usage {
        name: String,
    },
    Create {
        name: String,
        xml: String,
    },
    Shutdown {
        name: String,
    },
    Destroy {
        name: String,
    },
    Image {
        digest: Digest,
        offset: u64,
    },
    /// It is about to do something by itself, or has done it; it may be told
    /// that this failed.
    Point(String),
    /// It has done something by itself that cannot be said to have failed.
    Done(String),
    Report(Report),
}

/// What the agent has to say after a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub leases: Vec<LeaseStatus>,
    pub usage: Vec<UsageRecord>,
    pub receipts: Vec<EndReceipt>,
    pub problems: Vec<String>,
}

impl From<GuestsReport> for Report {
    fn from(report: GuestsReport) -> Self {
        let GuestsReport {
            leases,
            usage,
            receipts,
            problems,
            tickets: _,
        } = report;
        Self {
            leases,
            usage,
            receipts,
            problems,
        }
    }
}

/// A domain that is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Domain {
    pub name: String,
    pub metadata: String,
    /// Since it was made.
    pub millis: u64,
}

/// What the world answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Go,
    Fail,
    /// The story is over: the agent ends.
    End,
    Orders(Box<Orders>),
    Domains(Vec<Domain>),
    /// Milliseconds since the domain was made.
    Usage(u64),
    Image(Vec<u8>),
    /// There is no such image.
    NoImage,
}

/// The time, and what the marketplace says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Orders {
    /// Since the story began.
    pub now_millis: u64,
    pub tickets: Vec<Ticket>,
    pub tombstones: Vec<Tombstone>,
    pub sellable: Resources,
    pub usage: Vec<UsageAck>,
    pub receipts: Vec<ReceiptAck>,
    /// Domains that have stopped since the last orders.
    pub stopped: Vec<String>,
}

/// One end of the line.
#[derive(Debug)]
pub struct Line(BufReader<UnixStream>);

impl Line {
    pub fn new(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    pub fn stream(&self) -> &UnixStream {
        self.0.get_ref()
    }

    /// # Errors
    ///
    /// When the other end is gone.
    pub fn send(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(what)?;
        text.push(b'\n');
        self.0.get_mut().write_all(&text)
    }

    /// What the other end says next; `None` when it is gone.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut text = String::new();
        // A killed process may break off in mid-line.
        if self.0.read_line(&mut text)? == 0 || !text.ends_with('\n') {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }
}
