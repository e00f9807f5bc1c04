//! The whole boot server over loopback: what hosts fetch, and what they are
//! refused. DHCP needs a network of its own: see `servers.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "serving/bench.rs"]
mod bench;

use std::fs;

use bench::Bench;
use surplus_netboot::board::Stage;

#[tokio::test]
async fn a_host_finds_everything_that_start_ipxe_names() {
    let served = Bench::new().serve();
    let script = served.http("start.ipxe").await.text();
    let word = |name: &str| {
        let mut words = script.split_whitespace();
        let found = words.find_map(|word| word.strip_prefix(name));
        found
            .unwrap_or_else(|| panic!("no {name} in {script}"))
            .to_owned()
    };
    let site = word("surplus.site=");
    assert_eq!(site, served.places.site());
    assert_eq!(word("surplus.ca=sha256:"), hex::encode(served.places.pin));
    assert!(script.contains(&format!("set base {}\n", served.places.url(""))));
    let boot = served.http("boot.ipxe").await;
    assert_eq!(boot.status, "200");
    for name in surplus_artefacts::NAMES {
        assert_eq!(served.http(name).await.status, "200", "{name}");
    }
    let got = served.pinned(served.places.pin).await.unwrap();
    assert_eq!(got, served.bench.site_text());
}

#[tokio::test]
async fn another_pin_gets_no_site_file() {
    let served = Bench::new().serve();
    let error = served.pinned([7; 32]).await.unwrap_err();
    assert!(error.contains("pinned fingerprint"), "{error}");
}

#[tokio::test]
async fn the_site_file_is_not_to_be_had_without_tls() {
    let served = Bench::new().serve();
    for name in ["site.toml", "../site.toml"] {
        assert_eq!(served.http(name).await.status, "404");
    }
    let secret = "surplus_join_secret";
    assert!(served.bench.site_text().contains(secret));
    for name in ["start.ipxe", "surplus.efi"] {
        let body = served.http(name).await.body;
        let leaked = body
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!leaked, "{name}");
    }
}

#[tokio::test]
async fn a_restart_keeps_the_pin_and_a_new_site_file_needs_none() {
    let served = Bench::new().serve();
    let pin = served.places.pin;
    let bench = served.stop().await;
    let served = bench.serve();
    assert_eq!(served.places.pin, pin);
    let text = served.bench.site_text().replace("secret", "renewed");
    fs::write(served.bench.path("site.toml"), &text).unwrap();
    assert_eq!(served.pinned(pin).await.unwrap(), text);
    fs::write(served.bench.path("site.toml"), "version = 9").unwrap();
    let error = served.pinned(pin).await.unwrap_err();
    assert!(error.contains("500"), "{error}");
}

#[test]
fn the_service_that_operators_get_is_started_again_for_ever() {
    let readme = include_str!("../README.md");
    let (_, unit) = readme.split_once("```ini\n").unwrap();
    let (unit, _) = unit.split_once("```").unwrap();
    let (about, service) = unit.split_once("[Service]").unwrap();
    assert!(about.contains("\nStartLimitIntervalSec=0\n"), "{unit}");
    for setting in ["Restart=always", "RestartSec=5"] {
        assert!(service.lines().any(|line| line == setting), "{unit}");
    }
}

#[tokio::test]
async fn an_unsigned_image_is_told_the_site_and_a_signed_one_is_left_alone() {
    let bench = Bench::new();
    let plain = fs::read(bench.path("artefacts/surplus.efi")).unwrap();
    let served = bench.serve();
    let got = served.http("surplus.efi").await.body;
    assert_eq!(got.len(), plain.len());
    let line = surplus_image::efi::command_line(&got).unwrap();
    assert!(line.starts_with("quiet surplus.roothash="), "{line}");
    assert!(line.ends_with(&served.places.arguments()), "{line}");
    let bench = served.stop().await;
    let signed = bench::signed(plain);
    bench.put("surplus.efi", &signed);
    let served = bench.serve();
    assert!(served.http("surplus.efi").await.body == signed);
}

/// An operator signs both files by himself, with sbsign: `SHA256SUMS` is still
/// the build's.
#[tokio::test]
async fn what_the_operator_has_signed_needs_no_sum_and_what_he_has_not_does() {
    let bench = Bench::new();
    let plain = fs::read(bench.path("artefacts/surplus.efi")).unwrap();
    bench.put("snponly.efi", &plain);
    for name in ["surplus.efi", "snponly.efi"] {
        let path = bench.path("artefacts").join(name);
        fs::write(&path, bench::signed(plain.clone())).unwrap();
        bench.open().unwrap();
        let mut other = plain.clone();
        other[0x1ff] ^= 1;
        fs::write(&path, other).unwrap();
        let error = bench.open().unwrap_err().to_string();
        assert!(error.contains("not in order"), "{name}: {error}");
        fs::write(&path, &plain).unwrap();
    }
}

#[tokio::test]
async fn the_board_follows_what_a_host_fetches() {
    let served = Bench::new().serve();
    for (name, stage) in [
        ("start.ipxe", Stage::Script),
        ("vmlinuz", Stage::Kernel),
        ("initrd", Stage::Initrd),
    ] {
        served.http(name).await;
        assert_eq!(served.watch.rows()[0].stage, stage);
    }
    let agent = "surplus-init/0.1.0 (MAC 52:54:00:12:34:56)";
    served.http_with(&["--user-agent", agent], "root.img").await;
    let rows = served.watch.rows();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].mac.unwrap().to_string(), "52:54:00:12:34:56");
    assert_eq!(rows[0].percent(), Some(100));
    served.pinned(served.places.pin).await.unwrap();
    assert_eq!(served.watch.rows()[0].stage, Stage::Site);
}

#[tokio::test]
async fn what_is_not_in_order_is_said_before_anything_is_served() {
    let bench = Bench::new();
    let refused = |expected: &[&str]| {
        let error = format!("{:#}", anyhow::Error::from(bench.open().unwrap_err()));
        for part in expected {
            assert!(error.contains(part), "{error}");
        }
    };
    let whole = fs::read(bench.path("artefacts/root.img")).unwrap();
    fs::write(bench.path("artefacts/root.img"), &whole[1..]).unwrap();
    refused(&["root.img", "SHA256SUMS", "cargo xtask image"]);
    fs::remove_file(bench.path("artefacts/root.img")).unwrap();
    refused(&["root.img", "No such file"]);
    fs::write(bench.path("artefacts/root.img"), &whole).unwrap();
    let site = bench.site_text();
    fs::write(bench.path("site.toml"), site.replace("rack", "rakc")).unwrap();
    refused(&["site.toml", "rakc", "rack"]);
    fs::write(bench.path("site.toml"), &site).unwrap();
    let mut config = bench.config();
    config.interface = "none9".into();
    let error = surplus_netboot::Netboot::open(config)
        .unwrap_err()
        .to_string();
    assert!(error.contains("none9"), "{error}");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = bench.config();
    config.http_port = holder.local_addr().unwrap().port();
    let error = surplus_netboot::Netboot::open(config)
        .unwrap_err()
        .to_string();
    let process = format!("(process {})", std::process::id());
    assert!(
        error.contains(&process) && error.contains("--http-port"),
        "{error}"
    );
    bench.open().unwrap();
}
