//! A boot server on loopback with small artefacts, and clients for it.

use std::error::Error as _;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use surplus_https::{Client, Clock, Trust};
use surplus_netboot::places::Places;
use surplus_netboot::watch::{Look, Watch};
use surplus_netboot::{Config, Netboot, RunError, StartError};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SITE: &str = r#"version = 1

[marketplace]
url = "https://hub.example:8443"
ca_sha256 = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
token = "surplus_join_secret"

[site]
name = "berlin-1"
rack = "a"
"#;

/// Artefacts, site file and state, in a directory of their own.
pub(crate) struct Bench(tempfile::TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        fs::create_dir(bench.path("artefacts")).unwrap();
        fs::write(bench.path("site.toml"), SITE).unwrap();
        for name in surplus_artefacts::NAMES {
            match *name {
                "SHA256SUMS" => {}
                "surplus.efi" => bench.put(name, &image()),
                _ => bench.put(name, format!("this is {name}\n").repeat(1000).as_bytes()),
            }
        }
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn site_text(&self) -> String {
        SITE.to_owned()
    }

    /// Puts an artefact there, and its sum on the list.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let list = self.path("artefacts/SHA256SUMS");
        fs::write(self.path("artefacts").join(name), bytes).unwrap();
        let mut text: String = fs::read_to_string(&list)
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.ends_with(&format!("  {name}")))
            .map(|line| format!("{line}\n"))
            .collect();
        text += &format!("{}  {name}\n", hex::encode(Sha256::digest(bytes)));
        fs::write(list, text).unwrap();
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            interface: "lo".into(),
            listen_address: None,
            http_port: 0,
            https_port: 0,
            tftp_port: 0,
            artefacts: self.path("artefacts"),
            site: self.path("site.toml"),
            state: self.path("state"),
            also: Vec::new(),
            choice: surplus_netboot::hardware::Choice::default(),
            site_networks: Vec::new(),
            dhcp: false,
            relayed: false,
            clock: Clock::system(),
        }
    }

    pub(crate) fn open(&self) -> Result<Netboot, StartError> {
        Netboot::open(self.config())
    }

    pub(crate) fn serve(self) -> Served {
        let netboot = self.open().unwrap();
        let places = netboot.places().clone();
        let watch = Watch::start(Look::Nothing);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(netboot.serve(watch.clone(), async {
            let _ = stopped.await;
        }));
        Served {
            bench: self,
            places,
            watch,
            stop,
            running,
        }
    }
}

/// A boot server that runs.
pub(crate) struct Served {
    pub(crate) bench: Bench,
    pub(crate) places: Places,
    pub(crate) watch: Arc<Watch>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), RunError>>,
}

pub(crate) struct Got {
    pub(crate) status: String,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn text(self) -> String {
        String::from_utf8(self.body).unwrap()
    }
}

impl Served {
    pub(crate) async fn stop(self) -> Bench {
        let _ = self.stop.send(());
        self.running.await.unwrap().unwrap();
        self.bench
    }

    pub(crate) async fn http(&self, name: &str) -> Got {
        self.http_with(&[], name).await
    }

    /// What curl gets.
    pub(crate) async fn http_with(&self, options: &[&str], name: &str) -> Got {
        let file = self.bench.path("got");
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "30", "--path-as-is", "--output"])
            .arg(&file)
            .args(["--write-out", "%{http_code}"])
            .args(options)
            .arg(self.places.url(name))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap_or_else(|error| panic!("cannot run curl: {error}; next: apt-get install curl"));
        Got {
            status: String::from_utf8(output.stdout).unwrap(),
            body: fs::read(&file).unwrap(),
        }
    }

    /// The site file, as the agent fetches it; else the whole error.
    pub(crate) async fn pinned(&self, pin: [u8; 32]) -> Result<String, String> {
        let site = self.places.site();
        let base = site.trim_end_matches("/site.toml");
        let client = Client::builder()
            .url(base)
            .trust(Trust::Pin(pin))
            .build()
            .unwrap();
        let request = async {
            let (headers, body) = (http::HeaderMap::new(), surplus_https::Body::empty());
            let answer = client
                .request(http::Method::GET, "/site.toml", headers, body)
                .await?;
            answer.bytes(64 * 1024).await
        };
        let bytes = request.await.map_err(|error| {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                text += &format!(": {error}");
                source = error.source();
            }
            text
        })?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }
}

/// The smallest unified kernel image: a PE header and a section with the
/// kernel command line.
fn image() -> Vec<u8> {
    const HEADER: usize = 0x40;
    const OPTIONAL: usize = HEADER + 24;
    const TABLE: usize = OPTIONAL + 240;
    const TEXT: u16 = 0x200;
    const ROOM: u16 = 1536;
    let mut image = vec![0; TEXT.into()];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    put(HEADER, b"PE\0\0");
    put(HEADER + 4, &0x8664_u16.to_le_bytes());
    put(HEADER + 6, &1_u16.to_le_bytes());
    put(HEADER + 20, &240_u16.to_le_bytes());
    put(OPTIONAL, &0x20b_u16.to_le_bytes());
    put(OPTIONAL + 108, &16_u32.to_le_bytes());
    put(TABLE, b".cmdline");
    for at in [TABLE + 8, TABLE + 16] {
        put(at, &ROOM.to_le_bytes());
    }
    put(TABLE + 20, &TEXT.to_le_bytes());
    let line = format!("quiet surplus.roothash={}", "ab".repeat(32));
    image.extend(format!("{line:<0$}", usize::from(ROOM)).bytes());
    image
}

/// The image with something in the place of a signature.
pub(crate) fn signed(mut image: Vec<u8>) -> Vec<u8> {
    const DIRECTORY: usize = 0x40 + 24 + 112 + 4 * 8;
    let start = u32::try_from(image.len()).unwrap();
    image.extend([16, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    image[DIRECTORY..DIRECTORY + 4].copy_from_slice(&start.to_le_bytes());
    image[DIRECTORY + 4..DIRECTORY + 8].copy_from_slice(&16_u32.to_le_bytes());
    image
}
