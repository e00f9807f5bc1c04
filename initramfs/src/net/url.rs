//! Where the root can be fetched: the addresses that the kernel command line
//! (`surplus.root=`) and DHCP (option 67, of DHCPv6 59) name.
//!
//! Both are untrusted text. An address is plain `http://`, since what comes
//! from there is checked block by block and is no secret.

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;

const ARGUMENT: &str = "surplus.root=";
/// More addresses than anybody means to give.
pub(crate) const MOST: usize = 16;
const LONGEST: usize = 1024;

/// One address of a root image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootUrl {
    text: String,
    host: Host,
}

/// What the address names its server by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    Name(String),
}

impl RootUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refused = |why: &str| Err(format!("{text:?} {why}"));
        if text.len() > LONGEST {
            return Err(format!("an address of {} bytes is too long", text.len()));
        }
        let Ok(uri) = text.parse::<Uri>() else {
            return refused("is no address of a file");
        };
        if uri.scheme_str() != Some("http") {
            return refused("does not begin with http://");
        }
        let Some(authority) = uri.authority() else {
            return refused("names no server");
        };
        if authority.as_str().contains('@') {
            return refused("holds a user name, which nobody asks for");
        }
        match host(authority.host()) {
            Some(host) => Ok(Self {
                text: text.to_owned(),
                host,
            }),
            None => refused("names no server"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }
}

impl fmt::Display for RootUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The host of an address as it stands there: version 6 in square brackets.
pub(crate) fn host(text: &str) -> Option<Host> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(bare) => Some(Host::Address(IpAddr::V6(bare.parse().ok()?))),
        None if text.is_empty() => None,
        None => Some(
            text.parse()
                .map_or_else(|_| Host::Name(text.to_owned()), Host::Address),
        ),
    }
}

/// What a text with several addresses named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) urls: Vec<RootUrl>,
    /// Why others were passed over.
    pub(crate) refused: Vec<String>,
}

impl Named {
    /// All `surplus.root=URL[,URL…]` of a kernel command line, in order;
    /// `None` if there is no such word.
    pub(crate) fn on_command_line(line: &str) -> Option<Self> {
        let mut words = line
            .split_ascii_whitespace()
            .filter_map(|word| word.trim_matches('"').strip_prefix(ARGUMENT))
            .peekable();
        words.peek()?;
        Some(Self::of(words.flat_map(|word| word.split(','))))
    }

    /// The addresses in DHCP's option for a boot file; other file names are passed over,
    /// for they are meant for other programs.
    pub(crate) fn in_option(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let words = text.split(|sign: char| sign.is_ascii_whitespace() || sign == '\0');
        Self::of(words.filter(|word| word.starts_with("http://")))
    }

    fn of<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut named = Self::default();
        for word in words.filter(|word| !word.is_empty()).take(MOST) {
            match RootUrl::parse(word) {
                Ok(url) if named.urls.contains(&url) => {}
                Ok(url) => named.urls.push(url),
                Err(why) => named.refused.push(why),
            }
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(named: &Named) -> Vec<&str> {
        named.urls.iter().map(RootUrl::text).collect()
    }

    #[test]
    fn all_words_of_the_command_line_count_in_their_order() {
        let line = "quiet surplus.root=http://a/root.img,http://b:8080/x surplus.site=https://s \
                    surplus.root=http://[fd77::1]:8080/root.img surplus.root=http://a/root.img\n";
        let named = Named::on_command_line(line).unwrap();
        assert_eq!(
            texts(&named),
            [
                "http://a/root.img",
                "http://b:8080/x",
                "http://[fd77::1]:8080/root.img"
            ]
        );
        assert!(named.refused.is_empty());
        assert_eq!(
            Named::on_command_line("quiet root=x surplus.roothash=ab"),
            None
        );
        assert_eq!(
            Named::on_command_line("surplus.root="),
            Some(Named::default())
        );
    }

    #[test]
    fn what_is_no_plain_http_address_is_refused_with_its_reason() {
        for (text, why) in [
            ("https://a/root.img", "http://"),
            ("ftp://a/", "http://"),
            ("root.img", "http://"),
            ("http://user@a/", "user name"),
            ("http://[fd77::zz]/", "names no server"),
            ("http://", "no address"),
        ] {
            let error = RootUrl::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn option_67_may_hold_several_addresses_and_other_programs_files() {
        let named = Named::in_option(b"http://10.0.0.1:8080/root.img http://b/r\0");
        assert_eq!(
            texts(&named),
            ["http://10.0.0.1:8080/root.img", "http://b/r"]
        );
        assert_eq!(Named::in_option(b"undionly.kpxe"), Named::default());
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let named = Named::in_option(&bytes);
            prop_assert!(named.urls.len() <= MOST);
            let _ = Named::on_command_line(&format!(
                "surplus.root={}", String::from_utf8_lossy(&bytes)));
        }

        #[test]
        fn every_accepted_address_is_http_and_names_a_host(text in "http://[-a-z0-9.:\\[\\]@/%]{0,40}") {
            if let Ok(url) = RootUrl::parse(&text) {
                prop_assert!(url.text().starts_with("http://"));
                prop_assert!(url.host() != &Host::Name(String::new()));
            }
        }
    }
}
