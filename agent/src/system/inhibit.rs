//! A delay of shutdown while guests run, by logind.
//!
//! Where logind does not run the lock is not to be had, which is said once in
//! the log, and a shutdown does not wait.

use futures_util::StreamExt as _;
use zbus::zvariant::OwnedFd;

use super::bus::{Bus, BusError};

/// What of logind is used (org.freedesktop.login1(5)).
#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Logind {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
}

/// Why shutdown cannot be delayed.
#[derive(Debug, thiserror::Error)]
pub enum InhibitError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("logind gives no shutdown inhibitor")]
    Refused(#[source] zbus::Error),
    #[error("cannot listen for logind's announcement of a shutdown")]
    Listen(#[source] zbus::Error),
    #[error("the bus ended before a shutdown was announced")]
    Ended,
}

/// Holds logind's lock while guests run.
#[derive(Debug, Default)]
pub struct ShutdownDelay {
    lock: Option<OwnedFd>,
    complained: bool,
}

impl ShutdownDelay {
    /// Takes or gives back the lock.
    pub async fn hold(&mut self, bus: &Bus, guests: usize) {
        if guests == 0 {
            self.lock = None;
        } else if self.lock.is_none() {
            match take(bus, guests).await {
                Ok(lock) => {
                    self.lock = Some(lock);
                    self.complained = false;
                }
                Err(error) if !self.complained => {
                    tracing::info!(
                        error = &error as &dyn std::error::Error,
                        "a shutdown will not wait for guests"
                    );
                    self.complained = true;
                }
                Err(_) => {}
            }
        }
    }

    pub fn is_held(&self) -> bool {
        self.lock.is_some()
    }
}

/// Returns once a shutdown was ordered.
///
/// # Errors
///
/// [`InhibitError`] where bus or logind are not there: ask again later.
pub async fn shutdown_ordered(bus: &Bus) -> Result<(), InhibitError> {
    let logind = LogindProxy::new(bus.connection().await?)
        .await
        .map_err(InhibitError::Listen)?;
    let mut announced = logind
        .receive_prepare_for_shutdown()
        .await
        .map_err(InhibitError::Listen)?;
    while let Some(signal) = announced.next().await {
        if signal.args().is_ok_and(|args| *args.start()) {
            return Ok(());
        }
    }
    Err(InhibitError::Ended)
}

async fn take(bus: &Bus, guests: usize) -> Result<OwnedFd, InhibitError> {
    let logind = LogindProxy::new(bus.connection().await?)
        .await
        .map_err(InhibitError::Refused)?;
    let why = format!("{guests} leased guests run here");
    logind
        .inhibit("shutdown", "surplus-agent", &why, "delay")
        .await
        .map_err(InhibitError::Refused)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::system::bus::fake;

    struct FakeLogind {
        asked: Arc<AtomicUsize>,
        refuses: bool,
    }

    #[zbus::interface(name = "org.freedesktop.login1.Manager")]
    impl FakeLogind {
        fn inhibit(
            &self,
            what: &str,
            _who: &str,
            why: &str,
            mode: &str,
        ) -> zbus::fdo::Result<OwnedFd> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            assert_eq!((what, mode), ("shutdown", "delay"));
            assert!(why.contains("2 leased guests"));
            if self.refuses {
                return Err(zbus::fdo::Error::AccessDenied("no".to_owned()));
            }
            let (fd, _other) = std::os::unix::net::UnixStream::pair().unwrap();
            Ok(zbus::zvariant::OwnedFd::from(
                fd.as_fd().try_clone_to_owned().unwrap(),
            ))
        }
    }

    async fn bus(refuses: bool) -> (Bus, zbus::Connection, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let logind = FakeLogind {
            asked: Arc::clone(&asked),
            refuses,
        };
        let (ours, theirs) = fake::serving("/org/freedesktop/login1", logind).await;
        (Bus::of(ours), theirs, asked)
    }

    #[tokio::test]
    async fn the_lock_is_held_exactly_while_guests_run() {
        let (bus, _theirs, asked) = bus(false).await;
        let mut delay = ShutdownDelay::default();
        delay.hold(&bus, 0).await;
        assert!(!delay.is_held());
        delay.hold(&bus, 2).await;
        delay.hold(&bus, 2).await;
        assert!(delay.is_held());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        delay.hold(&bus, 0).await;
        assert!(!delay.is_held());
    }

    #[tokio::test]
    async fn a_refusal_is_survived_and_tried_again() {
        let (bus, _theirs, asked) = bus(true).await;
        let mut delay = ShutdownDelay::default();
        delay.hold(&bus, 2).await;
        delay.hold(&bus, 2).await;
        assert!(!delay.is_held());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_shutdown_is_heard_when_it_is_ordered_and_not_before() {
        let (bus, theirs, _asked) = bus(false).await;
        let heard = shutdown_ordered(&bus);
        tokio::pin!(heard);
        let announce = async |start: bool| {
            let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
            let body = (start,);
            theirs
                .emit_signal(None::<&str>, path, interface, "PrepareForShutdown", &body)
                .await
                .unwrap();
        };
        assert!(futures_util::poll!(heard.as_mut()).is_pending());
        announce(false).await;
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), heard.as_mut());
        assert!(early.await.is_err(), "a shutdown that was called off");
        announce(true).await;
        let deadline = std::time::Duration::from_secs(10);
        tokio::time::timeout(deadline, heard)
            .await
            .unwrap()
            .unwrap();
    }
}
