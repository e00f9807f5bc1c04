use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::Mutex;

use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedValue;

use zbus::zvariant::OwnedObjectPath;

use super::*;
use crate::guests::confinement::Limits;
use crate::system::bus::fake;

const UNIT: &str = "/org/freedesktop/systemd1/unit/tool";
const SYSTEMD: &str = "/org/freedesktop/systemd1";

type Asked = Arc<Mutex<Vec<(String, Vec<(String, OwnedValue)>)>>>;

struct FakeManager {
    asked: Asked,
    stopped: tokio::sync::mpsc::UnboundedSender<String>,
    hangs: bool,
    subscribed: bool,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl FakeManager {
    /// As systemd does it.
    fn subscribe(&mut self) -> zbus::fdo::Result<()> {
        if std::mem::replace(&mut self.subscribed, true) {
            return Err(zbus::fdo::Error::Failed("already subscribed".into()));
        }
        Ok(())
    }

    async fn start_transient_unit(
        &self,
        name: String,
        _mode: String,
        properties: Vec<(String, OwnedValue)>,
        _aux: Vec<(String, Vec<(String, OwnedValue)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> OwnedObjectPath {
        for (key, value) in &properties {
            if key == "StandardOutputFileDescriptor" {
                let Value::Fd(fd) = &**value else {
                    panic!("{value:?}");
                };
                let mut stdout = File::from(fd.as_fd().try_clone_to_owned().unwrap());
                stdout.write_all(b"{\"required\": 1}").unwrap();
            }
        }
        let kept = properties.into_iter();
        let kept = kept
            .filter(|(key, _)| !key.ends_with("Descriptor"))
            .collect();
        self.asked.lock().unwrap().push((name.clone(), kept));
        let job = OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap();
        if !self.hangs {
            let done = String::from("done");
            Self::job_removed(&emitter, 1, job.clone(), name, done)
                .await
                .unwrap();
        }
        job
    }

    fn stop_unit(&self, name: String, _mode: String) -> OwnedObjectPath {
        self.stopped.send(name).unwrap();
        OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/2").unwrap()
    }

    fn get_unit(&self, _name: String) -> OwnedObjectPath {
        OwnedObjectPath::try_from(UNIT).unwrap()
    }

    fn reset_failed_unit(&self, _name: String) {}

    fn unref_unit(&self, _name: String) {}

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

struct FakeService {
    result: &'static str,
    code: i32,
    status: i32,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl FakeService {
    #[zbus(property)]
    fn result(&self) -> String {
        self.result.to_owned()
    }

    #[zbus(property)]
    fn exec_main_code(&self) -> i32 {
        self.code
    }

    #[zbus(property)]
    fn exec_main_status(&self) -> i32 {
        self.status
    }
}

fn job() -> Job {
    Job {
        program: "/usr/bin/qemu-img".into(),
        arguments: vec!["measure".into()],
        reads: "/var/lib/surplus/images/ab".into(),
        writes: Some("/var/lib/surplus/images/ab.vmdk.converting".into()),
        limits: Limits {
            memory_bytes: 1 << 29,
            cpu: Duration::from_secs(30),
            wall: Duration::from_secs(60),
            file_bytes: 1 << 24,
        },
    }
}

struct Rig {
    services: TransientServices,
    asked: Asked,
    stopped: tokio::sync::mpsc::UnboundedReceiver<String>,
    _systemd: Connection,
}

async fn rig(service: FakeService, hangs: bool) -> Rig {
    let asked = Asked::default();
    let (send, stopped) = tokio::sync::mpsc::unbounded_channel();
    let manager = FakeManager {
        asked: asked.clone(),
        stopped: send,
        hangs,
        subscribed: false,
    };
    let (ours, theirs) = fake::serving(SYSTEMD, manager).await;
    theirs.object_server().at(UNIT, service).await.unwrap();
    Rig {
        services: TransientServices::new(Arc::new(Bus::of(ours))),
        asked,
        stopped,
        _systemd: theirs,
    }
}

async fn ended(result: &'static str, code: i32, status: i32) -> End {
    let service = FakeService {
        result,
        code,
        status,
    };
    let rig = rig(service, false).await;
    rig.services.run(job()).await.unwrap().end
}

#[tokio::test]
async fn a_tool_is_closed_in_and_what_it_says_is_heard() {
    let service = FakeService {
        result: "success",
        code: 1,
        status: 0,
    };
    let mut rig = rig(service, false).await;
    let outcome = rig.services.run(job()).await.unwrap();
    assert_eq!(outcome.end, End::Exit(0));
    assert_eq!(outcome.stdout, b"{\"required\": 1}");
    let asked = std::mem::take(&mut *rig.asked.lock().unwrap());
    let [(name, properties)] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(rig.stopped.recv().await.as_ref(), Some(name));
    let value = |key: &str| {
        let found = properties.iter().find(|(name, _)| name == key);
        format!("{:?}", *found.unwrap_or_else(|| panic!("no {key}")).1)
    };
    for key in [
        "DynamicUser",
        "PrivateNetwork",
        "PrivateDevices",
        "NoNewPrivileges",
    ] {
        assert_eq!(value(key), "Bool(true)", "{key}");
    }
    assert_eq!(value("CapabilityBoundingSet"), "U64(0)");
    assert_eq!(value("LimitFSIZE"), "U64(16777216)");
    assert_eq!(value("TimeoutStartUSec"), "U64(60000000)");
    assert!(value("SystemCallFilter").contains("@system-service"));
    assert!(value("BindReadOnlyPaths").contains("/images/ab\""));
    assert!(value("BindPaths").contains("/images/ab.vmdk.converting\""));
    assert!(value("TemporaryFileSystem").contains("/var"));
}

#[tokio::test]
async fn one_tool_runs_after_another() {
    let service = FakeService {
        result: "success",
        code: 1,
        status: 0,
    };
    let rig = rig(service, false).await;
    for _ in 0..2 {
        assert_eq!(rig.services.run(job()).await.unwrap().end, End::Exit(0));
    }
    assert_eq!(rig.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn how_a_tool_ended_is_told_apart() {
    assert_eq!(ended("exit-code", 1, 3).await, End::Exit(3));
    assert_eq!(ended("timeout", 2, 15).await, End::OutOfTime);
    assert_eq!(ended("oom-kill", 2, 9).await, End::OutOfMemory);
    let space = ended("signal", 2, 25).await;
    assert_eq!(space, End::Signal(25));
    assert_eq!(space.limit(), Some("space"));
    assert_eq!(
        ended("core-dump", 3, 24).await.limit(),
        Some("processor time")
    );
    assert_eq!(ended("signal", 2, 31).await.limit(), Some("what it may do"));
}

#[tokio::test]
async fn a_confinement_that_cannot_be_made_is_not_the_images_fault() {
    let service = FakeService {
        result: "exit-code",
        code: 1,
        // EXIT_NAMESPACE.
        status: 226,
    };
    let rig = rig(service, false).await;
    let error = rig.services.run(job()).await.unwrap_err();
    assert!(error.to_string().contains("226"), "{error}");
}

#[tokio::test]
async fn a_service_that_nobody_waits_for_any_more_is_stopped() {
    let service = FakeService {
        result: "success",
        code: 1,
        status: 0,
    };
    let mut rig = rig(service, true).await;
    let services = rig.services.clone();
    let waiting = tokio::spawn(async move { services.run(job()).await });
    let name = loop {
        if let Some((name, _)) = rig.asked.lock().unwrap().first() {
            break name.clone();
        }
        tokio::task::yield_now().await;
    };
    waiting.abort();
    assert_eq!(rig.stopped.recv().await, Some(name));
}
