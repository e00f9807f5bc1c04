//! Where a kernel command line says that the site file is.
//!
//! What always holds: a [`Pointer`] has an address and the fingerprint of the
//! CA that its server must prove; it holds no secret, for a command line is
//! readable by everyone on the way.

use std::fmt;

use http::Uri;

use crate::text;

const SITE: &str = "surplus.site=";
const CA: &str = "surplus.ca=";

/// Longest address that is taken, in bytes.
const LONGEST_URL: usize = 512;

/// Addresses of a site file, and the CA that vouches for their servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// At least one, in the order in which they stand.
    pub urls: Vec<SiteUrl>,
    /// SHA-256 of the CA certificate in DER form.
    pub ca: [u8; 32],
}

/// `https://host[:port]/path` of a site file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteUrl {
    base: String,
    path: String,
}

/// What is wrong with the words on the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    #[error("{SITE}{value} on the kernel command line {problem}")]
    Url { value: String, problem: String },
    #[error("{CA}{value} on the kernel command line is no fingerprint")]
    Fingerprint { value: String },
    #[error("{SITE} stands on the kernel command line without a {CA} that can be used")]
    NoCa,
    #[error("{CA} stands twice on the kernel command line, with different fingerprints")]
    TwoCas,
}

impl PointerError {
    /// What to write instead.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Url { .. } => "write surplus.site=https://HOST[:PORT]/site.toml",
            Self::Fingerprint { .. } | Self::NoCa => {
                "write surplus.ca=sha256: and the 64 hexadecimal digits of the CA certificate's hash \
                 (surplus-netboot prints it)"
            }
            Self::TwoCas => "leave the one that surplus-netboot prints",
        }
    }
}

impl Pointer {
    /// Reads a kernel command line, and tells what it had to leave out.
    ///
    /// `None` where it names no site file, or none that can be fetched safely.
    pub fn read(command_line: &str) -> (Option<Self>, Vec<PointerError>) {
        let words = |key: &'static str| {
            command_line
                .split_ascii_whitespace()
                .filter_map(move |word| word.trim_matches('"').strip_prefix(key))
        };
        let mut errors = Vec::new();
        let mut urls = Vec::new();
        for value in words(SITE) {
            match SiteUrl::parse(value) {
                Ok(url) if urls.contains(&url) => {}
                Ok(url) => urls.push(url),
                Err(problem) => errors.push(PointerError::Url {
                    value: shortened(value),
                    problem,
                }),
            }
        }
        let mut cas = Vec::new();
        for value in words(CA) {
            match text::fingerprint(value) {
                Some(ca) if cas.contains(&ca) => {}
                Some(ca) => cas.push(ca),
                None => errors.push(PointerError::Fingerprint {
                    value: shortened(value),
                }),
            }
        }
        let ca = match cas[..] {
            [ca] if !urls.is_empty() => ca,
            [] if !urls.is_empty() => {
                errors.push(PointerError::NoCa);
                return (None, errors);
            }
            [_, _, ..] => {
                errors.push(PointerError::TwoCas);
                return (None, errors);
            }
            _ => return (None, errors),
        };
        (Some(Self { urls, ca }), errors)
    }
}

impl SiteUrl {
    /// Reads `https://host[:port]/path`; fails with what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST_URL {
            return Err(format!("is longer than {LONGEST_URL} bytes"));
        }
        let uri: Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let base = text.strip_suffix(path).unwrap_or(text);
        let base = text::https_url(base)?;
        if path == "/" {
            return Err("names a server, but no file on it".to_owned());
        }
        let path = path.to_owned();
        Ok(Self { base, path })
    }

    /// `https://host[:port]`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The file on the server, from its slash on.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for SiteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.base, self.path)
    }
}

/// A word as far as a line on a console has room for it; a password that
/// somebody wrote into it is not repeated.
fn shortened(word: &str) -> String {
    const ROOM: usize = 100;
    let word = word.rsplit_once('@').map_or(word, |(_, rest)| rest);
    let mut shown: String = word.chars().take(ROOM).collect();
    if shown.len() < word.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pin(digits: &str) -> String {
        format!("surplus.ca=sha256:{}", digits.repeat(32))
    }

    #[test]
    fn several_addresses_are_tried_in_their_order_under_one_pin() {
        let line = format!(
            "quiet surplus.site=https://[fd77::1]:8444/site.toml {} console=ttyS0 \
             surplus.site=https://boot.example/a/site.toml?rack=7 {}",
            pin("Ab"),
            pin("ab")
        );
        let (pointer, errors) = Pointer::read(&line);
        let pointer = pointer.unwrap();
        assert_eq!(errors, []);
        assert_eq!(pointer.ca, [0xab; 32]);
        let urls: Vec<_> = pointer.urls.iter().map(SiteUrl::to_string).collect();
        assert_eq!(
            urls,
            [
                "https://[fd77::1]:8444/site.toml",
                "https://boot.example/a/site.toml?rack=7"
            ]
        );
        assert_eq!(pointer.urls[0].base(), "https://[fd77::1]:8444");
        assert_eq!(pointer.urls[1].path(), "/a/site.toml?rack=7");
    }

    #[test]
    fn a_line_without_the_words_points_nowhere_and_is_no_error() {
        let (pointer, errors) = Pointer::read("root=/dev/sda quiet xsurplus.site=https://a/b");
        assert_eq!((pointer, errors), (None, vec![]));
    }

    #[test]
    fn a_word_that_cannot_be_used_is_named_and_the_others_are() {
        let line = format!(
            "surplus.site=http://a/site.toml surplus.site=https://a surplus.site=https://u:p@a/x \
             surplus.site=https://b/site.toml surplus.ca=sha256:12 {}",
            pin("00")
        );
        let (pointer, errors) = Pointer::read(&line);
        assert_eq!(pointer.unwrap().urls.len(), 1);
        let said: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 4, "{said:#?}");
        assert!(said[0].contains("surplus.site=http://a/site.toml"));
        assert!(said[1].contains("no file on it"), "{}", said[1]);
        assert!(said[3].contains("surplus.ca=sha256:12"));
        assert!(!said[2].contains("u:p"), "{}", said[2]);
    }

    #[test]
    fn without_one_pin_nothing_is_fetched() {
        let site = "surplus.site=https://a/site.toml";
        let (pointer, errors) = Pointer::read(site);
        assert_eq!((pointer, errors), (None, vec![PointerError::NoCa]));
        let two = format!("{site} {} {}", pin("00"), pin("11"));
        let (pointer, errors) = Pointer::read(&two);
        assert_eq!((pointer, errors), (None, vec![PointerError::TwoCas]));
    }

    proptest! {
        #[test]
        fn no_command_line_makes_it_panic(line in ".*", value in "\\PC*") {
            Pointer::read(&line);
            let words = format!("surplus.site=https://{value} surplus.ca={value} {}", pin("00"));
            Pointer::read(&words);
        }
    }
}
