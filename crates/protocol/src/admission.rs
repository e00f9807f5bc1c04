//! Admission rules: whom a marketplace lets in without a token.
//!
//! A rule looks at what a host says of itself and at where it calls from.
//! Nothing that a host says is proved: a rule trusts the network that it names
//! and whoever can write a serial number. What always holds: [`Selectors`] that
//! passed [`Selectors::checked`] have one form, and name at least one value.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{AdmissionRuleId, TokenId};
use crate::inventory::HardwareIdentity;

/// Longest serial number or rack label, in characters.
const LONGEST: usize = 128;

/// Which hosts are meant: all kinds that are given must fit, each by any one
/// of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Selectors {
    /// First octets of a permanent MAC address: `52:54:00`.
    pub mac_prefixes: Vec<String>,
    /// Serial numbers of the system or its board, in upper or lower case.
    pub serials: Vec<String>,
    /// Rack labels, as the site file gives them.
    pub racks: Vec<String>,
    /// Networks (CIDR) that the host calls from.
    pub networks: Vec<String>,
}

/// Why selectors mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error(
        "a rule that names no MAC prefix, serial number, rack or network would admit everyone; \
         if that is meant, name the networks 0.0.0.0/0 and ::/0"
    )]
    Nobody,
    #[error("{text:?} is not the beginning of a MAC address: write 1 to 6 octets, as 52:54:00")]
    MacPrefix { text: String },
    #[error("{text:?} is not a serial number: 1 to {LONGEST} characters are expected")]
    Serial { text: String },
    #[error("{text:?} is not a rack label: 1 to {LONGEST} characters are expected")]
    Rack { text: String },
    #[error("{text:?} is not a network: write for instance 192.0.2.0/24 or 2001:db8::/32")]
    Network { text: String },
}

/// A host that asks to join, as a rule sees it.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub from: Option<IpAddr>,
    pub rack: &'a str,
    pub identity: &'a HardwareIdentity,
}

impl Selectors {
    /// The same in one form.
    ///
    /// # Errors
    ///
    /// [`SelectorError`] names the value that means nothing; no value at all
    /// is refused too, for it would mean everyone.
    pub fn checked(self) -> Result<Self, SelectorError> {
        let checked = Self {
            mac_prefixes: each(self.mac_prefixes, mac_prefix)?,
            serials: each(self.serials, |text| {
                word(text).ok_or(SelectorError::Serial { text: text.into() })
            })?,
            racks: each(self.racks, |text| {
                word(text).ok_or(SelectorError::Rack { text: text.into() })
            })?,
            networks: each(self.networks, |text| Ok(network(text)?.to_string()))?,
        };
        if checked.are_empty() {
            return Err(SelectorError::Nobody);
        }
        Ok(checked)
    }

    /// Whether they name nothing.
    pub fn are_empty(&self) -> bool {
        let kinds = [
            &self.mac_prefixes,
            &self.serials,
            &self.racks,
            &self.networks,
        ];
        kinds.into_iter().all(Vec::is_empty)
    }

    /// Whether the host is meant. Selectors that name nothing mean nobody.
    pub fn fit(&self, host: &Asker<'_>) -> bool {
        let identity = host.identity;
        let mac = |prefix: &String| {
            let begins = |mac: &String| mac.to_ascii_lowercase().starts_with(prefix.as_str());
            identity.macs.iter().any(begins)
        };
        let serial = |wanted: &String| {
            let serials = [&identity.system_serial, &identity.board_serial];
            let mut said = serials.into_iter().flatten();
            said.any(|serial| serial.trim().eq_ignore_ascii_case(wanted))
        };
        let rack = |wanted: &String| host.rack.trim() == wanted;
        let here = |net: &String| host.from.is_some_and(|from| is_in(from, net));
        !self.are_empty()
            && any(&self.mac_prefixes, mac)
            && any(&self.serials, serial)
            && any(&self.racks, rack)
            && any(&self.networks, here)
    }
}

/// Whether one of the values fits; a kind without values fits everything.
fn any(values: &[String], fits: impl Fn(&String) -> bool) -> bool {
    values.is_empty() || values.iter().any(fits)
}

/// Every value in its one form, each once.
fn each(
    values: Vec<String>,
    one: impl Fn(&str) -> Result<String, SelectorError>,
) -> Result<Vec<String>, SelectorError> {
    let mut checked: Vec<String> = Vec::with_capacity(values.len());
    for value in values {
        checked.push(one(value.trim())?);
    }
    checked.sort_unstable();
    checked.dedup();
    Ok(checked)
}

fn word(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.chars().count() <= LONGEST;
    (fits && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// Reads `52:54:00`, `52-54-00` or `525400` as `52:54:00`.
fn mac_prefix(text: &str) -> Result<String, SelectorError> {
    let wrong = || SelectorError::MacPrefix { text: text.into() };
    let groups: Vec<&str> = text.split([':', '-']).collect();
    let digits = groups.concat().to_ascii_lowercase();
    let grouped = groups.len() == 1 || groups.iter().all(|group| group.len() == 2);
    let whole = (2..=12).contains(&digits.len()) && digits.len() % 2 == 0;
    if !grouped || !whole || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut prefix = String::with_capacity(17);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && index % 2 == 0 {
            prefix.push(':');
        }
        prefix.push(digit);
    }
    Ok(prefix)
}

/// A network without host bits; one of IPv4-mapped IPv6 addresses as the IPv4
/// network that it is.
///
/// # Errors
///
/// [`SelectorError::Network`] where the text is none.
pub fn network(text: &str) -> Result<IpNet, SelectorError> {
    let wrong = || SelectorError::Network { text: text.into() };
    let net: IpNet = text.trim().parse().map_err(|_| wrong())?;
    let IpNet::V6(v6) = net else {
        return Ok(net.trunc());
    };
    let mapped = v6.addr().to_ipv4_mapped();
    match (mapped, v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => {
            let net = Ipv4Net::new(v4, length).map_err(|_| wrong())?;
            Ok(IpNet::V4(net.trunc()))
        }
        _ => Ok(net.trunc()),
    }
}

/// Whether the address lies in the network, IPv4-mapped or not.
pub fn is_in(address: IpAddr, net: &str) -> bool {
    network(net).is_ok_and(|net| net.contains(&address.to_canonical()))
}

impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("from", &self.networks),
            ("MAC", &self.mac_prefixes),
            ("rack", &self.racks),
            ("serial", &self.serials),
        ];
        let mut between = "";
        for (kind, values) in kinds {
            match values.as_slice() {
                [] => continue,
                few if few.len() <= 3 => write!(f, "{between}{kind} {}", few.join(" or "))?,
                [first, ..] => {
                    let others = values.len() - 1;
                    write!(f, "{between}{kind} {first} or {others} others")?;
                }
            }
            between = ", ";
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateAdmissionRule {
    pub selectors: Selectors,
    /// How many hosts it may admit; none: any number.
    #[serde(default)]
    pub uses: Option<u32>,
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AdmissionRule {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: AdmissionRuleId,
    pub selectors: Selectors,
    /// How many hosts it may admit; none: any number.
    pub uses: Option<u32>,
    /// How many hosts it has admitted. One that comes back as itself on the
    /// same rule is not counted again.
    pub used: u32,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// Name of the API key that made it.
    pub created_by: String,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// Who let a host in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Admission {
    /// It had the join token of this name.
    Token {
        name: String,
        /// Tells it from a later one of the same name. None where the host
        /// joined before this was kept.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<uuid::Uuid>))]
        id: Option<TokenId>,
    },
    /// An admission rule, which may have been deleted since.
    Rule {
        #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
        id: AdmissionRuleId,
    },
    /// The operator with the API key of this name.
    Operator { key: String },
}

#[cfg(test)]
mod tests;
