//! A hypervisor in memory that can fail on demand.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use futures_util::future::BoxFuture;
use tokio::sync::broadcast;

use super::super::deadlines::{DeadlineFiles, Deadlines as _};
use super::{DomainState, DomainUsage, Hint, Hypervisor, HypervisorError, ObservedDomain};

#[derive(Debug)]
pub struct FakeHypervisor {
    state: Mutex<State>,
    hints: broadcast::Sender<Hint>,
}

#[derive(Debug, Default)]
pub struct State {
    /// XML by name.
    pub domains: BTreeMap<String, FakeDomain>,
    /// Nothing can be asked.
    pub unreachable: bool,
    /// The next creations fail with this message, after making the domain where
    /// the flag says so.
    pub create_fails: Vec<(String, bool)>,
    /// Whoever asks died with this disk of theirs: nothing is done for the dead.
    pub asker: Option<surplus_journal::Memory>,
    /// Guests power off when asked.
    pub obedient: bool,
    /// What was asked, in order.
    pub log: Vec<String>,
    /// What the guard reads: a domain that it knows no deadline of is logged as
    /// `unguarded`.
    pub guard: Option<DeadlineFiles>,
}

#[derive(Clone, Debug)]
pub struct FakeDomain {
    pub xml: String,
    pub state: DomainState,
    pub usage: DomainUsage,
}

impl Default for FakeHypervisor {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            hints: broadcast::channel(16).0,
        }
    }
}

impl FakeHypervisor {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn ask(&self, what: String) -> Result<MutexGuard<'_, State>, HypervisorError> {
        let mut state = self.state();
        let asker = state.asker.as_ref();
        let dead = asker.is_some_and(surplus_journal::Memory::is_dead);
        if !dead {
            state.log.push(what.clone());
        }
        if state.unreachable || dead {
            return Err(HypervisorError {
                what: format!("{what}: no libvirt"),
                unreachable: true,
            });
        }
        Ok(state)
    }

    fn remove(&self, state: &mut State, name: &str) {
        if state.domains.remove(name).is_some() {
            let _ = self.hints.send(Hint {
                name: name.to_owned(),
                stopped: true,
            });
        }
    }
}

impl Hypervisor for FakeHypervisor {
    fn domains(&self) -> BoxFuture<'_, Result<Vec<ObservedDomain>, HypervisorError>> {
        Box::pin(async {
            let state = self.state();
            if state.unreachable {
                return Err(HypervisorError {
                    what: "no libvirt".into(),
                    unreachable: true,
                });
            }
            let observed = state.domains.iter().map(|(name, domain)| ObservedDomain {
                name: name.clone(),
                state: domain.state,
                metadata: domain.xml.as_str().into(),
                usage: domain.usage,
            });
            Ok(observed.collect())
        })
    }

    fn usage<'a>(
        &'a self,
        name: &'a str,
        _interface: &'a str,
    ) -> BoxFuture<'a, Result<DomainUsage, HypervisorError>> {
        Box::pin(async move {
            let state = self.state();
            let domain = state.domains.get(name);
            let gone = || HypervisorError {
                what: "no such domain".into(),
                unreachable: false,
            };
            domain.map(|domain| domain.usage).ok_or_else(gone)
        })
    }

    fn create<'a>(
        &'a self,
        name: &'a str,
        xml: String,
    ) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move {
            let mut state = self.ask(format!("create {name}"))?;
            if let Some(guard) = &state.guard {
                let known = guard.known().unwrap_or_default();
                let guarded = known
                    .iter()
                    .any(|(placement, at)| placement.domain_name() == name && at.is_some());
                if !guarded {
                    state.log.push(format!("unguarded {name}"));
                }
            }
            let failure = (!state.create_fails.is_empty()).then(|| state.create_fails.remove(0));
            if failure.as_ref().is_none_or(|(_, made)| *made) {
                let usage = DomainUsage::default();
                let domain = FakeDomain {
                    xml,
                    state: DomainState::Running,
                    usage,
                };
                state.domains.insert(name.to_owned(), domain);
            }
            match failure {
                Some((what, _)) => Err(HypervisorError {
                    what,
                    unreachable: false,
                }),
                None => Ok(()),
            }
        })
    }

    fn shutdown<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move {
            let mut state = self.ask(format!("shutdown {name}"))?;
            if state.obedient {
                self.remove(&mut state, name);
            }
            Ok(())
        })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move {
            let mut state = self.ask(format!("destroy {name}"))?;
            self.remove(&mut state, name);
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
