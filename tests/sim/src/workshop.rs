//! A host's disk for guests' files, in memory: it lives with the host's boot,
//! and what is made on it takes as long as the world says.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use surplus_agent::guests::directories::DirectoryError;
use surplus_agent::guests::domain_xml::{DiskFile, DiskFormat, DomainSpec};
use surplus_agent::guests::image::ImageError;
use surplus_agent::guests::prepare::PrepareError;
use surplus_agent::guests::record::Record;
use surplus_agent::guests::workshop::{Progress, Workshop};
use surplus_agent::guests::{Placement, UplinkError};
use surplus_protocol::Digest;
use surplus_protocol::lease::Ticket;
use surplus_seat::Seat;
use tokio::sync::oneshot;

/// A guest that is being made.
#[derive(Debug)]
pub struct Job {
    ticket: Ticket,
    seat: Seat,
    done: oneshot::Sender<Result<String, PrepareError>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeSet<Placement>,
    jobs: Vec<Job>,
}

/// One boot's workshop.
#[derive(Debug, Default)]
pub struct SimWorkshop(Mutex<State>);

impl SimWorkshop {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs that were begun since the last call.
    pub fn take_jobs(&self) -> Vec<Job> {
        std::mem::take(&mut self.state().jobs)
    }
}

impl Job {
    /// Ends it: well where the image could be fetched. Nobody may be there any
    /// more to hear it.
    pub fn finish(self, reachable: bool) {
        let result = if reachable {
            xml(&self.ticket, self.seat)
        } else {
            let source = UplinkError {
                what: "no route to the marketplace".to_owned(),
                retryable: true,
            };
            Err(PrepareError::Image(ImageError::Unreachable {
                digest: self.ticket.guest.image,
                source,
            }))
        };
        // The agent that began it may be dead.
        let _ = self.done.send(result);
    }
}

fn xml(ticket: &Ticket, seat: Seat) -> Result<String, PrepareError> {
    let spec = DomainSpec {
        ticket,
        seat,
        disk: DiskFile {
            path: "/disk".into(),
            format: DiskFormat::Qcow2,
            backing: None,
        },
        disk_rate: None,
        seed: "/seed".into(),
        console: "/console".into(),
        variables: "/vars".into(),
        bridge: "surplus0",
        emulation: false,
        group: None,
        huge_pages: false,
        node: None,
    };
    spec.to_xml().map_err(|source| PrepareError::Make {
        what: "domain XML",
        source,
    })
}

impl Workshop for SimWorkshop {
    fn prepare<'a>(
        &'a self,
        record: &'a Record,
        _progress: &'a Progress,
    ) -> BoxFuture<'a, Result<String, PrepareError>> {
        Box::pin(async move {
            let (done, result) = oneshot::channel();
            {
                let mut state = self.state();
                state.files.insert(record.placement());
                let (ticket, seat) = (record.ticket.clone(), record.seat);
                state.jobs.push(Job { ticket, seat, done });
            }
            match result.await {
                Ok(result) => result,
                // The world has ended.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn placements(&self) -> Vec<Placement> {
        self.state().files.iter().copied().collect()
    }

    fn remove(&self, placement: Placement) -> Result<bool, DirectoryError> {
        Ok(self.state().files.remove(&placement))
    }

    fn keep_images(&self, _digests: BTreeSet<Digest>) {}

    fn follow_console(&self, _placement: Placement) {}

    fn end_console(&self, _placement: Placement) {}
}
