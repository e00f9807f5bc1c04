//! networkd on D-Bus: its signals, and asking it to read its files again.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use zbus::proxy::PropertyChanged;

use super::bus::{Bus, BusError};

/// What of networkd's manager is used (org.freedesktop.network1(5)).
#[zbus::proxy(
    interface = "org.freedesktop.network1.Manager",
    default_service = "org.freedesktop.network1",
    default_path = "/org/freedesktop/network1",
    gen_blocking = false
)]
trait Manager {
    /// `off`, `degraded` (link-local addresses only) or `routable`.
    #[zbus(property)]
    fn address_state(&self) -> zbus::Result<String>;

    fn reload(&self) -> zbus::Result<()>;

    fn reconfigure_link(&self, index: i32) -> zbus::Result<()>;
}

/// Why networkd could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetworkdError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("networkd does not answer")]
    Ask(#[source] zbus::Error),
    #[error("networkd does not read its configuration again")]
    Reload(#[source] zbus::Error),
    #[error("networkd does not configure link {index} again")]
    Reconfigure {
        index: i32,
        #[source]
        source: zbus::Error,
    },
}

/// networkd's signals that the host's address state changed.
pub struct AddressSignals(Pin<Box<dyn Stream<Item = PropertyChanged<'static, String>> + Send>>);

impl std::fmt::Debug for AddressSignals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AddressSignals")
    }
}

impl AddressSignals {
    /// Subscribes; the first signal comes at once, with the state as it is.
    pub async fn subscribe(bus: &Bus) -> Result<Self, NetworkdError> {
        let manager = ManagerProxy::new(bus.connection().await?)
            .await
            .map_err(NetworkdError::Ask)?;
        manager.address_state().await.map_err(NetworkdError::Ask)?;
        Ok(Self(Box::pin(
            manager.receive_address_state_changed().await,
        )))
    }

    /// Ends at the next change; never, once the bus is gone. Cancel-safe.
    pub async fn next(&mut self) {
        if self.0.next().await.is_none() {
            std::future::pending().await
        }
    }
}

/// Has networkd read `.network` and `.netdev` files again and apply them.
pub async fn reload(bus: &Bus) -> Result<(), NetworkdError> {
    let manager = ManagerProxy::new(bus.connection().await?)
        .await
        .map_err(NetworkdError::Ask)?;
    manager.reload().await.map_err(NetworkdError::Reload)
}

/// Has networkd configure the link with this kernel index from the beginning:
/// a DHCP client that had gone over to asking seldom asks at once.
pub async fn reconfigure(bus: &Bus, index: i32) -> Result<(), NetworkdError> {
    let manager = ManagerProxy::new(bus.connection().await?)
        .await
        .map_err(NetworkdError::Ask)?;
    let done = manager.reconfigure_link(index).await;
    done.map_err(|source| NetworkdError::Reconfigure { index, source })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::system::bus::fake;

    struct FakeNetworkd {
        state: &'static str,
        reloads: Arc<AtomicUsize>,
        reconfigured: Arc<AtomicI32>,
    }

    #[zbus::interface(name = "org.freedesktop.network1.Manager")]
    impl FakeNetworkd {
        #[zbus(property)]
        fn address_state(&self) -> String {
            self.state.to_owned()
        }

        fn reload(&self) {
            self.reloads.fetch_add(1, Ordering::Relaxed);
        }

        fn reconfigure_link(&self, index: i32) {
            self.reconfigured.store(index, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_change_of_the_address_state_wakes_the_look() {
        let reloads = Arc::new(AtomicUsize::new(0));
        let reconfigured = Arc::new(AtomicI32::new(0));
        let networkd = FakeNetworkd {
            state: "off",
            reloads: Arc::clone(&reloads),
            reconfigured: Arc::clone(&reconfigured),
        };
        let path = "/org/freedesktop/network1";
        let (ours, theirs) = fake::serving(path, networkd).await;
        let bus = Bus::of(ours);
        let mut signals = AddressSignals::subscribe(&bus).await.unwrap();
        let deadline = Duration::from_secs(5);
        tokio::time::timeout(deadline, signals.next())
            .await
            .unwrap();

        let service = theirs
            .object_server()
            .interface::<_, FakeNetworkd>(path)
            .await
            .unwrap();
        service.get_mut().await.state = "routable";
        service
            .get()
            .await
            .address_state_changed(service.signal_emitter())
            .await
            .unwrap();
        tokio::time::timeout(deadline, signals.next())
            .await
            .unwrap();

        reload(&bus).await.unwrap();
        assert_eq!(reloads.load(Ordering::Relaxed), 1);
        reconfigure(&bus, 3).await.unwrap();
        assert_eq!(reconfigured.load(Ordering::Relaxed), 3);
    }
}
