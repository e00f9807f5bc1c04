use std::collections::VecDeque;

use super::*;
use crate::stages::Recorded;

const GOOD: &str = concat!(
    "version = 1\n[marketplace]\nurl = \"https://hub.example:8443\"\n",
    "ca_sha256 = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"\n",
    "[site]\nname = \"lab\"\n",
);

/// Gives one answer a look, then nothing.
struct Script(&'static str, VecDeque<io::Result<Option<Vec<u8>>>>);

impl Source for Script {
    fn name(&self) -> String {
        self.0.to_owned()
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.1.pop_front().unwrap_or(Ok(None))
    }
}

fn script(name: &'static str, texts: &[Option<&str>]) -> Box<dyn Source> {
    let answers = texts
        .iter()
        .map(|text| Ok(text.map(|text| text.as_bytes().to_vec())))
        .collect();
    Box::new(Script(name, answers))
}

const ADVICE: &str = "customize the ISO";

/// Looks without a network.
async fn find(sources: Vec<Box<dyn Source>>, recorded: &Recorded) -> Found {
    let search = Search {
        sources,
        complaints: Vec::new(),
        advice: Some(ADVICE),
    };
    search.run(std::future::pending(), recorded).await
}

fn over_the_network() -> Found {
    Found {
        site: Site::parse(GOOD).unwrap(),
        source: "network".to_owned(),
        fetched: Some(Fetched {
            url: "https://boot/site.toml".to_owned(),
            bytes: GOOD.as_bytes().to_vec(),
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_source_with_a_valid_file_wins_and_is_named() {
    let recorded = Recorded::default();
    let sources = vec![
        script("area", &[None]),
        script("medium", &[Some(GOOD)]),
        script("credential", &[Some("x")]),
    ];
    let found = find(sources, &recorded).await;
    assert_eq!(found.source, "medium");
    assert_eq!(
        recorded.lines(),
        [
            "surplus: stage=site elapsed=0.00 source=medium marketplace=https://hub.example:8443 site=lab"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_gets_its_line_and_a_stick_that_comes_later_mends_it() {
    let recorded = Recorded::default();
    let bad = Some("version = 1\n[marketplace]\nurll = \"x\"\n");
    let sources = vec![
        script("area", &[bad, bad, bad]),
        script("medium", &[None, None, Some(GOOD)]),
    ];
    let found = find(sources, &recorded).await;
    assert_eq!(found.source, "medium");
    let lines = recorded.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(
        lines[0].contains("source=area error=") && lines[0].contains("urll"),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains("next="));
}

#[tokio::test(start_paused = true)]
async fn without_a_site_file_the_console_says_what_to_do() {
    let recorded = Recorded::default();
    let sources = vec![script("medium", &[None, None, Some(GOOD)])];
    find(sources, &recorded).await;
    let lines = recorded.lines();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].contains("no site file") && lines[0].contains("customize"),
        "{}",
        lines[0]
    );
}

#[tokio::test(start_paused = true)]
async fn the_network_is_asked_after_all_others_and_named_with_its_address() {
    let recorded = Recorded::default();
    let search = |texts: &[Option<&str>]| Search {
        sources: vec![script("medium", texts)],
        complaints: Vec::new(),
        advice: None,
    };
    let unasked = async { panic!("the network was asked although a medium has the file") };
    let found = search(&[Some(GOOD)]).run(unasked, &recorded).await;
    assert_eq!(found.source, "medium");
    let network = async { over_the_network() };
    let found = search(&[None]).run(network, &recorded).await;
    assert_eq!(found.source, "network");
    let lines = recorded.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(
        lines[1].contains("source=network url=https://boot/site.toml marketplace="),
        "{}",
        lines[1]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stick_is_found_while_the_network_does_not_answer() {
    let recorded = Recorded::default();
    let search = Search {
        sources: vec![script("medium", &[None, None, None, Some(GOOD)])],
        complaints: Vec::new(),
        advice: None,
    };
    let found = search.run(std::future::pending(), &recorded).await;
    assert_eq!(found.source, "medium");
    assert_eq!(recorded.lines().len(), 1, "{:#?}", recorded.lines());
}

#[tokio::test(start_paused = true)]
async fn a_command_line_that_is_of_no_use_is_said_while_nothing_is_found() {
    let recorded = Recorded::default();
    let complaint = Stage::new("site").failed("no surplus.ca=", "write it");
    let search = Search {
        sources: vec![script("medium", &[None, None, Some(GOOD)])],
        complaints: vec![complaint],
        advice: Some(ADVICE),
    };
    search.run(std::future::pending(), &recorded).await;
    let lines = recorded.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("no surplus.ca="), "{}", lines[0]);
}

#[test]
fn what_was_fetched_serves_the_next_agent_and_is_roots_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let tree = crate::sysroot::fixture::Tree::new();
    let mut kept = FileSource::kept(&tree.root());
    assert!(kept.read().unwrap().is_none());
    let fetched = over_the_network().fetched.unwrap();
    fetched.keep(&tree.root()).unwrap();
    fetched.keep(&tree.root()).unwrap();
    assert_eq!(kept.read().unwrap().unwrap(), GOOD.as_bytes());
    let mode = fs::metadata(tree.root().path(KEPT)).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert!(!format!("{fetched:?}").contains("version"));
}

#[test]
fn an_empty_area_is_no_file_and_a_huge_one_is_refused() {
    let tree = crate::sysroot::fixture::Tree::new();
    let mut area = FileSource::area(&tree.root());
    assert!(area.read().unwrap().is_none());
    tree.file(AREA, "");
    assert!(area.read().unwrap().is_none());
    tree.file(AREA, vec![b'x'; 70_000]);
    assert!(area.read().is_err());
}
