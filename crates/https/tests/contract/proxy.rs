//! Through a proxy.

use std::net::SocketAddr;
use std::time::Duration;

use surplus_https::{Client, ClientError};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::site::{Site, who};

/// A proxy that does CONNECT for `user:pass word` and nothing else.
async fn proxy() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tunnel(stream));
        }
    });
    address
}

async fn tunnel(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap() == 0 {
            return;
        }
    }
    let authorized = head
        .to_ascii_lowercase()
        .contains("proxy-authorization: basic dxnlcjpwyxnzihdvcmq=");
    if !authorized {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(refusal.as_bytes()).await.unwrap();
        return;
    }
    let target = head
        .strip_prefix("CONNECT ")
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let mut server = TcpStream::connect(target).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
}

#[tokio::test]
async fn requests_go_through_the_proxy_with_its_credentials() {
    let site = Site::start().await;
    let proxy = proxy().await;
    let client = site
        .builder()
        .proxy(format!("http://user:pass word@{proxy}"))
        .build()
        .unwrap();
    who(&client).await;
}

#[tokio::test]
async fn a_proxy_that_refuses_is_reported() {
    let site = Site::start().await;
    let proxy = proxy().await;
    let client = site
        .builder()
        .proxy(format!("http://{proxy}"))
        .build()
        .unwrap();
    let error = client.get_json::<()>("/who").await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_mute_proxy_is_given_up() {
    let site = Site::start().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = site
        .builder()
        .proxy(format!("http://{}", mute.local_addr().unwrap()))
        .connect_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let error = client.get_json::<()>("/who").await.unwrap_err();
    assert!(
        matches!(error, ClientError::Connect { .. }) && error.retryable(),
        "{error:?}"
    );
}

#[tokio::test]
async fn no_message_shows_the_proxys_password() {
    let bad = Client::builder()
        .url("https://a.example")
        .proxy("socks://user:secret@b.example");
    assert!(!format!("{bad:?}").contains("secret"));
    let site = Site::start().await;
    let error = bad.trust(site.trust()).build().unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
}
