//! The program as it is run, against an HTTPS server that answers as a
//! marketplace does.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "contract/marketplace.rs"]
mod marketplace;

use marketplace::{Marketplace, answers, problem};
use serde_json::{Value, json};

const LEASE: &str = "2093a2b4-1122-7000-8000-000000000001";
const HOST: &str = "1093a2b4-1122-7000-8000-000000000001";

fn lease(state: &str, phase: Option<&str>) -> Value {
    json!({
        "id": LEASE, "name": "hello", "state": state, "epoch": 1, "former": [], "forwards": [], "host": HOST, "site": "leipzig",
        "resources": { "vcpus": 1, "memory_bytes": 536870912, "disk_bytes": 1000000000 },
        "image": format!("sha256:{}", "ab".repeat(32)), "on_lost_link": { "clause": "keep" },
        "phase": phase, "detail": "", "addresses": [], "unreachable": false, "end_reason": null, "disk": null,
        "created_at": "2020-05-01T11:00:00Z", "started_at": null, "ends_at": "2020-05-01T13:00:00Z",
        "ended_at": null, "price": 46000, "currency": "EUR",
    })
}

fn image(digest: &str) -> Value {
    json!({
        "digest": digest, "name": "hello", "format": "raw", "size_bytes": 5, "virtual_bytes": 512,
        "added_at": "2020-05-01T11:00:00Z",
    })
}

fn quote(price: u64) -> Value {
    json!({
        "id": "3093a2b4-1122-7000-8000-000000000001", "host": HOST, "site": "leipzig",
        "resources": { "vcpus": 1, "memory_bytes": 536870912, "disk_bytes": 1000000000 },
        "seconds": 7200, "price": price, "currency": "EUR", "price_book": 1,
        "expires_at": "2020-05-01T11:02:00Z",
    })
}

const RENT: [&str; 11] = [
    "rent", "--image", "hello", "--vcpus", "1", "--memory", "512MiB", "--disk", "1GB", "--for",
    "2h",
];

#[test]
fn programs_get_the_wire_types_and_the_key_travels_as_bearer() {
    let market = Marketplace::start([(
        "GET /api/v1/leases",
        answers([json!([lease("active", Some("running"))])]),
    )]);
    let run = market.run(&["leases", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.document(), json!([lease("active", Some("running"))]));
    assert_eq!(
        market.requests()[0].authorization.as_deref(),
        Some("Bearer secret-key")
    );
}

#[test]
fn people_get_a_table() {
    let market = Marketplace::start([(
        "GET /api/v1/leases",
        answers([json!([lease("active", Some("running"))])]),
    )]);
    let run = market.run(&["leases"]);
    insta::assert_snapshot!(run.stdout, @r"
    ID        NAME   STATE            VCPUS   MEMORY       DISK  HOST      REACHED AT  ENDS                  PRICE
    2093a2b4  hello  active, running      1  512 MiB  953.7 MiB  1093a2b4              2020-05-01 13:00  0.046 EUR
    ");
}

#[test]
fn a_refusal_is_told_with_every_reason() {
    let mut refusal = problem(409, "no-capacity", "no host can run this");
    refusal["detail"] = json!("8 vCPUs for 2 h at leipzig");
    refusal["next"] = json!("ask for less, or for another site");
    refusal["reasons"] = json!(["host 1: 4 vCPUs free", "host 2: offers nothing: no KVM"]);
    let market = Marketplace::start([
        (
            "GET /api/v1/images",
            answers([json!([image(&format!("sha256:{}", "ab".repeat(32)))])]),
        ),
        ("POST /api/v1/quotes", answers([refusal.clone()])),
    ]);
    let run = market.run(&RENT);
    assert_eq!(run.code, 1);
    insta::assert_snapshot!(run.stderr, @r"
    error: no host can run this: 8 vCPUs for 2 h at leipzig
      why: host 1: 4 vCPUs free
      why: host 2: offers nothing: no KVM
    next: ask for less, or for another site
    ");
    let json: Vec<_> = RENT.into_iter().chain(["--json"]).collect();
    let run = market.run(&json);
    assert_eq!((run.code, run.document()), (1, refusal));
}

#[test]
fn rent_shows_the_quote_and_each_step_until_the_guest_runs() {
    let market = Marketplace::start([
        (
            "GET /api/v1/images",
            answers([json!([image(&format!("sha256:{}", "ab".repeat(32)))])]),
        ),
        ("POST /api/v1/quotes", answers([quote(46_000)])),
        ("POST /api/v1/leases", answers([lease("reserved", None)])),
        (
            &format!("GET /api/v1/leases/{LEASE}"),
            answers([
                lease("preparing", Some("fetching")),
                lease("preparing", Some("preparing")),
                lease("active", Some("running")),
            ]),
        ),
    ]);
    let args: Vec<_> = RENT
        .into_iter()
        .chain(["--wait", "--json", "--name", "hello"])
        .collect();
    let run = market.run(&args);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.document(), lease("active", Some("running")));
    let steps: Vec<_> = [
        "quote: 1 vCPU",
        "fetching the image",
        "making the guest",
        "active, running",
    ]
    .map(|step| run.stderr.find(step).expect(step))
    .to_vec();
    assert!(steps.is_sorted(), "{}", run.stderr);
    let order = market
        .requests()
        .into_iter()
        .find(|one| one.line == "POST /api/v1/leases")
        .unwrap();
    let order: Value = serde_json::from_slice(&order.body).unwrap();
    assert_eq!(order["quote"], quote(0)["id"]);
    assert_eq!(order["image"], json!(format!("sha256:{}", "ab".repeat(32))));
}

#[test]
fn a_guest_that_cannot_start_ends_the_wait_with_the_hosts_reason() {
    let mut failed = lease("ended", None);
    failed["end_reason"] = json!("start_failed");
    failed["detail"] = json!("the image is truncated");
    let market = Marketplace::start([
        (
            "GET /api/v1/images",
            answers([json!([image(&format!("sha256:{}", "ab".repeat(32)))])]),
        ),
        ("POST /api/v1/quotes", answers([quote(46_000)])),
        ("POST /api/v1/leases", answers([lease("reserved", None)])),
        (
            &format!("GET /api/v1/leases/{LEASE}"),
            answers([failed.clone()]),
        ),
    ]);
    let args: Vec<_> = RENT.into_iter().chain(["--wait", "--json"]).collect();
    let run = market.run(&args);
    assert_eq!((run.code, run.document()), (1, failed));
    assert!(
        run.stderr.contains("why: the image is truncated"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_quote_above_the_limit_is_not_taken() {
    let market = Marketplace::start([
        (
            "GET /api/v1/images",
            answers([json!([image(&format!("sha256:{}", "ab".repeat(32)))])]),
        ),
        ("POST /api/v1/quotes", answers([quote(46_000)])),
    ]);
    let args: Vec<_> = RENT.into_iter().chain(["--max-price", "0.04"]).collect();
    let run = market.run(&args);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr
            .contains("0.046 EUR is above the limit of 0.04 EUR"),
        "{}",
        run.stderr
    );
    assert!(
        market
            .requests()
            .iter()
            .all(|request| request.line != "POST /api/v1/leases")
    );
}

#[test]
fn an_image_is_sent_once_and_skipped_when_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hello disk.img");
    std::fs::write(&file, b"hello").unwrap();
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let mut known = image(digest);
    known["name"] = "hello disk".into();
    let market = Marketplace::start([
        (
            "GET /api/v1/images",
            answers([json!([]), json!([known.clone()])]),
        ),
        (
            &format!("PUT /api/v1/images/{digest}?name=hello%20disk&format=raw"),
            answers([known.clone()]),
        ),
    ]);
    let args = ["image", "add", file.to_str().unwrap(), "--json"];
    let run = market.run(&args);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.document(), known);
    assert_eq!(market.requests().last().unwrap().body, b"hello".as_slice());
    let again = market.run(&args);
    assert_eq!((again.code, again.document()), (0, known.clone()));
    assert!(
        again.stderr.contains("nothing was sent"),
        "{}",
        again.stderr
    );
    assert_eq!(
        market
            .requests()
            .iter()
            .filter(|request| request.line.starts_with("PUT"))
            .count(),
        1
    );
}

#[test]
fn the_console_is_followed_to_its_end_byte_by_byte() {
    let at = |offset: u64, wait| {
        format!("GET /api/v1/leases/{LEASE}/console?offset={offset}&wait={wait}")
    };
    let market = Marketplace::start([
        (
            "GET /api/v1/leases",
            answers([json!([lease("active", Some("running"))])]),
        ),
        (&at(0, 25), vec![marketplace::console(2, false, b"llo\xff")]),
        (
            &at(6, 25),
            vec![
                marketplace::console(6, false, b""),
                marketplace::console(6, true, b" world"),
            ],
        ),
        (&at(12, 25), vec![marketplace::console(12, true, b"")]),
        (&at(0, 0), vec![marketplace::console(0, false, b"now")]),
        (&at(3, 0), vec![marketplace::console(3, false, b"")]),
    ]);
    let run = market.run(&["console", "hello"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.raw, b"llo\xff world");
    assert!(
        run.stderr.contains("2 bytes are no longer kept"),
        "{}",
        run.stderr
    );
    let run = market.run(&["console", "hello", "--no-follow", "--json"]);
    assert_eq!(
        run.document(),
        json!({ "lease": LEASE, "offset": 0, "ended": false, "text": "now" })
    );
}

#[test]
fn a_guest_that_is_started_anew_is_followed_from_its_first_byte() {
    let at = |offset: u64| format!("GET /api/v1/leases/{LEASE}/console?offset={offset}&wait=25");
    let market = Marketplace::start([
        (
            at(0).as_str(),
            vec![
                marketplace::console(0, false, b"first"),
                marketplace::console(0, false, b"two"),
            ],
        ),
        (&at(5), vec![marketplace::console(0, false, b"")]),
        (&at(3), vec![marketplace::console(3, true, b"")]),
    ]);
    let run = market.run(&["console", LEASE]);
    assert_eq!((run.code, run.stdout.as_str()), (0, "firsttwo"), "{run:?}");
    assert!(run.stderr.contains("started anew"), "{}", run.stderr);
}

#[test]
fn a_site_file_is_complete_private_and_never_shows_its_token() {
    let market = Marketplace::start([]);
    let token = json!({
        "id": "7093a2b4-1122-7000-8000-000000000001", "name": "rack1", "uses": 3, "used": 0,
        "expires_at": null, "networks": [], "created_at": "2020-05-01T11:00:00Z", "secret": "join-me",
    });
    market.on("GET /api/v1/trust", answers([json!({
        "ca_pem": market.ca_pem(), "ca_fingerprint": market.ca_pin(), "urls": ["https://10.0.2.2:8443"],
    })]));
    market.on("POST /api/v1/tokens", answers([token]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("site.toml");
    let args = [
        "site-file",
        "--token-name",
        "rack1",
        "--uses",
        "3",
        "--site",
        "leipzig",
        "-o",
        path.to_str().unwrap(),
    ];
    let run = market.run(&args);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!run.stdout.contains("join-me") && !run.stderr.contains("join-me"));
    let text = std::fs::read_to_string(&path).unwrap();
    for part in [
        "join-me",
        "https://10.0.2.2:8443",
        "BEGIN CERTIFICATE",
        "leipzig",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let asked = market.requests().len();
    let again = market.run(&args);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    assert_eq!(
        market.requests().len(),
        asked,
        "no token is made for a file that cannot be written"
    );

    let run = market.run(&["site-file", "--pin-only", "-o", "-"]);
    assert!(
        run.stdout.contains(&market.ca_pin()) && !run.stdout.contains("CERTIFICATE"),
        "{run:?}"
    );
    assert!(run.stderr.contains("no token"), "{}", run.stderr);
}

#[test]
fn a_hiccup_is_bridged_where_repeating_is_safe() {
    let mut busy = problem(503, "busy", "too much to do");
    busy["next"] = json!("try again");
    let market = Marketplace::start([
        ("GET /api/v1/leases", answers([busy.clone(), json!([])])),
        ("POST /api/v1/keys", answers([busy, json!({})])),
    ]);
    assert_eq!(market.run(&["leases"]).code, 0);
    assert_eq!(
        market
            .run(&["key", "create", "carol", "--role", "buyer"])
            .code,
        1
    );
    assert_eq!(
        market
            .requests()
            .iter()
            .filter(|request| request.line == "POST /api/v1/keys")
            .count(),
        1
    );
}

#[test]
fn the_pin_is_as_good_as_the_certificate_and_another_ca_is_named_as_the_cause() {
    let market = Marketplace::start([("GET /api/v1/offers", answers([json!([])]))]);
    let run = market.run_with(&["offers", "--json"], &[("SURPLUS_CA", &market.ca_pin())]);
    assert_eq!((run.code, run.document()), (0, json!([])), "{run:?}");

    let other = Marketplace::start([]);
    let run = market.run_with(
        &["offers"],
        &[("SURPLUS_CA", other.ca_file().to_str().unwrap())],
    );
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("not issued by the CA") && run.stderr.contains("SURPLUS_CA"),
        "{}",
        run.stderr
    );
    let wrong = format!("sha256:{}", "00".repeat(32));
    let run = market.run_with(&["offers"], &[("SURPLUS_CA", &wrong)]);
    assert!(
        run.stderr.contains("pinned fingerprint") && run.stderr.contains(market.url()),
        "{}",
        run.stderr
    );
}

#[test]
fn connection_trouble_names_the_address_the_cause_and_what_to_check() {
    let market = Marketplace::start([]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("https://{}", free.local_addr().unwrap());
    drop(free);
    let run = market.run_with(&["offers"], &[("SURPLUS_URL", &nobody)]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains(&nobody) && run.stderr.contains("refused"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr
            .contains("next: check that surplus-marketplace runs there"),
        "{}",
        run.stderr
    );
    let run = market.run_with(
        &["offers"],
        &[("SURPLUS_URL", "https://no-such-name.invalid")],
    );
    assert!(
        run.stderr.contains("name cannot be looked up"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let market = Marketplace::start([("GET /api/v1/offers", answers([json!([])]))]);
    let mut command = market.command(&["offers"], &[]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn wrong_usage_is_told_apart_from_refusals() {
    let market = Marketplace::start([]);
    assert_eq!(market.run(&["rent", "--memory", "2G"]).code, 2);
    assert_eq!(market.run(&["no-such-command"]).code, 2);
    assert_eq!(
        market
            .run_with(&["offers"], &[("SURPLUS_URL", "http://plain")])
            .code,
        1
    );
}

#[test]
fn scripts_for_shells_and_the_manual_need_no_marketplace() {
    let market = Marketplace::start([]);
    let nowhere = [("SURPLUS_URL", ""), ("SURPLUS_CA", "")];
    assert!(
        market
            .run_with(&["completions", "bash"], &nowhere)
            .stdout
            .contains("complete -F")
    );
    assert!(
        market
            .run_with(&["man"], &nowhere)
            .stdout
            .starts_with(".ie")
    );
}

fn waiting(number: u8, rack: &str) -> Value {
    json!({
        "id": format!("1{number}93a2b4-1122-7000-8000-000000000001"), "state": "pending",
        "detail": "waits for approval", "site": "leipzig", "rack": rack, "key_storage": "ram",
        "identity": { "system_uuid": null, "system_serial": "B5RJ12", "board_serial": null,
            "vendor": "Dell Inc.", "product": "R640", "macs": ["e4:43:4b:00:11:22"] },
        "cpu_model": "Xeon", "memory_bytes": 68719476736_u64, "address": "192.0.2.7",
        "admitted_by": null, "enrolled_at": "2020-05-01T11:00:00Z",
        "certificate_expires_at": "2020-05-01T11:00:00Z", "last_seen_at": null,
        "unreachable": false, "inventory": null, "capacity": null,
        "free": { "vcpus": 0, "memory_bytes": 0, "disk_bytes": 0 }, "leases": 0,
    })
}

#[test]
fn hosts_are_approved_by_what_they_are_after_they_were_shown() {
    let (fits, other) = (waiting(1, "r7"), waiting(2, "r8"));
    let mut joined = fits.clone();
    joined["state"] = json!("enrolled");
    let approve = "POST /api/v1/hosts/1193a2b4-1122-7000-8000-000000000001/approve";
    let market = Marketplace::start([
        ("GET /api/v1/hosts", answers([json!([fits, other])])),
        (approve, answers([joined])),
    ]);
    let asked = ["hosts", "approve", "--from", "192.0.2.0/24", "--rack", "r7"];
    // Nobody is there to be asked.
    let run = market.run(&asked);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("R640"), "{}", run.stderr);
    assert!(run.stderr.contains("next: add --yes"), "{}", run.stderr);
    let posts = || {
        let asked = market.requests().into_iter();
        asked
            .filter(|one| one.line.starts_with("POST"))
            .map(|one| one.line)
            .collect::<Vec<_>>()
    };
    assert!(posts().is_empty(), "{:?}", posts());
    let run = market.run(&[&asked[..], &["--yes", "--json"]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.document().as_array().unwrap().len(), 1);
    assert_eq!(posts(), [approve]);
    let run = market.run(&["hosts", "approve", "--rack", "r9", "--yes"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("no waiting host fits rack r9"),
        "{}",
        run.stderr
    );
    let run = market.run(&["hosts", "--pending", "--json"]);
    assert_eq!(run.document().as_array().unwrap().len(), 2);
}
