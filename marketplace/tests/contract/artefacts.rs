//! `surplus-marketplace serve --artefacts`: the program itself, and curl.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use surplus_marketplace::{ADMIN_KEY, CA_CERTIFICATE};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

const START: Duration = Duration::from_secs(60);

/// A directory of artefacts and one of data, side by side.
fn directories() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let artefacts = dir.path().join("artefacts");
    fs::create_dir(&artefacts).unwrap();
    for name in surplus_artefacts::NAMES {
        let bytes = format!("this is {name}\n").repeat(1000);
        fs::write(artefacts.join(name), bytes).unwrap();
    }
    fs::write(artefacts.join("notes.txt"), "not on the list").unwrap();
    dir
}

/// The program on free ports, with its log on a pipe.
fn serve(dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_surplus-marketplace"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(["--artefacts-listen", "127.0.0.1:0", "--artefacts"])
        .arg(dir.join("artefacts"))
        .arg("--data")
        .arg(dir.join("data"))
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Where the log says that artefacts are served, once both ports are.
async fn address(program: &mut Child) -> String {
    let mut log = BufReader::new(program.stderr.as_mut().unwrap()).lines();
    let mut seen = Vec::new();
    let mut artefacts = None;
    let found = tokio::time::timeout(START, async {
        while let Some(line) = log.next_line().await.unwrap() {
            let listen = line.split_once("listen=").map(|(_, at)| at.trim().into());
            seen.push(line);
            match (listen, artefacts.take()) {
                (Some(first), None) => artefacts = Some(first),
                (Some::<String>(_), Some(first)) => return Some(first),
                (None, before) => artefacts = before,
            }
        }
        None
    });
    let found = found.await.ok().flatten();
    found.unwrap_or_else(|| panic!("it does not serve: {seen:#?}"))
}

/// What curl gets: the status, and the body.
async fn curl(options: &[&str], url: &str) -> (String, Vec<u8>) {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "30", "--path-as-is"])
        .args(["--write-out", "%{stderr}%{http_code}"])
        .args(options)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap_or_else(|error| panic!("cannot run curl: {error}; next: apt-get install curl"));
    (String::from_utf8(output.stderr).unwrap(), output.stdout)
}

#[tokio::test]
async fn boot_artefacts_are_to_be_had_in_parts_too_and_nothing_else_without_tls() {
    let dir = directories();
    let mut program = serve(dir.path());
    let base = format!("http://{}", address(&mut program).await);
    for name in surplus_artefacts::NAMES {
        let whole = fs::read(dir.path().join("artefacts").join(name)).unwrap();
        let got = curl(&[], &format!("{base}/{name}")).await;
        assert_eq!(got, ("200".to_owned(), whole), "{name}");
    }
    let root = fs::read(dir.path().join("artefacts/root.img")).unwrap();
    let rest = curl(&["--range", "100-"], &format!("{base}/root.img")).await;
    assert_eq!(rest, ("206".to_owned(), root[100..].to_vec()));

    for secret in [ADMIN_KEY, CA_CERTIFICATE] {
        assert!(dir.path().join("data").join(secret).exists(), "{secret}");
        let up = format!("{base}/../data/{secret}");
        assert_eq!(curl(&[], &up).await.0, "404", "{secret}");
    }
    for path in ["notes.txt", "", "healthz", "api/v1/hosts"] {
        let (status, _) = curl(&[], &format!("{base}/{path}")).await;
        assert_eq!(status, "404", "{path}");
    }
}

#[tokio::test]
async fn artefacts_that_are_not_there_are_said_before_anything_is_made() {
    let dir = directories();
    fs::remove_file(dir.path().join("artefacts/initrd")).unwrap();
    let mut program = serve(dir.path());
    let status = tokio::time::timeout(START, program.wait()).await.unwrap();
    assert!(!status.unwrap().success());
    let mut said = String::new();
    let log = program.stderr.as_mut().unwrap();
    log.read_to_string(&mut said).await.unwrap();
    for word in ["initrd", "cargo xtask image"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(!dir.path().join("data").exists());
}
