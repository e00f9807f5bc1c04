//! What a person is told when a command fails: what happened, why, what next.
//!
//! Every error of this program becomes a [`Failure`], which is printed once,
//! by `main`. Programs (`--json`) get the same as a problem document on
//! standard output.

use std::fmt::Write as _;

use serde_json::Value;
use surplus_protocol::Problem;

use crate::output::printable;

/// The end of a command that did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    problem: Box<Problem>,
    /// What programs get instead of the problem, where there is a result to
    /// show (a lease whose guest failed to start).
    document: Option<Box<Value>>,
    silent: bool,
}

impl Failure {
    /// A refusal of this program itself; its status is 0, for no HTTP answer
    /// stands behind it.
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        let problem = Problem {
            kind: format!("{}command", Problem::PREFIX),
            title: String::new(),
            status: 0,
            detail: what.into(),
            next: next.into(),
            reasons: Vec::new(),
        };
        Self {
            problem: Box::new(problem),
            document: None,
            silent: false,
        }
    }

    /// The reader of standard output went away: nothing to say to anybody.
    pub(crate) fn reader_gone() -> Self {
        Self {
            silent: true,
            ..Self::new("standard output was closed", "")
        }
    }

    pub(crate) fn because(mut self, reason: impl Into<String>) -> Self {
        self.problem.reasons.push(reason.into());
        self
    }

    pub(crate) fn showing(mut self, document: Value) -> Self {
        self.document = Some(Box::new(document));
        self
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// What programs get on standard output.
    pub(crate) fn document(&self) -> Value {
        match &self.document {
            Some(document) => (**document).clone(),
            None => serde_json::to_value(&self.problem).unwrap_or(Value::Null),
        }
    }

    /// The lines for people: `error:`, `why:` each, `next:`.
    pub(crate) fn text(&self) -> String {
        let Problem {
            title,
            detail,
            next,
            reasons,
            ..
        } = &*self.problem;
        let mut text = match (title.as_str(), detail.as_str()) {
            ("", only) | (only, "") => format!("error: {}\n", printable(only)),
            (title, detail) => format!("error: {}: {}\n", printable(title), printable(detail)),
        };
        for reason in reasons {
            let _ = writeln!(text, "  why: {}", printable(reason));
        }
        if !next.is_empty() {
            let _ = writeln!(text, "next: {}", printable(next));
        }
        text
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            document: None,
            silent: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_problem_is_listed() {
        let mut problem = Problem::new(
            409,
            "no-capacity",
            "no host can run this",
            "8 vCPUs were asked for",
            "ask for less",
        );
        problem.reasons = vec![
            "host 1: 4 vCPUs free".into(),
            "host 2: offers nothing".into(),
        ];
        insta::assert_snapshot!(Failure::from(problem).text(), @r"
        error: no host can run this: 8 vCPUs were asked for
          why: host 1: 4 vCPUs free
          why: host 2: offers nothing
        next: ask for less
        ");
    }

    #[test]
    fn a_text_from_outside_cannot_steer_the_terminal() {
        let failure = Failure::new("site \u{1b}[2Jx\nerror: forged", "");
        assert_eq!(failure.text().lines().count(), 1);
        assert!(!failure.text().contains('\u{1b}'));
    }
}
