//! Finds the one thing a person means: by id, by any unique beginning of the
//! id, by name where there are names.
//!
//! What always holds: a full id wins over a name, a name over a shortened id,
//! and what fits several things is refused with the list of them.

use surplus_protocol::api::{AdmissionRule, Host, Image, Lease};
use surplus_protocol::lease::LeaseState;

use crate::failure::Failure;
use crate::output::printable;

/// Something a person can point at.
pub(crate) trait Pointed {
    /// What it is called in messages, with the command that lists them.
    const KIND: &'static str;
    const LISTED_BY: &'static str;

    fn id(&self) -> String;

    fn name(&self) -> Option<&str> {
        None
    }

    /// Of several with one name, the one in use is meant.
    fn in_use(&self) -> bool {
        true
    }
}

impl Pointed for Host {
    const KIND: &'static str = "host";
    const LISTED_BY: &'static str = "surplus hosts";

    fn id(&self) -> String {
        self.id.to_string()
    }
}

impl Pointed for AdmissionRule {
    const KIND: &'static str = "admission rule";
    const LISTED_BY: &'static str = "surplus admissions";

    fn id(&self) -> String {
        self.id.to_string()
    }
}

impl Pointed for Lease {
    const KIND: &'static str = "lease";
    const LISTED_BY: &'static str = "surplus leases";

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn in_use(&self) -> bool {
        !matches!(self.state, LeaseState::Ended | LeaseState::Settled)
    }
}

impl Pointed for Image {
    const KIND: &'static str = "image";
    const LISTED_BY: &'static str = "surplus image list";

    fn id(&self) -> String {
        self.digest.to_hex()
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOne {
    #[error("there is no {kind} {wanted:?}")]
    None {
        kind: &'static str,
        wanted: String,
        listed_by: &'static str,
    },
    #[error("{wanted:?} fits {} {kind}s", .fitting.len())]
    Several {
        kind: &'static str,
        wanted: String,
        fitting: Vec<String>,
    },
}

impl From<NotOne> for Failure {
    fn from(error: NotOne) -> Self {
        let what = error.to_string();
        match error {
            NotOne::None { listed_by, .. } => {
                Self::new(what, format!("`{listed_by}` shows what there is"))
            }
            NotOne::Several { fitting, .. } => fitting
                .into_iter()
                .fold(Self::new(what, "give more of the id"), |failure, one| {
                    failure.because(format!("it fits {one}"))
                }),
        }
    }
}

/// The one of `all` that `wanted` means.
pub(crate) fn pick<'a, T: Pointed>(wanted: &str, all: &'a [T]) -> Result<&'a T, NotOne> {
    let lower = wanted.to_ascii_lowercase();
    let digits = lower.strip_prefix("sha256:").unwrap_or(&lower);
    if let Some(exact) = all.iter().find(|one| one.id() == digits) {
        return Ok(exact);
    }
    let named: Vec<_> = all
        .iter()
        .filter(|one| one.name() == Some(wanted))
        .collect();
    let named_in_use: Vec<_> = named.iter().copied().filter(|one| one.in_use()).collect();
    let beginning: Vec<_> = all
        .iter()
        .filter(|one| !digits.is_empty() && one.id().starts_with(digits))
        .collect();
    for candidates in [&named_in_use, &named, &beginning] {
        match candidates.as_slice() {
            [] => {}
            [one] => return Ok(one),
            several => {
                let show = |one: &&T| match one.name() {
                    Some(name) => format!("{} ({})", one.id(), printable(name)),
                    None => one.id(),
                };
                let fitting = several.iter().map(show).collect();
                return Err(NotOne::Several {
                    kind: T::KIND,
                    wanted: wanted.to_owned(),
                    fitting,
                });
            }
        }
    }
    Err(NotOne::None {
        kind: T::KIND,
        wanted: wanted.to_owned(),
        listed_by: T::LISTED_BY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples::{image, lease};

    fn leases() -> Vec<Lease> {
        let mut all = vec![lease(0), lease(1), lease(2)];
        all[0].name = "old".into();
        all[0].state = LeaseState::Settled;
        all[1].name = "old".into();
        all
    }

    #[test]
    fn any_unique_beginning_is_enough() {
        let all = leases();
        assert_eq!(pick("22", &all).unwrap().id, all[2].id);
        assert_eq!(pick(&all[1].id.to_string(), &all).unwrap().id, all[1].id);
    }

    #[test]
    fn an_ambiguous_beginning_lists_what_it_fits() {
        let all = leases();
        let text = Failure::from(pick("2", &all).unwrap_err()).text();
        assert_eq!(text.matches("why: it fits").count(), 3, "{text}");
    }

    #[test]
    fn of_two_with_one_name_the_one_in_use_is_meant() {
        let all = leases();
        assert_eq!(pick("old", &all).unwrap().id, all[1].id);
    }

    #[test]
    fn an_empty_word_means_nothing() {
        assert!(matches!(pick("", &leases()), Err(NotOne::None { .. })));
    }

    #[test]
    fn images_are_found_by_digest_with_and_without_its_algorithm() {
        let all = [image()];
        for wanted in ["hello", "abab", "sha256:abab", &image().digest.to_string()] {
            assert_eq!(pick(wanted, &all).unwrap().name, "hello", "{wanted}");
        }
        assert!(pick("sha256:", &all).is_err());
    }
}
