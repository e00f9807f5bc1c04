//! The world's hypervisor, asked over the line.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use surplus_agent::guests::hypervisor::{
    DomainState, DomainUsage, Hint, Hypervisor, HypervisorError, ObservedDomain, Traffic,
};
use tokio::sync::broadcast;

use super::World;
use crate::wire::{Answer, Ask};

#[derive(Debug)]
pub(super) struct Asking {
    world: Arc<World>,
    hints: broadcast::Sender<Hint>,
}

impl Asking {
    pub(super) fn new(world: Arc<World>) -> Self {
        let hints = broadcast::channel(1).0;
        Self { world, hints }
    }

    fn order(&self, ask: &Ask) -> Result<(), HypervisorError> {
        match self.world.ask(ask) {
            Answer::Go => Ok(()),
            _ => Err(failed()),
        }
    }
}

/// What a domain used that was made so many milliseconds ago.
fn usage(millis: u64) -> DomainUsage {
    DomainUsage {
        cpu_nanos: millis * 1_000_000,
        traffic: Some(Traffic {
            rx_bytes: millis,
            tx_bytes: millis,
        }),
    }
}

fn failed() -> HypervisorError {
    HypervisorError {
        what: "the hypervisor failed, as it was told to".to_owned(),
        unreachable: false,
    }
}

impl Hypervisor for Asking {
    fn domains(&self) -> BoxFuture<'_, Result<Vec<ObservedDomain>, HypervisorError>> {
        Box::pin(async {
            let Answer::Domains(domains) = self.world.ask(&Ask::Domains) else {
                return Err(failed());
            };
            let observed = domains.into_iter().map(|domain| ObservedDomain {
                name: domain.name,
                state: DomainState::Running,
                metadata: domain.metadata.into(),
                usage: usage(domain.millis),
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
            let name = name.to_owned();
            let Answer::Usage(millis) = self.world.ask(&Ask::Usage { name }) else {
                return Err(failed());
            };
            Ok(usage(millis))
        })
    }

    fn create<'a>(
        &'a self,
        name: &'a str,
        xml: String,
    ) -> BoxFuture<'a, Result<(), HypervisorError>> {
        let name = name.to_owned();
        Box::pin(async move { self.order(&Ask::Create { name, xml }) })
    }

    fn shutdown<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>> {
        let name = name.to_owned();
        Box::pin(async move { self.order(&Ask::Shutdown { name }) })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HypervisorError>> {
        let name = name.to_owned();
        Box::pin(async move { self.order(&Ask::Destroy { name }) })
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }
}
