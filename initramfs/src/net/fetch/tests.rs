//! Fetches from servers that do as a script says, over real sockets.

use std::cell::RefCell;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use proptest::prelude::*;
use surplus_medium::pieces::{PIECE, list};

use self::server::{Server, Turn};
use super::*;

mod server;

/// What a fetch said and did, with addresses that do not change.
struct Watched {
    urls: Vec<RootUrl>,
    said: RefCell<Vec<String>>,
    pauses: RefCell<Vec<Duration>>,
}

impl Watched {
    fn new(servers: &[&Server]) -> Self {
        Self::of(servers.iter().map(|server| server.url()).collect())
    }

    fn of(urls: Vec<String>) -> Self {
        Self {
            urls: urls
                .iter()
                .map(|url| RootUrl::parse(url).unwrap())
                .collect(),
            said: RefCell::default(),
            pauses: RefCell::default(),
        }
    }

    fn text(&self) -> String {
        self.said.borrow().join("\n")
    }
}

impl Around for Watched {
    fn urls(&self) -> Vec<RootUrl> {
        self.urls.clone()
    }

    fn other_way(&self) {}

    fn pause(&self, time: Duration) {
        let mut pauses = self.pauses.borrow_mut();
        pauses.push(time);
        assert!(pauses.len() < 10, "no end of it:\n{}", self.text());
    }

    fn say(&self, stage: Stage) {
        self.said.borrow_mut().push(stage.line(0.0));
    }

    fn user_agent(&self) -> String {
        "surplus-init/0 (MAC 02:00:00:00:00:01)".into()
    }
}

/// An image of so many blocks, each different, and its pieces.
fn image(blocks: usize) -> (Vec<u8>, Pieces) {
    let block = |number: usize| {
        let mut block = vec![u8::try_from(number % 251).unwrap(); 4096];
        block[..8].copy_from_slice(&number.to_le_bytes());
        block
    };
    let image: Vec<u8> = (0..blocks).flat_map(block).collect();
    let pieces = Pieces::parse(&list(&mut &*image).unwrap()).unwrap();
    (image, pieces)
}

/// Fetches and compares with what it should be.
fn fetch_from(around: &Watched, right: &[u8], pieces: &Pieces) -> Fetched {
    let file = tempfile::tempfile().unwrap();
    let http = Http::new(Arc::new(Vec::new));
    let fetched = fetch(pieces, &file, &http, around).unwrap();
    assert!(content(&file) == right, "the image is another one");
    fetched
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_good_server_is_asked_once() {
    let (image, pieces) = image(300);
    let server = Server::start(image.clone(), vec![]);
    let around = Watched::new(&[&server]);
    let fetched = fetch_from(&around, &image, &pieces);
    assert_eq!(fetched.url, server.url());
    assert_eq!(fetched.bytes, image.len() as u64);
    let heads = server.heads();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(heads[0].contains(&format!("range: bytes=0-{}\r\n", image.len() - 1)));
    assert!(heads[0].contains("user-agent: surplus-init/0 (mac 02:00:00:00:00:01)\r\n"));
    assert_eq!(around.text(), "");
}

#[test]
fn a_transfer_that_is_cut_off_goes_on_where_it_was() {
    let (image, pieces) = image(300);
    // It ends in the middle of a piece, twice.
    let script = vec![Turn::CutAt(700_000), Turn::CutAt(300_000)];
    let server = Server::start(image.clone(), script);
    let around = Watched::new(&[&server]);
    fetch_from(&around, &image, &pieces);
    let heads = server.heads();
    assert_eq!(heads.len(), 3);
    let whole_pieces = 700_000 / PIECE * PIECE;
    assert!(
        heads[1].contains(&format!("range: bytes={whole_pieces}-")),
        "{heads:?}"
    );
    let text = around.text();
    assert!(text.contains("the transfer ended at byte") && text.contains("the host goes on"));
}

#[test]
fn a_flipped_bit_is_fetched_again_from_the_next_address() {
    let (image, pieces) = image(300);
    let flipped = Server::start(image.clone(), vec![Turn::Flip(4 * PIECE + 7)]);
    let good = Server::start(image.clone(), vec![]);
    let around = Watched::new(&[&flipped, &good]);
    let fetched = fetch_from(&around, &image, &pieces);
    assert_eq!(fetched.url, good.url());
    let text = around.text();
    assert!(
        text.contains("bytes 524288 to 655360 are not those of the root"),
        "{text}"
    );
    assert!(
        text.contains(&format!("the host goes on with {}", good.url())),
        "{text}"
    );
    assert!(good.heads()[0].contains("range: bytes=524288-"));
    assert!(around.pauses.borrow().is_empty());
}

#[test]
fn an_address_with_a_damaged_file_is_asked_again_for_ever() {
    let (image, pieces) = image(300);
    let script = vec![Turn::Flip(4096); 4];
    let server = Server::start(image.clone(), script);
    let around = Watched::new(&[&server]);
    fetch_from(&around, &image, &pieces);
    let seconds: Vec<_> = around
        .pauses
        .borrow()
        .iter()
        .map(Duration::as_secs)
        .collect();
    assert_eq!(seconds, [1, 2, 4, 8]);
}

#[test]
fn a_truncated_file_is_named_and_the_next_address_serves() {
    let (image, pieces) = image(300);
    for length in [0, 4096, image.len() - 1] {
        let short = Server::start(image[..length].to_vec(), vec![]);
        let good = Server::start(image.clone(), vec![]);
        let around = Watched::new(&[&short, &good]);
        fetch_from(&around, &image, &pieces);
        let text = around.text();
        assert!(
            text.contains(&format!("has {length} bytes instead of {}", image.len()))
                && text.contains("truncated"),
            "{text}"
        );
    }
}

#[test]
fn the_root_of_another_image_is_not_taken() {
    let (image, pieces) = image(300);
    let mut other = image.clone();
    other[0] ^= 1;
    let (wrong, good) = (
        Server::start(other, vec![]),
        Server::start(image.clone(), vec![]),
    );
    let around = Watched::new(&[&wrong, &good]);
    fetch_from(&around, &image, &pieces);
    assert!(
        around.text().contains("root of another image"),
        "{}",
        around.text()
    );
}

#[test]
fn a_server_without_ranges_serves_too_and_so_does_one_behind_a_redirect() {
    let (image, pieces) = image(300);
    for turn in [Turn::NoRanges, Turn::Redirect] {
        let server = Server::start(image.clone(), vec![turn]);
        let around = Watched::new(&[&server]);
        fetch_from(&around, &image, &pieces);
    }
    // Resumed without ranges: what is there is skipped.
    let script = vec![Turn::CutAt(700_000), Turn::NoRanges];
    let server = Server::start(image.clone(), script);
    fetch_from(&Watched::new(&[&server]), &image, &pieces);
}

#[test]
fn errors_and_nonsense_are_said_and_survived() {
    let (image, pieces) = image(300);
    for (turn, said) in [
        (Turn::Status("404 Not Found"), "answered 404 Not Found"),
        (Turn::Status("503 Service Unavailable"), "answered 503"),
        (Turn::Status("301 Moved Permanently"), "error="),
        (Turn::Nonsense, "asking the server"),
        (Turn::Close, "asking the server"),
        (Turn::OtherRange, "other bytes than it was asked for"),
    ] {
        let server = Server::start(image.clone(), vec![turn]);
        let around = Watched::new(&[&server]);
        fetch_from(&around, &image, &pieces);
        let text = around.text();
        assert!(
            text.contains(said) && text.contains("the host goes on"),
            "{turn:?}: {text}"
        );
    }
}

#[test]
fn a_dead_address_costs_little_and_is_passed_over() {
    let (image, pieces) = image(300);
    let good = Server::start(image.clone(), vec![]);
    // Nobody listens there.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}/root.img", dead.local_addr().unwrap());
    drop(dead);
    let around = Watched::of(vec![nobody, good.url()]);
    let fetched = fetch_from(&around, &image, &pieces);
    assert_eq!(fetched.url, good.url());
    assert!(around.pauses.borrow().is_empty());
}

#[test]
fn a_slow_server_gives_way_to_another_and_serves_where_there_is_none() {
    let (image, pieces) = image(300);
    // A pace that nothing on this machine keeps.
    let least = Pace {
        bytes: u64::MAX,
        time: Duration::ZERO,
    };
    let (slow, other) = (
        Server::start(image.clone(), vec![]),
        Server::start(image.clone(), vec![]),
    );
    let http = Http::new(Arc::new(Vec::new));
    for (servers, serves, said) in [
        (vec![&slow, &other], &other, "ended"),
        (vec![&slow], &slow, ""),
    ] {
        let around = Watched::new(&servers);
        let file = tempfile::tempfile().unwrap();
        let fetched = fetch_at(&pieces, &file, &http, &around, least).unwrap();
        assert_eq!(fetched.url, serves.url());
        assert!(content(&file) == image);
        let text = around.text();
        assert!(text.contains(said), "{text}");
        assert_eq!(text.contains("too slow: "), servers.len() > 1, "{text}");
    }
}

#[test]
fn the_longest_pause_comes_again_and_again() {
    let seconds = |failures, urls| pause_after(failures, urls).map(|pause| pause.as_secs());
    let of_two: Vec<_> = (1..=6).map(|failures| seconds(failures, 2)).collect();
    assert_eq!(of_two, [None, Some(1), None, Some(2), None, Some(4)]);
    assert_eq!(seconds(100, 1), Some(15));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever servers do for a while, in the end the right image is there.
    #[test]
    fn no_course_of_events_ends_in_another_image(
        script in prop::collection::vec(any::<Turn>(), 0..6),
    ) {
        let (image, pieces) = image(130);
        let server = Server::start(image.clone(), script);
        fetch_from(&Watched::new(&[&server]), &image, &pieces);
    }
}
