//! A host's libvirt and the guests that run under it.
//!
//! Domains live with the host's boot: they outlive the agent and libvirt, and
//! end with the power. What happens to them is noted for the judge.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use surplus_agent::guests::hypervisor::{
    DomainState, DomainUsage, Hint, Hypervisor, HypervisorError, ObservedDomain,
};
use surplus_agent::guests::{Placement, domain_xml};
use surplus_journal::Memory;
use surplus_protocol::lease::Ticket;
use surplus_seat::Seat;
use tokio::sync::broadcast;

/// What a creation comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Willing,
    /// The domain is not made, and that is said.
    Refuses,
    /// The domain is made, and its failure is said.
    Complains,
}

/// Something that happened to a guest.
#[derive(Clone, Debug)]
pub enum Happening {
    Made(Box<Ticket>),
    Asked(Placement),
    Destroyed(Placement),
}

#[derive(Debug)]
struct Domain {
    ticket: Ticket,
    seat: Seat,
    metadata: String,
}

#[derive(Debug, Default)]
struct State {
    domains: BTreeMap<String, Domain>,
    away: bool,
    mood: Mood,
    /// The disk of whoever asks: it dies in the midst of writing, and nothing is
    /// done for the dead.
    asker: Option<Memory>,
    happenings: Vec<Happening>,
}

/// One boot's hypervisor.
#[derive(Debug)]
pub struct SimHypervisor {
    state: Mutex<State>,
    hints: broadcast::Sender<Hint>,
}

impl Default for SimHypervisor {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            hints: broadcast::channel(1).0,
        }
    }
}

impl SimHypervisor {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    pub fn is_away(&self) -> bool {
        self.state().away
    }

    pub fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub fn set_asker(&self, disk: &Memory) {
        self.state().asker = Some(disk.clone());
    }

    pub fn take_happenings(&self) -> Vec<Happening> {
        std::mem::take(&mut self.state().happenings)
    }

    /// Every guest that runs, with its ticket.
    pub fn running(&self) -> Vec<(Placement, Ticket)> {
        let state = self.state();
        let running = state.domains.values();
        running
            .map(|domain| (Placement::of(&domain.ticket), domain.ticket.clone()))
            .collect()
    }

    /// The guest's process is gone: it powered off, or was killed by its pid.
    /// Whether there was one.
    pub fn vanish(&self, placement: Placement) -> bool {
        let domain = self.state().domains.remove(&placement.domain_name());
        domain.is_some()
    }

    fn ask(&self, what: &str) -> Result<MutexGuard<'_, State>, HypervisorError> {
        let state = self.state();
        let dead = state.asker.as_ref().is_some_and(Memory::is_dead);
        if state.away || dead {
            return Err(HypervisorError {
                what: format!("{what}: no libvirt"),
                unreachable: true,
            });
        }
        Ok(state)
    }
}

/// The element of a domain's XML that libvirt hands back as metadata.
fn metadata(xml: &str) -> Option<String> {
    let from = xml.find("<surplus:guest")?;
    let to = from + xml[from..].find("/>")? + 2;
    Some(xml[from..to].to_owned())
}

fn refused(what: &str) -> HypervisorError {
    HypervisorError {
        what: what.to_owned(),
        unreachable: false,
    }
}

impl Hypervisor for SimHypervisor {
    fn domains(&self) -> BoxFuture<'_, Result<Vec<ObservedDomain>, HypervisorError>> {
        Box::pin(async {
            let state = self.ask("list domains")?;
            let domains = state.domains.iter().map(|(name, domain)| ObservedDomain {
                name: name.clone(),
                state: DomainState::Running,
                metadata: domain.metadata.as_str().into(),
                usage: DomainUsage::default(),
            });
            Ok(domains.collect())
        })
    }

    fn usage<'a>(
        &'a self,
        name: &'a str,
        _interface: &'a str,
    ) -> BoxFuture<'a, Result<DomainUsage, HypervisorError>> {
        Box::pin(async move {
            let state = self.ask("read usage")?;
            let known = state.domains.contains_key(name);
            let usage = known.then(DomainUsage::default);
            usage.ok_or_else(|| refused("no such domain"))
        })
    }

    fn create<'a>(
        &'a self,
        name: &'a str,
        xml: String,
    ) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move {
            let mut state = self.ask("create a domain")?;
            let mood = std::mem::take(&mut state.mood);
            if mood == Mood::Refuses {
                return Err(refused("no more memory"));
            }
            let metadata = metadata(&xml).ok_or_else(|| refused("no metadata"))?;
            let ticket = domain_xml::ticket_of(&metadata).map_err(|_| refused("no ticket"))?;
            let seat = domain_xml::seat_of(&metadata).map_err(|_| refused("no seat"))?;
            if state.domains.contains_key(name) {
                return Err(refused("there is such a domain already"));
            }
            if state.domains.values().any(|domain| domain.seat == seat) {
                return Err(refused("there is such an interface already"));
            }
            state
                .happenings
                .push(Happening::Made(Box::new(ticket.clone())));
            let domain = Domain {
                ticket,
                seat,
                metadata,
            };
            state.domains.insert(name.to_owned(), domain);
            if mood == Mood::Complains {
                return Err(refused("timed out"));
            }
            Ok(())
        })
    }

    fn shutdown<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move {
            let mut state = self.ask("shut a domain down")?;
            if let Some(domain) = state.domains.get(name) {
                let placement = Placement::of(&domain.ticket);
                state.happenings.push(Happening::Asked(placement));
            }
            Ok(())
        })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move {
            let mut state = self.ask("destroy a domain")?;
            if let Some(domain) = state.domains.remove(name) {
                let placement = Placement::of(&domain.ticket);
                state.happenings.push(Happening::Destroyed(placement));
            }
            Ok(())
        })
    }

    fn has_process(&self, name: &str) -> Option<bool> {
        Some(self.state().domains.contains_key(name))
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }
}
