//! Why libvirt did not do what was asked.

use std::fmt;

use virt::error::ErrorNumber;

/// A call to libvirt that failed: what was attempted, on what, and why.
#[derive(Debug)]
pub struct Error {
    operation: &'static str,
    object: String,
    kind: Kind,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Libvirt(virt::error::Error),
    Text(&'static str),
}

/// What an [`Error`] means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such domain (any more).
    NoDomain,
    /// libvirt could not be asked: not running, restarting, connection lost.
    /// Trying again can help.
    Unreachable,
    /// libvirt was asked and said no.
    Refused,
}

impl Error {
    pub(crate) fn new(operation: &'static str, object: &str, source: virt::error::Error) -> Self {
        let kind = match source.code() {
            ErrorNumber::NoDomain => Kind::NoDomain,
            ErrorNumber::NoConnect
            | ErrorNumber::InvalidConn
            | ErrorNumber::Rpc
            | ErrorNumber::AuthUnavailable => Kind::Unreachable,
            _ => Kind::Refused,
        };
        Self {
            operation,
            object: object.to_owned(),
            kind,
            cause: Cause::Libvirt(source),
        }
    }

    pub(crate) fn text(
        operation: &'static str,
        object: &str,
        kind: Kind,
        text: &'static str,
    ) -> Self {
        Self {
            operation,
            object: object.to_owned(),
            kind,
            cause: Cause::Text(text),
        }
    }

    pub(crate) fn unreachable(mut self) -> Self {
        self.kind = Kind::Unreachable;
        self
    }

    /// What the error means to the caller.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "libvirt could not {} {}", self.operation, self.object)?;
        match &self.cause {
            Cause::Libvirt(_) => Ok(()),
            Cause::Text(text) => write!(f, ": {text}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Libvirt(source) => Some(source),
            Cause::Text(_) => None,
        }
    }
}
