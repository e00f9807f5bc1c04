use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::domain::State;
use crate::events::Moment;

const NAMESPACE: &str = "https://example.org/guests";
const UUID: &str = "0190a1b2-0000-4000-8000-000000000001";
const DEADLINE: Duration = Duration::from_secs(20);

fn xml(name: &str) -> String {
    format!(
        "<domain type='test'><name>{name}</name><uuid>{UUID}</uuid><memory unit='MiB'>64</memory>\
         <metadata><g:guest xmlns:g='{NAMESPACE}' lease='7'/></metadata>\
         <os><type>hvm</type></os></domain>"
    )
}

/// The one domain with metadata of ours.
async fn ours(libvirt: &Libvirt) -> Option<Domain> {
    let mut domains = libvirt.domains(NAMESPACE).await.unwrap().into_iter();
    domains.find(|domain| domain.metadata.is_some())
}

#[tokio::test]
async fn a_transient_domain_lives_from_create_to_destroy() {
    let libvirt = Libvirt::new("test:///default").unwrap();
    timeout(DEADLINE, libvirt.wait_until_there()).await.unwrap();
    assert!(
        libvirt
            .capabilities()
            .await
            .unwrap()
            .contains("<capabilities>")
    );
    let mut events = libvirt.events();

    libvirt.create("guest-a", xml("guest-a")).await.unwrap();
    let domain = ours(&libvirt).await.unwrap();
    assert_eq!(
        (domain.name.as_str(), domain.state),
        ("guest-a", State::Running)
    );
    assert!(
        domain.metadata.as_deref().unwrap().contains("lease=\"7\""),
        "{domain:?}"
    );
    assert!(
        libvirt
            .stats("guest-a", "none")
            .await
            .unwrap()
            .interface
            .is_none()
    );

    libvirt.suspend("guest-a").await.unwrap();
    let paused = ours(&libvirt).await.unwrap();
    assert_eq!(
        paused,
        Domain {
            state: State::Paused,
            ..domain
        }
    );
    libvirt.resume("guest-a").await.unwrap();

    // What is made anew is another, of whatever name and UUID.
    libvirt.destroy("guest-a").await.unwrap();
    let other = xml("guest-a").replace("lease='7'", "lease='8'");
    libvirt.create("guest-a", other).await.unwrap();
    let domain = ours(&libvirt).await.unwrap();
    assert!(
        domain.metadata.as_deref().unwrap().contains("lease=\"8\""),
        "{domain:?}"
    );
    libvirt.destroy("guest-a").await.unwrap();
    assert_eq!(ours(&libvirt).await, None);

    let mut moments = Vec::new();
    while !moments.contains(&Moment::Stopped) {
        let event = timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
        assert_eq!(event.domain, "guest-a");
        moments.push(event.moment);
    }
    assert!(moments.contains(&Moment::Started), "{moments:?}");
    assert!(moments.contains(&Moment::Paused), "{moments:?}");
}

#[tokio::test]
async fn errors_name_the_operation_and_the_domain() {
    let libvirt = Libvirt::new("test:///default").unwrap();
    let error = libvirt.destroy("nobody").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoDomain);
    assert_eq!(error.to_string(), "libvirt could not destroy domain nobody");
    let error = libvirt
        .create("broken", "<domain".into())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let error = libvirt.create("broken", "\0".into()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
}

/// A daemon that takes connections and says nothing.
fn mute_daemon() -> (
    Libvirt,
    std::os::unix::net::UnixListener,
    std::path::PathBuf,
) {
    let path = std::env::temp_dir().join(format!("mute-libvirt-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let uri = format!("qemu+unix:///system?socket={}", path.display());
    let libvirt = Libvirt::new(&uri).unwrap();
    let short = libvirt.with_deadline(Duration::from_millis(200));
    (short, listener, path)
}

#[tokio::test]
async fn a_daemon_that_hangs_is_reported_and_asked_again_once_it_was_restarted() {
    let (libvirt, listener, path) = mute_daemon();
    for hung in 1..=MAX_HUNG {
        // Two at once: the second waits behind the first.
        let (one, two) = tokio::join!(libvirt.domains(NAMESPACE), libvirt.destroy("guest"));
        assert_eq!(one.unwrap_err().kind(), Kind::Unreachable);
        assert_eq!(two.unwrap_err().kind(), Kind::Unreachable);
        assert_eq!(libvirt.hung(), hung);
    }
    // No thread more is lost to it.
    let error = libvirt.version().await.unwrap_err();
    assert!(error.to_string().contains("hangs"), "{error}");
    assert_eq!(libvirt.hung(), MAX_HUNG);
    // The daemon goes: the calls return.
    drop(listener);
    std::fs::remove_file(path).unwrap();
    timeout(DEADLINE, async {
        while libvirt.hung() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let error = libvirt.version().await.unwrap_err();
    assert!(!error.to_string().contains("hangs"), "{error}");
}

#[tokio::test]
async fn a_missing_daemon_is_unreachable_not_refused() {
    let libvirt = Libvirt::new("qemu+unix:///system?socket=/nonexistent/libvirt-sock").unwrap();
    let error = libvirt.domains(NAMESPACE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error:?}");
}
