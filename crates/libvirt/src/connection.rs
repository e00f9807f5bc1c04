//! The connection, the thread that owns it, and the calls it makes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use std::{mem, thread};

use tokio::sync::{broadcast, oneshot};
use virt::connect::Connect;
use virt::domain::Domain as Handle;
use virt::error::{Error as VirtError, ErrorNumber};

use crate::domain::{Domain, InterfaceBytes, Stats};
use crate::error::{Error, Kind};
use crate::events::{self, Lifecycle, Registration};
use crate::look::look;

/// How many events a slow listener may fall behind before it loses some.
const EVENT_BACKLOG: usize = 256;

/// How long a call may take: the longest of them starts QEMU or probes it on a
/// slow host.
const DEADLINE: Duration = Duration::from_secs(60);

/// Seconds between signs of life on the connection, and how many may fail to
/// come: a daemon that hangs is noticed after some 20 seconds.
const KEEP_ALIVE: (i32, u32) = (5, 3);

/// Threads that may hang in calls past their deadline; with so many there is
/// no use in asking once more.
const MAX_HUNG: usize = 4;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// A libvirt daemon. Clones share one connection.
#[derive(Clone)]
pub struct Libvirt {
    uri: Arc<str>,
    deadline: Duration,
    thread: Arc<Mutex<Thread>>,
    /// Threads in calls past their deadline.
    hung: Arc<AtomicUsize>,
    /// Of the domains that the last look saw.
    metadata: Arc<Mutex<Metadata>>,
    events: broadcast::Sender<Lifecycle>,
}

/// Metadata by UUID and ID of the domain: what is started anew has another ID.
type Metadata = HashMap<(String, Option<u32>), Option<Arc<str>>>;

/// The thread that makes the calls now.
struct Thread {
    /// Grows with each replacement.
    number: u64,
    jobs: mpsc::Sender<Job>,
}

impl fmt::Debug for Libvirt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libvirt").finish_non_exhaustive()
    }
}

impl Libvirt {
    /// Makes a handle on the libvirt at `uri` (`qemu:///system`,
    /// `test:///default`). Connects at the first request, not here.
    ///
    /// # Errors
    ///
    /// When the connection's thread cannot be started.
    pub fn new(uri: &str) -> std::io::Result<Self> {
        events::start_loop();
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let jobs = Worker::spawn(uri, events.clone())?;
        Ok(Self {
            uri: uri.into(),
            deadline: DEADLINE,
            thread: Arc::new(Mutex::new(Thread { number: 0, jobs })),
            hung: Arc::default(),
            metadata: Arc::default(),
            events,
        })
    }

    /// The same with another deadline for each call.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// How many calls have been past their deadline and have not returned yet.
    /// They return when the daemon answers or is restarted.
    pub fn hung(&self) -> usize {
        self.hung.load(Ordering::Relaxed)
    }

    /// Lifecycle events from now on. A listener that falls far behind loses
    /// the oldest.
    pub fn events(&self) -> broadcast::Receiver<Lifecycle> {
        self.events.subscribe()
    }

    /// Waits until libvirt answers, trying for ever with short pauses.
    pub async fn wait_until_there(&self) {
        let mut pause = Duration::from_millis(100);
        while let Err(error) = self.version().await {
            tracing::debug!(%error, "libvirt is not there yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// The version of libvirt's hypervisor driver, as libvirt writes it
    /// (major × 1,000,000 + minor × 1,000 + release).
    pub async fn version(&self) -> Result<u32, Error> {
        self.call("connect to", "the hypervisor", |connect| {
            connect.get_hyp_version()
        })
        .await
    }

    /// The host's capabilities, as XML.
    pub async fn capabilities(&self) -> Result<String, Error> {
        self.call("read the capabilities of", "the host", |connect| {
            connect.get_capabilities()
        })
        .await
    }

    /// What domains of a machine and type (`kvm`, `qemu`) can have, as XML.
    /// The first call makes libvirt probe QEMU, which takes seconds on slow
    /// hosts: ask early.
    pub async fn domain_capabilities(
        &self,
        arch: &'static str,
        machine: &'static str,
        kind: &'static str,
    ) -> Result<String, Error> {
        self.call("read the domain capabilities for", kind, move |connect| {
            connect.get_domain_capabilities(None, Some(arch), Some(machine), Some(kind), 0)
        })
        .await
    }

    /// Every active domain, with the metadata element of `namespace`. That is
    /// asked for once: it stays what its domain was made with.
    pub async fn domains(&self, namespace: &'static str) -> Result<Vec<Domain>, Error> {
        let memory = Arc::clone(&self.metadata);
        self.call("list", "domains", move |connect| {
            // Not locked meanwhile: this call may hang.
            let memory = || memory.lock().unwrap_or_else(PoisonError::into_inner);
            let mut known = mem::take(&mut *memory());
            let (mut domains, mut now) = (Vec::new(), Metadata::new());
            for seen in look(connect)? {
                let (name, uuid) = (seen.handle.get_name()?, seen.handle.get_uuid_string()?);
                let instance = (uuid.clone(), seen.handle.get_id());
                let metadata = match known.remove(&instance) {
                    Some(metadata) => metadata,
                    None => match metadata(&seen.handle, namespace) {
                        Ok(metadata) => metadata,
                        // It ended between the one call and the other.
                        Err(error) if error.code() == ErrorNumber::NoDomain => continue,
                        Err(error) => return Err(error),
                    },
                };
                now.insert(instance, metadata.clone());
                domains.push(Domain {
                    name,
                    uuid,
                    state: seen.state,
                    metadata,
                    stats: seen.stats,
                });
            }
            *memory() = now;
            Ok(domains)
        })
        .await
    }

    /// Starts a transient domain from its XML. `name` is for messages.
    pub async fn create(&self, name: &str, xml: String) -> Result<(), Error> {
        if xml.contains('\0') {
            return Err(Error::text(
                "create domain",
                name,
                Kind::Refused,
                "its XML holds a NUL",
            ));
        }
        self.call("create domain", name, move |connect| {
            Handle::create_xml(connect, &xml, virt_sys::VIR_DOMAIN_NONE).map(drop)
        })
        .await
    }

    /// Asks the guest to power off (ACPI). It may ignore that.
    pub async fn shutdown(&self, name: &str) -> Result<(), Error> {
        self.on_domain("shut down domain", name, |handle| {
            handle.shutdown().map(drop)
        })
        .await
    }

    /// Ends the domain at once.
    pub async fn destroy(&self, name: &str) -> Result<(), Error> {
        self.on_domain("destroy domain", name, Handle::destroy)
            .await
    }

    /// Pauses the domain's CPUs.
    pub async fn suspend(&self, name: &str) -> Result<(), Error> {
        self.on_domain("suspend domain", name, |handle| handle.suspend().map(drop))
            .await
    }

    /// Lets a paused domain run on.
    pub async fn resume(&self, name: &str) -> Result<(), Error> {
        self.on_domain("resume domain", name, |handle| handle.resume().map(drop))
            .await
    }

    /// What the domain has used; `interface` is its interface's name on the
    /// host.
    pub async fn stats(&self, name: &str, interface: &str) -> Result<Stats, Error> {
        let interface = interface.to_owned();
        self.on_domain("read the statistics of domain", name, move |handle| {
            let info = handle.get_info()?;
            let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
            let interface = handle
                .interface_stats(&interface)
                .ok()
                .map(|stats| InterfaceBytes {
                    received: bytes(stats.rx_bytes),
                    sent: bytes(stats.tx_bytes),
                });
            Ok(Stats {
                cpu_nanos: info.cpu_time,
                interface,
            })
        })
        .await
    }

    async fn on_domain<T: Send + 'static>(
        &self,
        operation: &'static str,
        name: &str,
        action: impl FnOnce(&Handle) -> Result<T, VirtError> + Send + 'static,
    ) -> Result<T, Error> {
        if name.contains('\0') {
            return Err(Error::text(
                operation,
                name,
                Kind::Refused,
                "its name holds a NUL",
            ));
        }
        let wanted = name.to_owned();
        self.call(operation, name, move |connect| {
            action(&Handle::lookup_by_name(connect, &wanted)?)
        })
        .await
    }

    /// Runs `action` on the connection's thread. Dropping the future takes the
    /// request back while it waits for its turn; once it has begun it is ended,
    /// and its answer is thrown away.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        object: &str,
        action: impl FnOnce(&Connect) -> Result<T, VirtError> + Send + 'static,
    ) -> Result<T, Error> {
        let failed = |text| Error::text(operation, object, Kind::Unreachable, text);
        if self.hung() >= MAX_HUNG {
            return Err(failed("libvirt hangs: earlier calls have not returned"));
        }
        let (reply, answer) = oneshot::channel();
        let asked = object.to_owned();
        let call = Arc::new(AtomicUsize::new(WAITING));
        let (state, hung) = (Arc::clone(&call), Arc::clone(&self.hung));
        let job: Job = Box::new(move |worker| {
            // Nobody waits for it any more: what was asked may be wrong by now.
            let result = (!reply.is_closed()).then(|| worker.run(operation, &asked, action));
            // The thread is back, by this call or by one that it waited behind.
            if state.swap(RETURNED, Ordering::Relaxed) == ABANDONED {
                hung.fetch_sub(1, Ordering::Relaxed);
            }
            if let Some(result) = result {
                let _ = reply.send(result);
            }
        });
        let gone = || failed("its thread has ended");
        let number = {
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            thread.jobs.send(job).map_err(|_| gone())?;
            thread.number
        };
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(answer) => answer.map_err(|_| gone())?,
            Err(_) => {
                self.give_up(number, &call);
                Err(failed("libvirt hangs: it did not answer in time"))
            }
        }
    }

    /// Leaves a thread to its call, and makes later calls on a new one.
    fn give_up(&self, number: u64, call: &AtomicUsize) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waited behind the call that hangs finds it given up already.
        if thread.number != number {
            return;
        }
        // Counted first: the call may return at this moment.
        self.hung.fetch_add(1, Ordering::Relaxed);
        if call.swap(ABANDONED, Ordering::Relaxed) == RETURNED {
            self.hung.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        match Worker::spawn(&self.uri, self.events.clone()) {
            Ok(jobs) => {
                *thread = Thread {
                    number: number + 1,
                    jobs,
                }
            }
            Err(error) => tracing::error!(%error, "no second thread for libvirt"),
        }
    }
}

fn metadata(handle: &Handle, namespace: &str) -> Result<Option<Arc<str>>, VirtError> {
    let element = virt_sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    match handle.get_metadata(element, Some(namespace), 0) {
        Ok(metadata) => Ok(Some(metadata.into())),
        Err(error) if error.code() == ErrorNumber::NoDomainMetadata => Ok(None),
        Err(error) => Err(error),
    }
}

/// How far a call has come.
const WAITING: usize = 0;
const RETURNED: usize = 1;
const ABANDONED: usize = 2;

/// What the connection's thread owns.
struct Worker {
    uri: String,
    events: broadcast::Sender<Lifecycle>,
    link: Option<Link>,
}

struct Link {
    connect: Connect,
    registration: Option<Registration>,
}

impl Worker {
    /// Starts the thread, which ends with the last sender of its jobs.
    fn spawn(
        uri: &str,
        events: broadcast::Sender<Lifecycle>,
    ) -> std::io::Result<mpsc::Sender<Job>> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let mut worker = Self {
            uri: uri.to_owned(),
            events,
            link: None,
        };
        thread::Builder::new()
            .name("libvirt".into())
            .spawn(move || {
                for job in inbox {
                    job(&mut worker);
                }
                worker.hang_up();
            })?;
        Ok(jobs)
    }

    fn run<T>(
        &mut self,
        operation: &'static str,
        object: &str,
        action: impl FnOnce(&Connect) -> Result<T, VirtError>,
    ) -> Result<T, Error> {
        let connect = self.connected()?;
        let result = action(connect);
        let alive = connect.is_alive().unwrap_or(false);
        if !alive {
            self.hang_up();
        }
        result.map_err(|source| {
            let error = Error::new(operation, object, source);
            if alive { error } else { error.unreachable() }
        })
    }

    /// The live connection, made anew where there is none.
    fn connected(&mut self) -> Result<&Connect, Error> {
        let dead = |link: &Link| !link.connect.is_alive().unwrap_or(false);
        if self.link.as_ref().is_some_and(dead) {
            tracing::warn!(
                uri = self.uri,
                "the connection to libvirt was lost; connecting again"
            );
            self.hang_up();
        }
        let link = match self.link.take() {
            Some(link) => link,
            None => self.dial()?,
        };
        Ok(&self.link.insert(link).connect)
    }

    fn dial(&self) -> Result<Link, Error> {
        let connect = Connect::open(Some(&self.uri))
            .map_err(|source| Error::new("connect to", &self.uri, source).unreachable())?;
        // Drivers within the process (the tests') have none, and cannot hang so.
        if let Err(error) = connect.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1) {
            tracing::debug!(%error, "libvirt gives no signs of life");
        }
        // Without events the periodic look still finds everything, later.
        let registration = events::register(&connect, self.events.clone())
            .inspect_err(|error| tracing::warn!(%error, "libvirt gives no lifecycle events"))
            .ok();
        Ok(Link {
            connect,
            registration,
        })
    }

    fn hang_up(&mut self) {
        if let Some(Link {
            mut connect,
            registration,
        }) = self.link.take()
        {
            if let Some(registration) = registration {
                registration.end(&connect);
            }
            let _ = connect.close();
        }
    }
}

#[cfg(test)]
mod tests;
