//! Tools that work on strangers' bytes, each in a transient service of systemd's
//! (decision 0019).
//!
//! What always holds: the tool runs as a user that exists for this run alone,
//! without network, devices or new privileges, sees of `/var`, `/run` and `/etc`
//! the one file that it reads and the one that it writes, and ends with its time.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::net::unix::pipe::Receiver;
use zbus::Connection;
use zbus::zvariant::{Fd, Value};

use super::bus::Bus;
use super::units::{self, ManagerProxy};
use crate::guests::confinement::{self, Confinement, End, Job, Outcome};

/// How long beyond a tool's own time systemd may take to end it.
const GRACE: Duration = Duration::from_secs(30);

/// Exit codes from here on are systemd's own: it could not make the confinement
/// (systemd.exec(5)).
const FIRST_OF_SYSTEMD: i32 = 200;

/// The slice's name: beside the agent's, which has precedence.
const SLICE: &str = "system.slice";

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Service {
    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_code(&self) -> zbus::Result<i32>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_status(&self) -> zbus::Result<i32>;
}

/// Runs tools in services of their own.
#[derive(Clone, Debug)]
pub struct TransientServices {
    bus: Arc<Bus>,
}

impl TransientServices {
    pub fn new(bus: Arc<Bus>) -> Self {
        Self { bus }
    }

    async fn run(&self, job: Job) -> io::Result<Outcome> {
        let connection = self.bus.connection().await.map_err(io::Error::other)?;
        let manager = ManagerProxy::new(connection)
            .await
            .map_err(io::Error::other)?;
        let mut removed = units::jobs_ended(&manager)
            .await
            .map_err(io::Error::other)?;
        let (stdout, says) = io::pipe()?;
        let (stderr, complains) = io::pipe()?;
        let (says, complains) = (OwnedFd::from(says), OwnedFd::from(complains));
        let name = format!("surplus-tool-{}.service", uuid::Uuid::new_v4());
        let service = Running {
            connection: connection.clone(),
            name,
        };
        let mut properties = properties(&job);
        properties.push(("StandardOutputFileDescriptor", Fd::from(says).into()));
        properties.push(("StandardErrorFileDescriptor", Fd::from(complains).into()));
        let started = manager
            .start_transient_unit(&service.name, "fail", &properties, &[])
            .await
            .map_err(io::Error::other)?;
        // With our ends of the pipes.
        drop(properties);
        let stdout = Receiver::from_owned_fd(stdout.into())?;
        let stderr = Receiver::from_owned_fd(stderr.into())?;
        let words = tokio::spawn(async move {
            tokio::join!(
                confinement::words(Some(stdout)),
                confinement::words(Some(stderr))
            )
        });
        let over = async {
            while let Some(signal) = removed.next().await {
                if signal.args().is_ok_and(|args| args.job == started) {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(job.limits.wall + GRACE, over).await;
        let end = match in_time {
            Ok(()) => service.end().await.map_err(io::Error::other)?,
            Err(_) => End::OutOfTime,
        };
        drop(service);
        // systemd may hold its ends of the pipes a little longer.
        let words = tokio::time::timeout(GRACE, words).await;
        let (stdout, stderr) = words.map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(Outcome {
            end,
            stdout,
            stderr,
        })
    }
}

impl Confinement for TransientServices {
    fn run(&self, job: Job) -> BoxFuture<'_, io::Result<Outcome>> {
        Box::pin(Self::run(self, job))
    }
}

/// A service that is stopped and forgotten when this is dropped.
struct Running {
    connection: Connection,
    name: String,
}

impl Running {
    async fn end(&self) -> zbus::Result<End> {
        let manager = ManagerProxy::new(&self.connection).await?;
        let path = manager.get_unit(&self.name).await?;
        let service = ServiceProxy::builder(&self.connection)
            .path(path)?
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        let status = service.exec_main_status().await?;
        // CLD_EXITED (waitid(2)); else a signal's number is there.
        let exited = service.exec_main_code().await? == 1;
        Ok(match service.result().await?.as_str() {
            "success" => End::Exit(0),
            "timeout" => End::OutOfTime,
            "oom-kill" => End::OutOfMemory,
            "exit-code" if exited && status < FIRST_OF_SYSTEMD => End::Exit(status),
            "signal" | "core-dump" => End::Signal(status),
            other => {
                let text = format!("systemd could not run {}: {other} {status}", self.name);
                return Err(zbus::Error::Failure(text));
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (connection, name) = (self.connection.clone(), std::mem::take(&mut self.name));
        tokio::spawn(async move {
            let Ok(manager) = ManagerProxy::new(&connection).await else {
                return;
            };
            // Errors say that there is nothing left to stop or forget.
            let _ = manager.stop_unit(&name, "replace").await;
            let _ = manager.reset_failed_unit(&name).await;
            let _ = manager.unref_unit(&name).await;
        });
    }
}

/// See systemd.exec(5), systemd.service(5), systemd.resource-control(5).
fn properties(job: &Job) -> Vec<(&'static str, Value<'static>)> {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut argv = vec![job.program.to_string()];
    argv.extend(job.arguments.iter().cloned());
    let hidden = |path: &str| (path.to_owned(), "ro,mode=0755".to_owned());
    let bound = |path: &camino::Utf8PathBuf| {
        let path = path.to_string();
        vec![(path.clone(), path, false, 0_u64)]
    };
    let list = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let mut all: Vec<(&'static str, Value<'static>)> = vec![
        ("Description", "A tool on a guest's image".into()),
        // Its start is over when the tool is.
        ("Type", "oneshot".into()),
        (
            "ExecStart",
            Value::new(vec![(job.program.to_string(), argv, false)]),
        ),
        ("CollectMode", "inactive-or-failed".into()),
        ("AddRef", true.into()),
        ("DefaultDependencies", false.into()),
        ("Slice", SLICE.into()),
        ("DynamicUser", true.into()),
        ("UMask", 0o077_u32.into()),
        // Limits.
        ("TimeoutStartUSec", micros(job.limits.wall).into()),
        ("MemoryMax", job.limits.memory_bytes.into()),
        ("MemorySwapMax", 0_u64.into()),
        ("TasksMax", 64_u64.into()),
        ("CPUQuotaPerSecUSec", 1_000_000_u64.into()),
        ("CPUWeight", 10_u64.into()),
        ("IOWeight", 10_u64.into()),
        ("Nice", 19_i32.into()),
        ("OOMScoreAdjust", 1000_i32.into()),
        ("LimitCPU", job.limits.cpu.as_secs().into()),
        ("LimitFSIZE", job.limits.file_bytes.into()),
        ("LimitAS", confinement::address_space(&job.limits).into()),
        ("LimitCORE", 0_u64.into()),
        ("LimitNOFILE", 64_u64.into()),
        // What it sees.
        ("ProtectSystem", "strict".into()),
        ("ProtectHome", "yes".into()),
        ("PrivateDevices", true.into()),
        ("PrivateNetwork", true.into()),
        ("PrivateIPC", true.into()),
        ("ProtectProc", "invisible".into()),
        ("ProcSubset", "pid".into()),
        (
            "TemporaryFileSystem",
            Value::new(["/var", "/run", "/etc"].map(hidden).to_vec()),
        ),
        ("BindReadOnlyPaths", Value::new(bound(&job.reads))),
        // What it can do.
        ("NoNewPrivileges", true.into()),
        ("CapabilityBoundingSet", 0_u64.into()),
        (
            "SystemCallFilter",
            Value::new((true, list(&["@system-service"]))),
        ),
        ("SystemCallArchitectures", Value::new(list(&["native"]))),
        (
            "RestrictAddressFamilies",
            Value::new((true, list(&["AF_UNIX"]))),
        ),
        ("RestrictNamespaces", 0_u64.into()),
        ("RestrictRealtime", true.into()),
        ("RestrictSUIDSGID", true.into()),
        ("LockPersonality", true.into()),
        ("MemoryDenyWriteExecute", true.into()),
        ("ProtectClock", true.into()),
        ("ProtectControlGroups", true.into()),
        ("ProtectHostname", true.into()),
        ("ProtectKernelLogs", true.into()),
        ("ProtectKernelModules", true.into()),
        ("ProtectKernelTunables", true.into()),
        ("KeyringMode", "private".into()),
    ];
    if let Some(path) = &job.writes {
        all.push(("BindPaths", Value::new(bound(path))));
    }
    all
}

#[cfg(test)]
mod tests;
