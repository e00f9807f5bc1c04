//! The demo's stages: named before they begin, timed, explained when they
//! fail, summed up at the end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Stages so far.
#[derive(Debug)]
pub(super) struct Story {
    begun: Instant,
    stages: Vec<(String, Duration)>,
}

impl Story {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            stages: Vec::new(),
        }
    }

    /// Runs one stage. When it fails, `advice` says where to look.
    pub(super) fn stage<T>(
        &mut self,
        title: &str,
        advice: &str,
        body: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        println!(
            "\n[{:>6.1} s] ==> {title}",
            self.begun.elapsed().as_secs_f64()
        );
        let begun = Instant::now();
        let result = body();
        self.stages.push((title.to_owned(), begun.elapsed()));
        result.with_context(|| format!("the demo stopped at \"{title}\"; {advice}"))
    }

    /// Prints what each stage took.
    pub(super) fn end(&self, whole: bool) {
        println!("\n{:>8}  stage", "seconds");
        for (title, took) in &self.stages {
            println!("{:>8.1}  {title}", took.as_secs_f64());
        }
        let verdict = if whole {
            "all"
        } else {
            "all, up to the failure"
        };
        println!("{:>8.1}  {verdict}", self.begun.elapsed().as_secs_f64());
    }
}
