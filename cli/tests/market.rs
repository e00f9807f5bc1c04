//! The program as it is run, against the real marketplace (without hosts:
//! those need an appliance, and are met in the end-to-end tests).

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use surplus_https::Clock;
use surplus_market::pricing;
use surplus_marketplace::{Config, Marketplace};
use tokio::sync::oneshot;

/// A marketplace in this process, until it is dropped.
struct Market {
    dir: tempfile::TempDir,
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Market {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listen = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let config = Config {
                    data,
                    listen,
                    urls: Vec::new(),
                    prices: pricing::default_book(),
                    max_image_bytes: 1 << 20,
                    limits: surplus_marketplace::Limits::default(),
                    clock: Clock::system(),
                };
                let marketplace = Marketplace::open(config).await.unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                ready.send(()).unwrap();
                marketplace
                    .serve(listener, async { drop(stopped.await) })
                    .await
                    .unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self {
            dir,
            url: format!("https://{listen}"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run_as(&self, key: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_surplus"))
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("SURPLUS_URL", &self.url)
            .env("SURPLUS_CA", self.file("data/ca.pem"))
            .env("SURPLUS_TOKEN", key)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn operator(&self) -> String {
        std::fs::read_to_string(self.file("data/admin.key")).unwrap()
    }

    /// Runs with `--json` and reads the document.
    fn ask_as(&self, key: &str, args: &[&str]) -> Value {
        let output = self.run_as(key, &[&["--json"], args].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs, expects a refusal, and returns what a person reads.
    fn refused_as(&self, key: &str, args: &[&str]) -> String {
        let output = self.run_as(key, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("error: ") && text.contains("\nnext: "),
            "{text}"
        );
        text
    }
}

impl Drop for Market {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn an_operator_makes_keys_tokens_and_a_site_file_that_hosts_can_read() {
    let market = Market::start();
    let admin = market.operator();
    let carol = market.ask_as(&admin, &["key", "create", "carol", "--role", "buyer"]);
    assert!(
        carol["secret"]
            .as_str()
            .is_some_and(|secret| secret.len() > 16),
        "{carol}"
    );
    let keys = market.ask_as(&admin, &["key", "list"]);
    assert!(
        keys.as_array()
            .unwrap()
            .iter()
            .any(|key| key["name"] == "carol"),
        "{keys}"
    );
    assert!(!keys.to_string().contains("secret"), "{keys}");

    market.ask_as(
        &admin,
        &[
            "site-file",
            "--token-name",
            "rack1",
            "--uses",
            "2",
            "--network",
            "10.0.0.0/8",
            "--expires",
            "7d",
        ],
    );
    let text = std::fs::read_to_string(market.file("site.toml")).unwrap();
    let site = surplus_site::Site::parse(&text).unwrap();
    assert_eq!(site.marketplace.urls, [market.url.as_str()]);
    assert!(site.marketplace.token.is_some());
    let tokens = market.ask_as(&admin, &["token", "list"]);
    assert_eq!(
        (&tokens[0]["uses"], &tokens[0]["networks"][0]),
        (&2.into(), &"10.0.0.0/8".into())
    );

    let again = market.refused_as(
        &admin,
        &["site-file", "--token-name", "rack1", "-o", "other.toml"],
    );
    assert!(again.contains("exists already"), "{again}");
    assert!(!market.file("other.toml").exists());
    market.ask_as(&admin, &["token", "delete", "rack1"]);
    assert_eq!(
        market.ask_as(&admin, &["token", "list"]),
        serde_json::json!([])
    );
    market.ask_as(&admin, &["key", "delete", "carol"]);
    market.refused_as(carol["secret"].as_str().unwrap(), &["offers"]);
}

#[test]
fn a_buyer_brings_an_image_once_and_learns_why_nothing_can_be_rented() {
    let market = Market::start();
    let created = market.ask_as(
        &market.operator(),
        &["key", "create", "bob", "--role", "buyer"],
    );
    let bob = created["secret"].as_str().unwrap();
    let disk = market.file("disk.img");
    std::fs::write(&disk, vec![7; 64 << 10]).unwrap();
    let disk = disk.to_str().unwrap();
    let image = market.ask_as(bob, &["image", "add", disk, "--name", "hello"]);
    assert_eq!(
        (&image["name"], &image["virtual_bytes"]),
        (&"hello".into(), &(64 << 10).into())
    );
    let again = market.run_as(bob, &["image", "add", disk, "--name", "hello"]);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("nothing was sent"),
        "{again:?}"
    );
    let named = market.ask_as(bob, &["image", "add", disk, "--name", "other"]);
    assert_eq!(
        (&named["name"], &named["digest"]),
        (&"other".into(), &image["digest"])
    );
    let list = market.ask_as(bob, &["image", "list"]);
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[0]["digest"], image["digest"]);

    assert_eq!(market.ask_as(bob, &["offers"]), serde_json::json!([]));
    assert_eq!(market.ask_as(bob, &["leases"]), serde_json::json!([]));
    assert!(market.ask_as(bob, &["prices"])["vcpu_hour"].is_i64());
    market.refused_as(
        bob,
        &[
            "rent", "--image", "hello", "--vcpus", "1", "--memory", "1GiB", "--for", "1h",
        ],
    );
    for what in ["leases", "console", "end", "bill"] {
        market.refused_as(bob, &[what, "2093a2b4-1122-7000-8000-000000000001"]);
        let text = market.refused_as(bob, &[what, "nothing"]);
        assert!(text.contains("there is no lease"), "{text}");
    }
}

#[test]
fn a_buyer_may_not_do_what_operators_do_and_a_wrong_key_nothing() {
    let market = Market::start();
    let created = market.ask_as(
        &market.operator(),
        &["key", "create", "bob", "--role", "buyer"],
    );
    let bob = created["secret"].as_str().unwrap();
    for args in [
        &["hosts"][..],
        &["token", "list"],
        &["key", "create", "eve", "--role", "operator"],
    ] {
        market.refused_as(bob, args);
    }
    let text = market.refused_as("wrong-key", &["leases"]);
    assert!(!text.contains("wrong-key"), "{text}");
}

#[test]
fn an_image_that_is_too_large_is_refused_with_the_marketplaces_reason() {
    let market = Market::start();
    let disk = market.file("large.img");
    std::fs::write(&disk, vec![1; 2 << 20]).unwrap();
    let text = market.refused_as(
        &market.operator(),
        &["image", "add", disk.to_str().unwrap()],
    );
    assert!(!text.contains("cannot be reached"), "{text}");
}

#[test]
fn an_operator_makes_lists_and_withdraws_admission_rules() {
    let market = Market::start();
    let operator = &market.operator();
    let file = market.file("rack.txt");
    std::fs::write(&file, "# rack 7\nB5RJ12\n\nB5RJ13\n").unwrap();
    let file = file.to_str().unwrap();
    let rule = market.ask_as(
        operator,
        &[
            "admit",
            "--serials",
            file,
            "--from",
            "10.0.0.7/24",
            "--mac-prefix",
            "52-54-00",
            "--for",
            "30m",
            "--uses",
            "8",
        ],
    );
    let selectors = &rule["selectors"];
    assert_eq!(
        selectors["serials"],
        serde_json::json!(["B5RJ12", "B5RJ13"])
    );
    assert_eq!(selectors["networks"], serde_json::json!(["10.0.0.0/24"]));
    assert_eq!(selectors["mac_prefixes"], serde_json::json!(["52:54:00"]));
    assert_eq!((&rule["uses"], &rule["used"]), (&8.into(), &0.into()));
    assert_eq!(rule["created_by"], "admin");
    let made: jiff::Timestamp = rule["created_at"].as_str().unwrap().parse().unwrap();
    let ends: jiff::Timestamp = rule["expires_at"].as_str().unwrap().parse().unwrap();
    let lasts = ends.duration_since(made).as_secs();
    assert!((1700..=1800).contains(&lasts), "{lasts}");

    let list = market.ask_as(operator, &["admissions"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    let shown = market.run_as(operator, &["admissions"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("from 10.0.0.0/24, MAC 52:54:00"), "{shown}");
    let id = rule["id"].as_str().unwrap();
    market.ask_as(operator, &["admissions", "delete", &id[..8]]);
    assert_eq!(
        market.ask_as(operator, &["admissions"]),
        serde_json::json!([])
    );

    let text = market.refused_as(operator, &["admit", "--for", "30m"]);
    assert!(text.contains("--from 0.0.0.0/0"), "{text}");
    for wrong in [
        ["--from", "10.0.0.1"],
        ["--mac-prefix", "5"],
        ["--serials", "none.txt"],
    ] {
        let text = market.refused_as(operator, &[&["admit"][..], &wrong].concat());
        assert!(text.contains(wrong[1]), "{text}");
    }
    market.refused_as(
        operator,
        &["admit", "--rack", "r7", "--until", "2020-01-01T00:00"],
    );
}

#[test]
fn a_token_is_bound_to_a_network_and_a_count() {
    let market = Market::start();
    let operator = &market.operator();
    let made = market.ask_as(
        operator,
        &[
            "token",
            "create",
            "rack1",
            "--uses",
            "3",
            "--network",
            "10.0.0.9/8",
            "--network",
            "fd00::/8",
            "--expires",
            "7d",
        ],
    );
    assert_eq!(made["uses"], 3);
    assert_eq!(
        made["networks"],
        serde_json::json!(["10.0.0.0/8", "fd00::/8"])
    );
    assert!(made["expires_at"].is_string());
}
