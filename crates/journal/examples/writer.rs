//! Writes numbered entries for ever, and says each number once its entry is
//! acknowledged. What an earlier run has said must be there when it begins.
//!
//! ```text
//! ledger: holds=41
//! ledger: 42
//! ledger: 43
//! ```
//!
//! The power cut tests run it on a disk of its own; alone:
//! `cargo run -p surplus-journal --example writer -- DIRECTORY`.

use std::error::Error;
use std::io::{Write as _, stdout};
use std::path::Path;

use surplus_journal::{Directory, Journal, Recovered, Settings};

/// Small, so that a new segment is begun every few dozen entries.
const SETTINGS: Settings = Settings {
    id: [7; 16],
    segment_bytes: 16 << 10,
    keep: 2,
};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).ok_or("which directory?")?;
    let directory = Directory::open(Path::new(&directory))?;
    let (mut journal, recovered) = Journal::open(directory, SETTINGS)?;
    let mut number = held(&recovered)?;
    say(&format!("holds={number}"))?;
    loop {
        number += 1;
        journal.append(&body(number))?;
        say(&number.to_string())?;
        if journal.wants_roll() {
            // All that is live is the number that was reached.
            journal.roll(&[body(number)])?;
        }
    }
}

fn say(what: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "ledger: {what}")?;
    out.flush()
}

/// The number, and as much after it as makes bodies of many lengths.
fn body(number: u64) -> Vec<u8> {
    let length = usize::try_from(number * 37 % 900).unwrap_or_default();
    let head = number.to_le_bytes();
    head.iter()
        .chain(head.iter().cycle().take(length))
        .copied()
        .collect()
}

/// The last number: each entry is whole, and follows the one before.
fn held(recovered: &Recovered) -> Result<u64, Box<dyn Error>> {
    if let Some(damage) = recovered.set_aside.first() {
        return Err(format!("the ledger is damaged: {damage}").into());
    }
    let mut last = None;
    for entry in &recovered.entries {
        let head = entry
            .body
            .first_chunk()
            .ok_or("an entry without a number")?;
        let number = u64::from_le_bytes(*head);
        if entry.body != body(number) {
            return Err(format!("entry {number} is not as it was written").into());
        }
        if last.is_some_and(|last| number != last + 1) {
            return Err(format!("{last:?} is followed by {number}").into());
        }
        last = Some(number);
    }
    Ok(last.unwrap_or_default())
}
