//! The server as curl, and a client that keeps its connection, see it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use surplus_artefacts::{Artefacts, Observer, Transfer, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// Where each transfer began, and how far it came.
#[derive(Default)]
struct Seen(Mutex<Vec<(String, u64, u64)>>);

impl Observer for Seen {
    fn begun(&self, transfer: &Transfer) {
        let begun = (transfer.name.clone(), transfer.first, transfer.first);
        self.0.lock().unwrap().push(begun);
    }

    fn sent(&self, transfer: &Transfer, position: u64) {
        let mut seen = self.0.lock().unwrap();
        let last = seen
            .iter_mut()
            .rfind(|(name, first, _)| *name == transfer.name && *first == transfer.first);
        last.unwrap().2 = position;
    }
}

struct Served {
    dir: tempfile::TempDir,
    address: SocketAddr,
    seen: Arc<Seen>,
    root: Vec<u8>,
}

async fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let root: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
    fs::write(dir.path().join("root.img"), &root).unwrap();
    fs::write(dir.path().join("secret"), "not listed").unwrap();
    let artefacts = Artefacts::open(dir.path(), &["root.img"])
        .unwrap()
        .with("start.ipxe", "#!ipxe\n");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    tokio::spawn(serve(
        listener,
        artefacts,
        seen.clone(),
        std::future::pending(),
    ));
    Served {
        dir,
        address,
        seen,
        root,
    }
}

impl Served {
    /// What curl gets: the status, and the body.
    async fn curl(&self, options: &[&str], name: &str) -> (String, Vec<u8>) {
        let file = self.dir.path().join("got");
        let _ = fs::remove_file(&file);
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "30", "--output"])
            .arg(&file)
            .args(["--write-out", "%{http_code}"])
            .args(options)
            .arg(format!("http://{}/{name}", self.address))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap_or_else(|error| panic!("cannot run curl: {error}; next: apt-get install curl"));
        let status = String::from_utf8(output.stdout).unwrap();
        (status, fs::read(&file).unwrap_or_default())
    }
}

#[tokio::test]
async fn a_file_comes_whole_in_part_and_resumed() {
    let served = served().await;
    let (status, body) = served.curl(&[], "root.img").await;
    assert_eq!(status, "200");
    assert!(body == served.root);
    let (status, body) = served.curl(&["--range", "1000-1999"], "root.img").await;
    assert_eq!(status, "206");
    assert_eq!(body, served.root[1000..2000]);
    let (status, body) = served.curl(&["--range", "999990-"], "root.img").await;
    assert_eq!(status, "206");
    assert_eq!(body, served.root[999_990..]);
    let (status, _) = served.curl(&["--range", "1000000-"], "root.img").await;
    assert_eq!(status, "416");
    let seen = served.seen.0.lock().unwrap();
    let transfers = [(0, 1_000_000), (1000, 2000), (999_990, 1_000_000)];
    let expected = transfers.map(|(first, end)| ("root.img".to_owned(), first, end));
    assert_eq!(*seen, expected);
}

#[tokio::test]
async fn only_what_is_listed_is_served() {
    let served = served().await;
    for name in ["secret", "../root.img", "%2e%2e/root.img", "", "root.img/"] {
        let (status, body) = served.curl(&["--path-as-is"], name).await;
        assert_eq!(status, "404", "{name}");
        assert!(!body.starts_with(b"not listed"));
    }
    let (status, body) = served.curl(&[], "start.ipxe?mac=x").await;
    assert_eq!(
        (status.as_str(), body.as_slice()),
        ("200", &b"#!ipxe\n"[..])
    );
    let (status, _) = served.curl(&["--request", "PUT"], "root.img").await;
    assert_eq!(status, "405");
}

#[tokio::test]
async fn a_resumed_transfer_of_a_replaced_file_begins_anew() {
    let served = served().await;
    let output = Command::new("curl")
        .args(["--silent", "--head"])
        .arg(format!("http://{}/root.img", served.address))
        .output()
        .await
        .unwrap();
    let head = String::from_utf8(output.stdout).unwrap().to_lowercase();
    let tag = head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "))
        .unwrap()
        .trim();
    assert!(head.contains("content-length: 1000000"), "{head}");
    assert!(head.contains("accept-ranges: bytes"), "{head}");
    let part = ["--range", "10-19"];
    let if_range = ["--header", &format!("If-Range: {tag}")].map(str::to_owned);
    let with: Vec<&str> = part
        .into_iter()
        .chain(if_range.iter().map(String::as_str))
        .collect();
    assert_eq!(served.curl(&with, "root.img").await.0, "206");
    let none_match = format!("If-None-Match: {tag}");
    let (status, _) = served.curl(&["--header", &none_match], "root.img").await;
    assert_eq!(status, "304");
    let new = served.dir.path().join("new");
    fs::write(&new, vec![7; 1_000_000]).unwrap();
    fs::rename(new, served.dir.path().join("root.img")).unwrap();
    let (status, body) = served.curl(&with, "root.img").await;
    assert_eq!((status.as_str(), body.len()), ("200", 1_000_000));
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let served = served().await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    for _ in 0..3 {
        let request = "GET /root.img HTTP/1.1\r\nHost: x\r\nRange: bytes=5-8\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(&served.root[5..9]) {
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&buffer[..count]);
        }
        assert!(got.starts_with(b"HTTP/1.1 206"));
    }
}
