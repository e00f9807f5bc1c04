//! Hardware addresses, and whom to leave alone by them.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = NotHardware;

    fn from_str(text: &str) -> Result<Self, NotHardware> {
        let Prefix(bytes) = text.parse()?;
        let bytes = bytes.try_into().map_err(|_| NotHardware(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

/// The first bytes of Ethernet addresses, one to all six.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Vec<u8>);

/// A text that is no hardware address, nor the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no hardware address nor the beginning of one: write 52:54:00:12:34:56, \
     or as many pairs from the left as shall match"
)]
pub struct NotHardware(String);

impl FromStr for Prefix {
    type Err = NotHardware;

    fn from_str(text: &str) -> Result<Self, NotHardware> {
        let pair = |pair: &str| {
            let digits = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(pair, 16).ok())?
        };
        let bytes: Option<Vec<u8>> = text
            .trim_end_matches([':', '-'])
            .split([':', '-'])
            .map(pair)
            .collect();
        bytes
            .filter(|bytes| bytes.len() <= 6)
            .map(Self)
            .ok_or_else(|| NotHardware(text.to_owned()))
    }
}

/// Who is answered.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Never these.
    pub ignore: Vec<Prefix>,
    /// These alone, where there is one.
    pub only: Vec<Prefix>,
}

impl Choice {
    pub fn takes(&self, mac: Mac) -> bool {
        let among = |list: &[Prefix]| list.iter().any(|prefix| mac.0.starts_with(&prefix.0));
        !among(&self.ignore) && (self.only.is_empty() || among(&self.only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(ignore: &[&str], only: &[&str]) -> Choice {
        let read = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Choice {
            ignore: read(ignore),
            only: read(only),
        }
    }

    #[test]
    fn ignoring_wins_over_choosing() {
        let mac: Mac = "52:54:00:12:34:56".parse().unwrap();
        assert!(choice(&[], &[]).takes(mac));
        assert!(choice(&[], &["52-54-00"]).takes(mac));
        assert!(!choice(&[], &["52:54:01"]).takes(mac));
        assert!(!choice(&["52:54:00:12:34:56"], &["52:54"]).takes(mac));
        assert!(choice(&["52:54:00:12:34:57"], &[]).takes(mac));
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "",
            "5",
            "52:5",
            "52:54:00:12:34:56:78",
            "xy:00",
            "52::54",
            "+1:+2",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
        assert!("52:54".parse::<Mac>().is_err());
    }
}
