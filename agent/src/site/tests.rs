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
