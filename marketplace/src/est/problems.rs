//! Why an enrolment is refused, as problem documents.
//!
//! They reach a console in a rack: each says what to do next. None repeats a
//! secret. Status 401 is kept for tokens: it counts as a guess.

use std::time::Duration;

use surplus_market::token::TokenRefusal;
use surplus_protocol::Problem;

const NEW_TOKEN: &str = "make a token with `surplus token create` and put it into the site file";
const APPROVE: &str = "or enrol without a token and let an operator approve the host";

/// The token does not admit the host.
pub fn token(refusal: &TokenRefusal) -> Problem {
    let (name, title) = match refusal {
        TokenRefusal::Unknown => ("token-unknown", "The join token is not known"),
        TokenRefusal::Spent { .. } => ("token-spent", "The join token is spent"),
        TokenRefusal::Expired { .. } => ("token-expired", "The join token has expired"),
        TokenRefusal::WrongNetwork { .. } => (
            "token-network",
            "The join token may not be used from this network",
        ),
    };
    let next = match refusal {
        TokenRefusal::WrongNetwork { .. } => {
            format!("{NEW_TOKEN}, with a network that the host is in, {APPROVE}")
        }
        _ => format!("{NEW_TOKEN}, {APPROVE}"),
    };
    Problem::new(401, name, title, refusal.to_string(), next)
}

/// An operator turned the host away.
pub fn rejected(host: &str, detail: &str) -> Problem {
    Problem::new(
        403,
        "host-rejected",
        "The host was turned away",
        format!("host {host}: {detail}"),
        "ask the marketplace's operator to approve the host",
    )
}

/// Two machines live under one identity.
pub fn quarantined(host: &str, detail: &str) -> Problem {
    Problem::new(
        403,
        "host-quarantined",
        "The host is quarantined",
        format!("host {host}: {detail}"),
        "stop the machine that should not be there, then let an operator approve the host",
    )
}

/// A certificate whose host or key the register does not hold (any more).
pub fn not_registered(host: &str) -> Problem {
    Problem::new(
        403,
        "not-registered",
        "The certificate is not the registered one",
        format!("the register holds no host {host} with this key"),
        "enrol anew with a join token, or without one and let an operator approve the host",
    )
}

pub(super) fn certificate_required() -> Problem {
    Problem::new(
        403,
        "certificate-required",
        "A host's certificate is required",
        "simplereenroll was asked without a host's certificate of this marketplace in TLS",
        "show the certificate that shall be renewed, or use simpleenroll with a join token",
    )
}

pub(super) fn another_host(host: &str) -> Problem {
    Problem::new(
        403,
        "another-host",
        "The request names another host than the certificate",
        format!(
            "the certificate is for host {host}; subject and alternative names of the request differ"
        ),
        "ask for exactly the subject and alternative names of the certificate that was shown",
    )
}

pub(super) fn expired_with_new_key(host: &str) -> Problem {
    Problem::new(
        403,
        "expired-new-key",
        "An expired certificate cannot vouch for a new key",
        format!("the certificate of host {host} has expired, and the request is for another key"),
        "renew with the key of the expired certificate, or enrol anew with a join token",
    )
}

pub(super) fn names_a_host(name: &str) -> Problem {
    Problem::new(
        403,
        "names-a-host",
        "A first request cannot name a host",
        format!("the request asks to be {name:?}; the marketplace chooses a host's name"),
        "leave the name out, or renew by simplereenroll with that host's certificate",
    )
}

pub(super) fn authorization_unreadable() -> Problem {
    Problem::new(
        401,
        "token-unreadable",
        "The join token cannot be read",
        "the Authorization header is not HTTP Basic with the token as password",
        "send any user name and the join token as password, or no Authorization at all",
    )
}

pub(super) fn unreadable(detail: &str) -> Problem {
    Problem::new(
        400,
        "bad-request",
        "The request cannot be read",
        detail,
        "send a PKCS#10 request as base64 of its DER, signed by its own key",
    )
}

pub(super) fn too_many_guesses(wait: Duration) -> Problem {
    Problem::new(
        429,
        "too-many-attempts",
        "Too many enrolments from this address",
        "bad tokens, or requests without one, were sent from here again and again",
        format!(
            "wait {} s, and check the token in the site file",
            wait.as_secs().max(1)
        ),
    )
}

/// So many hosts wait that no further one is noted.
pub fn crowded(detail: &str) -> Problem {
    Problem::new(
        503,
        "too-many-pending",
        "Too many hosts wait for approval",
        detail,
        "reject or approve some: surplus hosts; or put a join token into the site file",
    )
}

pub(super) fn internal() -> Problem {
    Problem::new(
        500,
        "internal",
        "The marketplace failed",
        "the certificate could not be written into the answer",
        "try again; if it stays so, the marketplace's log says more",
    )
}
