//! Units of systemd that the agent needs: looked at, started, restarted where
//! they hang.

use futures_util::StreamExt as _;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::bus::{Bus, BusError};

/// What of systemd's manager is used (org.freedesktop.systemd1(5)).
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
pub(super) trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Value<'_>)],
        aux: &[(&str, &[(&str, Value<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn unref_unit(&self, name: &str) -> zbus::Result<()>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;
}

/// Why a unit could not be looked at or started.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("systemd does not answer about unit {unit}")]
    Ask {
        unit: String,
        #[source]
        source: zbus::Error,
    },
    #[error("the image has no unit {unit}")]
    Missing { unit: String },
    #[error("systemd does not start unit {unit}")]
    Start {
        unit: String,
        #[source]
        source: zbus::Error,
    },
    #[error("unit {unit} was started and failed ({result}); its lines in the log say why")]
    Failed { unit: String, result: String },
}

/// What was found, and done, about a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It is active, or on its way there.
    Unchanged,
    /// It was not; its start was asked for.
    Started,
}

/// Starts `unit` where it neither runs nor is about to.
pub async fn ensure_active(bus: &Bus, unit: &str) -> Result<Ensured, UnitError> {
    let ask = |source| UnitError::Ask {
        unit: unit.to_owned(),
        source,
    };
    let connection = bus.connection().await?;
    let manager = ManagerProxy::new(connection).await.map_err(ask)?;
    let path = manager.load_unit(unit).await.map_err(ask)?;
    let state = UnitProxy::builder(connection)
        .path(path)
        .map_err(ask)?
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await
        .map_err(ask)?;
    if state.load_state().await.map_err(ask)? == "not-found" {
        return Err(UnitError::Missing {
            unit: unit.to_owned(),
        });
    }
    if matches!(
        state.active_state().await.map_err(ask)?.as_str(),
        "active" | "activating" | "reloading"
    ) {
        return Ok(Ensured::Unchanged);
    }
    manager
        .start_unit(unit, "replace")
        .await
        .map_err(|source| UnitError::Start {
            unit: unit.to_owned(),
            source,
        })?;
    Ok(Ensured::Started)
}

/// Restarts `unit`, which hangs.
pub async fn restart(bus: &Bus, unit: &str) -> Result<(), UnitError> {
    let start = |source| UnitError::Start {
        unit: unit.to_owned(),
        source,
    };
    let connection = bus.connection().await?;
    let manager = ManagerProxy::new(connection).await.map_err(start)?;
    manager.restart_unit(unit, "replace").await.map_err(start)?;
    Ok(())
}

/// Starts `unit` and waits until that is done: where it is a oneshot, until its
/// work is.
pub async fn complete(bus: &Bus, unit: &str) -> Result<(), UnitError> {
    let start = |source| UnitError::Start {
        unit: unit.to_owned(),
        source,
    };
    let failed = |result: &str| UnitError::Failed {
        unit: unit.to_owned(),
        result: result.to_owned(),
    };
    let connection = bus.connection().await?;
    let manager = ManagerProxy::new(connection).await.map_err(start)?;
    let mut ended = jobs_ended(&manager).await.map_err(start)?;
    let job = manager.start_unit(unit, "replace").await.map_err(start)?;
    while let Some(signal) = ended.next().await {
        if let Ok(args) = signal.args()
            && args.job == job
        {
            return match args.result.as_str() {
                "done" => Ok(()),
                result => Err(failed(result)),
            };
        }
    }
    Err(failed("systemd went away"))
}

/// Hears of every job's end from now on.
pub(super) async fn jobs_ended(manager: &ManagerProxy<'_>) -> zbus::Result<JobRemovedStream> {
    // Without a subscriber systemd says nothing of jobs. It takes each once, and
    // calls it an error to ask again.
    let _ = manager.subscribe().await;
    manager.receive_job_removed().await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use zbus::object_server::SignalEmitter;

    use super::*;
    use crate::system::bus::fake;

    #[derive(Clone, Default)]
    struct FakeManager {
        started: Arc<Mutex<Vec<String>>>,
    }

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl FakeManager {
        fn load_unit(&self, _name: &str) -> OwnedObjectPath {
            OwnedObjectPath::try_from("/org/freedesktop/systemd1/unit/one").unwrap()
        }

        fn start_unit(&self, name: &str, _mode: &str) -> OwnedObjectPath {
            self.started.lock().unwrap().push(name.to_owned());
            OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap()
        }

        fn restart_unit(&self, name: &str, _mode: &str) -> OwnedObjectPath {
            self.started.lock().unwrap().push(format!("again: {name}"));
            OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/2").unwrap()
        }
    }

    #[tokio::test]
    async fn a_unit_that_hangs_is_restarted() {
        let manager = FakeManager::default();
        let (ours, _theirs) = fake::serving("/org/freedesktop/systemd1", manager.clone()).await;
        restart(&Bus::of(ours), "libvirtd.service").await.unwrap();
        assert_eq!(
            *manager.started.lock().unwrap(),
            ["again: libvirtd.service"]
        );
    }

    /// Says of each job that it ended so, after one that is none of ours.
    struct EndingManager(&'static str);

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl EndingManager {
        fn subscribe(&self) {}

        async fn start_unit(
            &self,
            name: &str,
            _mode: &str,
            #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        ) -> OwnedObjectPath {
            let job = |number: u32| {
                let path = format!("/org/freedesktop/systemd1/job/{number}");
                OwnedObjectPath::try_from(path).unwrap()
            };
            for (number, result) in [(6, "done"), (7, "failed"), (8, self.0)] {
                Self::job_removed(&emitter, number, job(number), name, result)
                    .await
                    .unwrap();
            }
            job(8)
        }

        #[zbus(signal)]
        async fn job_removed(
            emitter: &SignalEmitter<'_>,
            id: u32,
            job: OwnedObjectPath,
            unit: &str,
            result: &str,
        ) -> zbus::Result<()>;
    }

    #[tokio::test]
    async fn a_unit_that_was_to_do_its_work_did_it_or_failed() {
        for (result, good) in [("done", true), ("failed", false), ("timeout", false)] {
            let manager = EndingManager(result);
            let (ours, _theirs) = fake::serving("/org/freedesktop/systemd1", manager).await;
            let done = complete(&Bus::of(ours), "surplus-disks.service").await;
            assert_eq!(done.is_ok(), good, "{result}: {done:?}");
        }
    }

    struct FakeUnit {
        active: &'static str,
        load: &'static str,
    }

    #[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
    impl FakeUnit {
        #[zbus(property)]
        fn active_state(&self) -> String {
            self.active.to_owned()
        }

        #[zbus(property)]
        fn load_state(&self) -> String {
            self.load.to_owned()
        }
    }

    async fn ensured(
        active: &'static str,
        load: &'static str,
    ) -> (Result<Ensured, UnitError>, usize) {
        let manager = FakeManager::default();
        let (ours, theirs) = fake::serving("/org/freedesktop/systemd1", manager.clone()).await;
        let unit = FakeUnit { active, load };
        theirs
            .object_server()
            .at("/org/freedesktop/systemd1/unit/one", unit)
            .await
            .unwrap();
        let ensured = ensure_active(&Bus::of(ours), "libvirtd.service").await;
        let started = manager.started.lock().unwrap().len();
        (ensured, started)
    }

    #[tokio::test]
    async fn only_a_unit_that_does_not_run_is_started() {
        assert!(matches!(
            ensured("active", "loaded").await,
            (Ok(Ensured::Unchanged), 0)
        ));
        assert!(matches!(
            ensured("activating", "loaded").await,
            (Ok(Ensured::Unchanged), 0)
        ));
        assert!(matches!(
            ensured("failed", "loaded").await,
            (Ok(Ensured::Started), 1)
        ));
        assert!(matches!(
            ensured("inactive", "loaded").await,
            (Ok(Ensured::Started), 1)
        ));
    }

    #[tokio::test]
    async fn a_unit_that_the_image_lacks_is_named() {
        let (ensured, started) = ensured("inactive", "not-found").await;
        assert_eq!(
            ensured.unwrap_err().to_string(),
            "the image has no unit libvirtd.service"
        );
        assert_eq!(started, 0);
    }
}
