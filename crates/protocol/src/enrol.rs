//! What a host says of itself with its enrolment.
//!
//! Enrolment is EST (RFC 7030) under [`EST_PATH`]: a CSR in the body, the join
//! token as HTTP Basic password (the user name is not looked at). EST has no
//! place for what the register wants to know beside, so it travels in one
//! header, [`FACTS_HEADER`], which other EST clients leave out.

use serde::{Deserialize, Serialize};

use crate::inventory::HardwareIdentity;

/// Where EST's operations are (RFC 7030, 3.2.2).
pub const EST_PATH: &str = "/.well-known/est";

/// Request header of `simpleenroll` and `simplereenroll`: [`HostFacts`].
pub const FACTS_HEADER: &str = "surplus-host-facts";

/// What the register wants to know of a host that enrols. Nothing in it is
/// proved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The site's name from the site file; empty where it has none.
    #[serde(default)]
    pub site: String,
    /// The rack from the site file; empty where it has none.
    #[serde(default)]
    pub rack: String,
    /// Where the key lives: `tpm`, `disk` or `ram`.
    #[serde(default)]
    pub key_storage: String,
    #[serde(default)]
    pub identity: HardwareIdentity,
    #[serde(default)]
    pub cpu_model: String,
    /// Memory that the kernel manages, in bytes; 0 where it is not told.
    #[serde(default)]
    pub memory_bytes: u64,
}

impl HostFacts {
    /// As a header's value: JSON, in ASCII alone.
    pub fn to_header(&self) -> String {
        // Strings and a number: writing them cannot fail.
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut header = String::with_capacity(json.len());
        for c in json.chars() {
            if matches!(c, ' '..='~') {
                header.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    header.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        header
    }

    /// Reads a header's value.
    pub fn from_header(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn facts_survive_the_round_trip_in_ascii(site in ".*", rack in ".*", product in ".*") {
            let identity = HardwareIdentity { product: Some(product), ..HardwareIdentity::default() };
            let facts = HostFacts { site, rack, identity, ..HostFacts::default() };
            let header = facts.to_header();
            prop_assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(HostFacts::from_header(&header).unwrap(), facts);
        }
    }

    #[test]
    fn what_is_left_out_is_empty() {
        assert_eq!(HostFacts::from_header("{}").unwrap(), HostFacts::default());
    }
}
