//! What guests need of a hypervisor, and libvirt as the real one.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use surplus_guard::guests::Processes;
use surplus_libvirt::{Kind, Libvirt, State};
use tokio::sync::broadcast;

use super::domain_xml;

#[cfg(test)]
pub mod fake;

/// Makes, lists and ends domains. Every call is idempotent by domain name.
pub trait Hypervisor: Send + Sync + fmt::Debug {
    /// Every active domain that carries our metadata, with what it used.
    fn domains(&self) -> BoxFuture<'_, Result<Vec<ObservedDomain>, HypervisorError>>;

    /// What a domain used since it was made; `interface` is its tap's name.
    fn usage<'a>(
        &'a self,
        name: &'a str,
        interface: &'a str,
    ) -> BoxFuture<'a, Result<DomainUsage, HypervisorError>>;

    /// Makes and starts a transient domain.
    fn create<'a>(
        &'a self,
        name: &'a str,
        xml: String,
    ) -> BoxFuture<'a, Result<(), HypervisorError>>;

    /// Asks the guest to power off. A domain that is gone is success.
    fn shutdown<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>>;

    /// Ends the domain now. A domain that is gone is success.
    fn destroy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>>;

    /// Whether the domain has a process, seen without the hypervisor's help, so
    /// also where it cannot be asked; `None`: nobody knows.
    fn has_process(&self, _name: &str) -> Option<bool> {
        None
    }

    /// Hints that something changed.
    fn hints(&self) -> broadcast::Receiver<Hint>;

    /// How many calls were not answered in time, nor since.
    fn hung(&self) -> usize {
        0
    }
}

/// A domain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDomain {
    pub name: String,
    pub state: DomainState,
    /// Our metadata element, as XML.
    pub metadata: Arc<str>,
    pub usage: DomainUsage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    Running,
    Paused,
    /// Crashed or off, yet still there: it will not run again.
    Dead,
}

/// What a domain used since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainUsage {
    pub cpu_nanos: u64,
    /// `None` where its interface could not be read.
    pub traffic: Option<Traffic>,
}

/// Bytes that a guest received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// A domain changed; whether it stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    pub name: String,
    pub stopped: bool,
}

/// Why the hypervisor did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct HypervisorError {
    /// What was attempted, on what, and why it failed.
    pub what: String,
    /// The hypervisor could not be asked; trying again can help.
    pub unreachable: bool,
}

/// libvirt's QEMU driver.
#[derive(Debug)]
pub struct LibvirtHypervisor {
    libvirt: Libvirt,
    hints: broadcast::Sender<Hint>,
}

impl LibvirtHypervisor {
    /// The libvirt at `uri`; connects at the first call. Call within a tokio
    /// runtime: events are forwarded by a task.
    ///
    /// # Errors
    ///
    /// When the connection's thread cannot be started.
    pub fn new(uri: &str) -> io::Result<Self> {
        let libvirt = Libvirt::new(uri)?;
        let (hints, _) = broadcast::channel(64);
        let (mut events, out) = (libvirt.events(), hints.clone());
        tokio::spawn(async move {
            loop {
                let hint = match events.recv().await {
                    Ok(event) => {
                        let stopped = event.moment == surplus_libvirt::Moment::Stopped;
                        Hint {
                            name: event.domain,
                            stopped,
                        }
                    }
                    // Some were lost: look at everything.
                    Err(broadcast::error::RecvError::Lagged(_)) => Hint {
                        name: String::new(),
                        stopped: false,
                    },
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                let _ = out.send(hint);
            }
        });
        Ok(Self { libvirt, hints })
    }

    /// The connection, for what else the agent asks of libvirt.
    pub fn libvirt(&self) -> &Libvirt {
        &self.libvirt
    }
}

impl From<surplus_libvirt::Error> for HypervisorError {
    fn from(error: surplus_libvirt::Error) -> Self {
        let mut what = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            what = format!("{what}: {cause}");
            source = cause.source();
        }
        Self {
            what,
            unreachable: error.kind() == Kind::Unreachable,
        }
    }
}

impl From<surplus_libvirt::Stats> for DomainUsage {
    fn from(stats: surplus_libvirt::Stats) -> Self {
        Self {
            cpu_nanos: stats.cpu_nanos,
            traffic: stats.interface.map(|bytes| Traffic {
                rx_bytes: bytes.received,
                tx_bytes: bytes.sent,
            }),
        }
    }
}

fn unless_gone(result: Result<(), surplus_libvirt::Error>) -> Result<(), HypervisorError> {
    match result {
        Err(error) if error.kind() == Kind::NoDomain => Ok(()),
        other => Ok(other?),
    }
}

impl Hypervisor for LibvirtHypervisor {
    fn domains(&self) -> BoxFuture<'_, Result<Vec<ObservedDomain>, HypervisorError>> {
        Box::pin(async move {
            let domains = self.libvirt.domains(domain_xml::NAMESPACE).await?;
            let ours = domains.into_iter().filter_map(|domain| {
                let state = match domain.state {
                    State::Paused => DomainState::Paused,
                    State::Off | State::Crashed => DomainState::Dead,
                    State::Running | State::ShuttingDown | State::Other => DomainState::Running,
                };
                Some(ObservedDomain {
                    name: domain.name,
                    state,
                    metadata: domain.metadata?,
                    usage: domain.stats.into(),
                })
            });
            Ok(ours.collect())
        })
    }

    fn usage<'a>(
        &'a self,
        name: &'a str,
        interface: &'a str,
    ) -> BoxFuture<'a, Result<DomainUsage, HypervisorError>> {
        Box::pin(async move { Ok(self.libvirt.stats(name, interface).await?.into()) })
    }

    fn create<'a>(
        &'a self,
        name: &'a str,
        xml: String,
    ) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move { Ok(self.libvirt.create(name, xml).await?) })
    }

    fn shutdown<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move { unless_gone(self.libvirt.shutdown(name).await) })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>> {
        Box::pin(async move { unless_gone(self.libvirt.destroy(name).await) })
    }

    fn has_process(&self, name: &str) -> Option<bool> {
        let found = Processes::default().of(name).ok()?;
        Some(!found.is_empty())
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }

    fn hung(&self) -> usize {
        self.libvirt.hung()
    }
}
