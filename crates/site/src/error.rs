//! Why a text is not a site file, for the person who wrote it.

use std::fmt;

/// Why a text is not a site file.
///
/// `Display` says where, what is wrong and what to write instead, in one line.
/// [`SiteError::problem`] and [`SiteError::next`] give the two halves, as a
/// stage line wants them. None of them ever quotes the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteError {
    /// The bytes are no text at all.
    NotText,
    /// The text is not TOML.
    Syntax { line: usize, message: String },
    /// A key that means nothing.
    UnknownKey {
        line: usize,
        key: String,
        nearest: Option<String>,
        valid: Vec<String>,
    },
    /// A value of another type than the key takes.
    WrongType {
        line: usize,
        key: String,
        found: &'static str,
        write: String,
    },
    /// A value of the right type that cannot be right.
    Invalid {
        line: usize,
        key: String,
        problem: String,
        write: String,
    },
    /// A key without which the file says too little.
    Missing { key: String, write: String },
}

impl SiteError {
    /// The line it is about, counted from 1; `None` where something is missing.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::NotText | Self::Missing { .. } => None,
            Self::Syntax { line, .. }
            | Self::UnknownKey { line, .. }
            | Self::WrongType { line, .. }
            | Self::Invalid { line, .. } => Some(*line),
        }
    }

    /// Where, and what is wrong.
    pub fn problem(&self) -> String {
        let at = self
            .line()
            .map(|line| format!("line {line}: "))
            .unwrap_or_default();
        match self {
            Self::NotText => "the site file is not UTF-8 text".into(),
            Self::Syntax { message, .. } => format!("{at}not TOML: {message}"),
            Self::UnknownKey { key, .. } => format!("{at}unknown key `{key}`"),
            Self::WrongType { key, found, .. } => format!("{at}`{key}` cannot be {found}"),
            Self::Invalid { key, problem, .. } => format!("{at}`{key}` {problem}"),
            Self::Missing { key, .. } => format!("`{key}` is missing"),
        }
    }

    /// What to write instead.
    pub fn next(&self) -> String {
        match self {
            Self::NotText => "write the site file as plain text (TOML)".into(),
            Self::Syntax { .. } => "write `key = value` lines under `[section]` headings".into(),
            Self::UnknownKey {
                nearest: Some(nearest),
                ..
            } => format!("did you mean `{nearest}`?"),
            Self::UnknownKey { valid, .. } => format!("valid here: {}", valid.join(", ")),
            Self::WrongType { write, .. }
            | Self::Invalid { write, .. }
            | Self::Missing { write, .. } => format!("write {write}"),
        }
    }
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem(), self.next())
    }
}

impl std::error::Error for SiteError {}
