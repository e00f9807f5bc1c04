//! What a build says while it works: a spinner a stage on a terminal, plain
//! lines elsewhere, each with the seconds since the start.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The stages of one command.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    bars: Option<MultiProgress>,
}

/// One stage, from its start until it is done or dropped.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    progress: &'a Progress,
    name: String,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn start() -> Self {
        let bars = MultiProgress::new();
        Self {
            start: Instant::now(),
            bars: (!bars.is_hidden()).then_some(bars),
        }
    }

    /// Begins a stage; several may run at once.
    pub(crate) fn stage(&self, name: &str) -> Stage<'_> {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:10} {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Stage {
            progress: self,
            name: name.to_owned(),
            start: Instant::now(),
            bar,
        }
    }

    /// Says that everything is done.
    pub(crate) fn finish(&self, text: &str) {
        self.line("done", text);
    }

    fn line(&self, name: &str, text: &str) {
        let line = format!(
            "[{:6.1}s] {name:10} {text}",
            self.start.elapsed().as_secs_f64()
        );
        match &self.bars {
            // Printing must not tear the spinners; a closed terminal is no error.
            Some(bars) => bars.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Stage<'_> {
    /// Says what the stage does now.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => self.progress.line(&self.name, text),
        }
    }

    /// Ends the stage with its result and its duration.
    pub(crate) fn done(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        self.progress
            .line(&self.name, &format!("{text} ({seconds:.1} s)"));
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
