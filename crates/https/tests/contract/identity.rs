//! What a server knows of its peers.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use surplus_https::ClientError;
use surplus_pki::{Authority, Certificate, CertificateRequest, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::site::{HOST, Site, who};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

#[tokio::test]
async fn a_hosts_certificate_reaches_the_handler() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let certificate = site.host(&key, HOUR);
    let client = site
        .builder()
        .identity(key, certificate.clone())
        .build()
        .unwrap();
    let who = who(&client).await;
    assert_eq!(who.certificate, "valid");
    assert_eq!(who.name.as_deref(), Some(HOST));
    assert_eq!(who.serial.as_deref(), Some(certificate.serial_hex()));
}

#[tokio::test]
async fn an_expired_certificate_is_let_in_and_marked() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let certificate = site.host(&key, HOUR);
    site.time.forward(SignedDuration::from_hours(24 * 80));
    let client = site.builder().identity(key, certificate).build().unwrap();
    assert_eq!(who(&client).await.certificate, "expired");
}

#[tokio::test]
async fn a_certificate_that_expires_during_a_connection_is_marked_from_then_on() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let certificate = site.host(&key, HOUR);
    let client = site.builder().identity(key, certificate).build().unwrap();
    assert_eq!(who(&client).await.certificate, "valid");
    site.time.forward(HOUR + SignedDuration::from_secs(1));
    assert_eq!(who(&client).await.certificate, "expired");
}

#[tokio::test]
async fn certificates_of_other_cas_and_for_other_uses_are_refused() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let now = site.time.now();
    let request = CertificateRequest::create(&key, "new", &[]).unwrap();
    let foreign = Authority::create(now)
        .unwrap()
        .issue_host(&request, HOST, now, HOUR)
        .unwrap();
    let signer = site.authority.issue_signer(&key, now).unwrap();
    let server = site
        .authority
        .issue_server(&["a.example".to_owned()], &key, now)
        .unwrap();
    for certificate in [foreign, signer, server] {
        let client = site
            .builder()
            .identity(key.clone(), certificate)
            .build()
            .unwrap();
        let error = client.get_json::<()>("/who").await.unwrap_err();
        assert!(
            matches!(
                error,
                ClientError::Transport { .. } | ClientError::Connect { .. }
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_new_client_shows_the_new_identity() {
    let site = Site::start().await;
    assert_eq!(who(&site.client()).await.certificate, "none");
    let key = KeyPair::generate().unwrap();
    for _ in 0..2 {
        let certificate = site.host(&key, HOUR);
        let client = site
            .builder()
            .identity(key.clone(), certificate.clone())
            .build()
            .unwrap();
        assert_eq!(
            who(&client).await.serial.as_deref(),
            Some(certificate.serial_hex())
        );
    }
}

#[tokio::test]
async fn a_certificate_for_another_key_is_noticed_before_connecting() {
    let site = Site::start().await;
    let certificate = site.host(&KeyPair::generate().unwrap(), HOUR);
    let other = KeyPair::generate().unwrap();
    assert!(site.builder().identity(other, certificate).build().is_err());
}

/// A client of another make, that would resume sessions if it could.
fn foreign_client(
    site: &Site,
    version: &'static SupportedProtocolVersion,
    identity: Option<(&KeyPair, &Certificate)>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(site.authority.certificate().der().clone())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some((key, certificate)) => config
            .with_client_auth_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(key.to_pkcs8_der()),
            )
            .unwrap(),
    };
    TlsConnector::from(Arc::new(config))
}

async fn get(site: &Site, tls: &TlsConnector) -> (String, Option<HandshakeKind>) {
    let tcp = TcpStream::connect(site.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tls.connect(name, tcp).await.unwrap();
    let request = "GET /who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    (answer, stream.get_ref().1.handshake_kind())
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let certificate = site.host(&key, HOUR);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for identity in [None, Some((&key, &certificate))] {
            let tls = foreign_client(&site, version, identity);
            for _ in 0..3 {
                let (answer, kind) = get(&site, &tls).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                assert_eq!(kind, Some(HandshakeKind::Full));
            }
        }
    }
}

#[tokio::test]
async fn handlers_can_tell_tls_1_2_from_1_3() {
    let site = Site::start().await;
    for (version, text) in [
        (&rustls::version::TLS13, "1.3"),
        (&rustls::version::TLS12, "1.2"),
    ] {
        let (answer, _) = get(&site, &foreign_client(&site, version, None)).await;
        assert!(answer.contains(&format!(r#""tls":"{text}""#)), "{answer}");
    }
}

#[tokio::test]
async fn running_requests_are_finished_at_the_servers_end() {
    let mut site = Site::start().await;
    let client = site.client();
    let running = tokio::spawn(async move {
        let (headers, body) = (http::HeaderMap::new(), surplus_https::Body::empty());
        client
            .request(http::Method::GET, "/soon", headers, body)
            .await?
            .bytes(100)
            .await
    });
    // The handshake at least has to be on its way; a request that comes too
    // late is refused as a whole, which `is_err` would show.
    tokio::time::sleep(Duration::from_millis(150)).await;
    site.end.take().unwrap().send(()).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), running)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer.unwrap()[..], b"finished");
    tokio::time::timeout(Duration::from_secs(10), &mut site.served)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let site = Site::start_with(|server| server.max_connections(1)).await;
    let first = site.client();
    who(&first).await;
    let second = site
        .builder()
        .connect_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    assert!(matches!(
        second.get_json::<()>("/who").await,
        Err(ClientError::Connect { .. })
    ));
    drop(first);
    let third = site.client();
    who(&third).await;
}

#[tokio::test]
async fn a_refusal_before_the_body_was_read_leaves_the_connection_usable() {
    let site = Site::start().await;
    let tcp = TcpStream::connect(site.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = foreign_client(&site, &rustls::version::TLS13, None);
    let mut stream = tls.connect(name, tcp).await.unwrap();
    let body = vec![b'x'; 100_000];
    let head = format!(
        "POST /no-such-path HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    // The refusal is decided before the body starts.
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(&body).await.unwrap();
    let next = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(next.as_bytes()).await.unwrap();
    let mut answers = String::new();
    let read = stream.read_to_string(&mut answers);
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    assert!(answers.starts_with("HTTP/1.1 404"), "{answers}");
    assert!(answers.contains("HTTP/1.1 200"), "{answers}");
}
