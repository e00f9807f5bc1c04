//! Where words go: results to standard output, everything else to standard
//! error.
//!
//! What always holds: with `--json` one document, and nothing else, reaches
//! standard output; a reader that went away ends the program quietly; texts
//! that came over the network cannot steer the terminal; progress is drawn on
//! a terminal only.

use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;
use crate::view::View;

/// How this run speaks.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    /// Standard error is a terminal, and no program asked.
    lively: bool,
    view: View,
}

impl Output {
    pub(crate) fn new(json: bool, view: View) -> Self {
        Self {
            json,
            lively: !json && io::stderr().is_terminal(),
            view,
        }
    }

    pub(crate) fn json(&self) -> bool {
        self.json
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The command's result: the wire type for programs, `people`'s text for
    /// people.
    pub(crate) fn result<T: Serialize>(
        &self,
        value: &T,
        people: impl FnOnce(&View) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            self.document(value)
        } else {
            self.bytes(people(&self.view).as_bytes())
        }
    }

    /// The one document of a `--json` run.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|error| {
            Failure::new(format!("the result cannot be written as JSON: {error}"), "")
        })?;
        text.push(b'\n');
        self.bytes(&text)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                ErrorKind::BrokenPipe => Failure::reader_gone(),
                _ => Failure::new(
                    format!("standard output cannot be written: {error}"),
                    "check where it goes",
                ),
            })
    }

    /// One line on standard error about what is going on.
    pub(crate) fn note(&self, text: &str) {
        // Nobody may be listening, and then there is nobody to tell.
        let _ = writeln!(io::stderr(), "{}", printable(text));
    }

    /// A bar that counts bytes.
    pub(crate) fn byte_bar(&self, label: &'static str, total: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{msg:10} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        );
        let bar = ProgressBar::with_draw_target(Some(total), self.target())
            .with_finish(ProgressFinish::AndClear);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(label);
        bar
    }

    /// Something turning, for a wait of unknown length.
    pub(crate) fn spinner(&self) -> ProgressBar {
        let spinner = ProgressBar::with_draw_target(None, self.target())
            .with_finish(ProgressFinish::AndClear);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            spinner.set_style(style);
        }
        if self.lively {
            spinner.enable_steady_tick(Duration::from_millis(120));
        }
        spinner
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.lively {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        }
    }
}

/// The text with control characters replaced: what a host or marketplace says
/// is shown, never obeyed.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            // Overrides of the writing direction, which can make a text read as another.
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if steers(c) { '\u{fffd}' } else { c })
        .collect()
}
