//! The board for people and for programs: a table that updates, lines, or
//! JSON, one object a line.

use std::io::{self, Write as _};
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::Watch;
use crate::board::{Row, Stage, Way};

/// How often the table is drawn.
const REDRAW: Duration = Duration::from_millis(500);

/// The lines of a terminal that does not say.
const USUAL_LINES: usize = 24;

/// How the board is shown.
#[derive(Clone, Debug)]
pub enum Look {
    /// A table at the lower end of the terminal.
    Table(MultiProgress),
    /// A line for each change.
    Lines,
    Json,
    /// Not at all.
    Nothing,
}

impl Look {
    pub fn table() -> Self {
        Self::Table(MultiProgress::new())
    }

    /// Where log lines go: above the table, where there is one.
    pub fn above(&self) -> Above {
        Above(match self {
            Self::Table(table) => Some(table.clone()),
            _ => None,
        })
    }
}

/// Standard error, without tearing the table.
#[derive(Clone, Debug)]
pub struct Above(Option<MultiProgress>);

impl io::Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().write_all(bytes);
        match &self.0 {
            Some(table) => table.suspend(write)?,
            None => write()?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows changes until there is nobody left to make any.
pub(super) fn run(look: &Look, changes: &Receiver<Row>, watch: &Weak<Watch>) {
    if let Look::Table(bars) = look {
        return Table::new(bars).run(changes, watch);
    }
    for row in changes {
        let line = match look {
            Look::Lines => plain(&row),
            Look::Json => json(&row),
            Look::Table(_) | Look::Nothing => continue,
        };
        // Nobody reads: boots go on.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

/// One line for each host, below a heading.
struct Table {
    bars: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Table {
    fn new(bars: &MultiProgress) -> Self {
        let mut table = Self {
            bars: bars.clone(),
            lines: Vec::new(),
        };
        table.set(0, &format!("{}  (Ctrl-C ends)", heading()));
        table
    }

    fn run(mut self, changes: &Receiver<Row>, watch: &Weak<Watch>) {
        loop {
            match changes.recv_timeout(REDRAW) {
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Some(watch) = watch.upgrade() else {
                return;
            };
            let lines = body(watch.rows(), Timestamp::now(), terminal_lines() - 1);
            for (at, line) in lines.iter().enumerate() {
                self.set(at + 1, line);
            }
            // The terminal may have become smaller.
            for unused in self.lines.drain(lines.len() + 1..) {
                self.bars.remove(&unused);
            }
        }
    }

    fn set(&mut self, at: usize, text: &str) {
        while self.lines.len() <= at {
            let bar = self.bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            self.lines.push(bar);
        }
        if let Some(bar) = self.lines.get(at) {
            bar.set_message(text.to_owned());
        }
    }
}

/// At least two: the heading and one more.
fn terminal_lines() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    let lines = size.map_or(0, |size| usize::from(size.ws_row));
    if lines == 0 {
        USUAL_LINES
    } else {
        lines.max(2)
    }
}

/// What stands below the heading, in at most so many lines: hosts that still boot
/// first, and how many have no line of their own.
fn body(mut rows: Vec<Row>, now: Timestamp, room: usize) -> Vec<String> {
    let is_done = |row: &Row| row.stage == Stage::Site;
    rows.sort_by_key(is_done);
    let shown = if rows.len() > room { room - 1 } else { room };
    let hidden = rows.split_off(shown.min(rows.len()));
    let mut lines: Vec<_> = rows.iter().map(|row| line(row, now)).collect();
    let done = hidden.iter().filter(|row| is_done(row)).count();
    match hidden.len() {
        0 => {}
        all if all == done => lines.push(format!("and {all} more (done)")),
        all => lines.push(format!("and {all} more ({done} of them done)")),
    }
    lines
}

fn heading() -> String {
    columns(["host", "address", "way", "stage", "rate", "since"])
}

fn columns([mac, address, way, stage, rate, since]: [&str; 6]) -> String {
    format!("{mac:<17}  {address:<15}  {way:<4}  {stage:<16}  {rate:>10}  {since:>7}")
}

fn line(row: &Row, now: Timestamp) -> String {
    let since = now.duration_since(row.since).as_secs().max(0);
    let since = format!("{}:{:02}", since / 60, since % 60);
    cells(row, &since)
}

fn plain(row: &Row) -> String {
    let time = row.changed.to_zoned(TimeZone::system());
    let time = time.strftime("%H:%M:%S").to_string();
    let since = row.changed.duration_since(row.since).as_secs();
    format!("{time}  {}", cells(row, &format!("{since} s")))
}

fn cells(row: &Row, since: &str) -> String {
    let unknown = || "-".to_owned();
    let moving = match row.stage {
        Stage::Root => true,
        Stage::FirstStage => row.position > 0,
        _ => false,
    };
    let stage = match row.percent() {
        Some(percent) if moving => format!("{} {percent} %", row.stage.name()),
        _ => row.stage.name().to_owned(),
    };
    let rate = match row.rate {
        0 => String::new(),
        rate => format!("{:.1} MB/s", rate as f64 / 1e6),
    };
    columns([
        &row.mac.map_or_else(unknown, |mac| mac.to_string()),
        &row.address.map_or_else(unknown, |at| at.to_string()),
        row.way.map_or("-", Way::name),
        &stage,
        &rate,
        since,
    ])
    .trim_end()
    .to_owned()
}

/// A change, for programs.
#[derive(Serialize)]
struct Change {
    time: Timestamp,
    mac: Option<String>,
    address: Option<std::net::IpAddr>,
    way: Option<Way>,
    stage: Stage,
    percent: Option<u64>,
    bytes: u64,
    total: u64,
    bytes_per_second: u64,
    since: Timestamp,
}

fn json(row: &Row) -> String {
    let change = Change {
        time: row.changed,
        mac: row.mac.map(|mac| mac.to_string()),
        address: row.address,
        way: row.way,
        stage: row.stage,
        percent: row.percent(),
        bytes: row.position,
        total: row.total,
        bytes_per_second: row.rate,
        since: row.since,
    };
    serde_json::to_string(&change).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::dhcp::{Client, Firmware};

    fn row() -> Row {
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let mut board = Board::default();
        let mac = "52:54:00:12:34:56".parse().unwrap();
        let address = "10.77.0.50".parse().unwrap();
        board.asked(mac, Client::Rom(Firmware::Uefi), at(0));
        board.learned(mac, address);
        board.begun(address, Stage::Root, 0, 50_000_000, at(60));
        board.sent(address, Stage::Root, 21_500_000, at(70));
        board.rows()[0].clone()
    }

    #[test]
    fn a_row_says_who_how_far_how_fast_and_since_when() {
        let now = Timestamp::from_second(1_800_000_083).unwrap();
        let expected =
            "52:54:00:12:34:56  10.77.0.50       uefi  root 43 %           2.1 MB/s     1:23";
        assert_eq!(line(&row(), now), expected);
    }

    #[test]
    fn hosts_without_a_line_are_counted_and_those_that_boot_come_first() {
        let (booting, mut done) = (row(), row());
        done.stage = Stage::Site;
        let rows = [vec![done; 3], vec![booting; 2]].concat();
        let now = Timestamp::from_second(1_800_000_083).unwrap();
        let ends = |room| {
            let lines = body(rows.clone(), now, room);
            assert!(lines.len() <= room);
            let booting = lines.iter().filter(|line| line.contains("root 43 %"));
            (booting.count(), lines.last().cloned().unwrap())
        };
        assert_eq!(ends(3), (2, "and 3 more (done)".to_owned()));
        assert_eq!(ends(2), (1, "and 4 more (3 of them done)".to_owned()));
        assert_eq!(ends(1), (0, "and 5 more (3 of them done)".to_owned()));
        for room in [5, 6] {
            assert_eq!(body(rows.clone(), now, room).len(), 5);
        }
    }

    #[test]
    fn programs_get_one_object_a_line() {
        let text = json(&row());
        assert!(!text.contains('\n'));
        let change: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(change["mac"], "52:54:00:12:34:56");
        assert_eq!(change["way"], "uefi");
        assert_eq!(change["stage"], "root");
        assert_eq!(change["percent"], 43);
        assert_eq!(change["bytes_per_second"], 2_150_000);
        assert_eq!(change["since"], "2027-01-15T08:00:00Z");
    }
}
