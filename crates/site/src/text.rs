//! Checks of single values: URLs, certificates, names.

use http::Uri;
use x509_cert::Certificate;
use x509_cert::der::EncodePem as _;
use x509_cert::der::pem::LineEnding;

/// An `https://host[:port]` address without path, in its plain form.
pub(crate) fn https_url(text: &str) -> Result<String, String> {
    base_url(text, &["https"])
}

/// An `http://host:port` address of a proxy, in its plain form.
pub(crate) fn proxy_url(text: &str) -> Result<String, String> {
    base_url(text, &["http", "https"])
}

fn base_url(text: &str, schemes: &[&str]) -> Result<String, String> {
    // The text itself is not quoted where it might carry a password.
    let uri: Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
    let authority = uri.authority().ok_or("is not a URL with a host")?;
    if authority.as_str().contains('@') {
        return Err("carries a user name or password, which has no place in it".into());
    }
    let scheme = uri.scheme_str().unwrap_or_default();
    if !schemes.contains(&scheme) {
        return Err(format!(
            "{text:?} does not start with {}://",
            schemes.join(":// or ")
        ));
    }
    if authority.host().is_empty() {
        return Err(format!("{text:?} names no host"));
    }
    let colon = authority
        .as_str()
        .rsplit(']')
        .next()
        .is_some_and(|rest| rest.contains(':'));
    if colon && !matches!(authority.port_u16(), Some(1..)) {
        return Err(format!("{text:?} has an impossible port"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(format!("{text:?} goes on behind the host and port"));
    }
    Ok(format!("{scheme}://{authority}"))
}

/// One or several certificates, written anew: what stood around them is gone.
pub(crate) fn certificates(pem: &str) -> Result<String, String> {
    if pem.contains("PRIVATE KEY") {
        return Err("holds a private key, which must never leave the marketplace".into());
    }
    // `load_pem_chain` takes one from the length of what is left without its
    // last newlines.
    if pem.trim().is_empty() {
        return Err("holds no certificate".into());
    }
    let refused = |error| format!("is not a certificate in PEM form ({error})");
    let chain = Certificate::load_pem_chain(pem.as_bytes()).map_err(refused)?;
    if chain.is_empty() {
        return Err("holds no certificate".into());
    }
    chain
        .iter()
        .map(|certificate| certificate.to_pem(LineEnding::LF).map_err(refused))
        .collect()
}

/// `sha256:` and 64 hexadecimal digits.
pub(crate) fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.strip_prefix("sha256:")?, &mut bytes).ok()?;
    Some(bytes)
}

/// A name for people: printable, not empty, at most 63 characters.
pub(crate) fn is_name(text: &str) -> bool {
    let length = text.chars().count();
    (1..=63).contains(&length) && !text.chars().any(char::is_control) && text.trim() == text
}

/// A label's key: as DNS has them, with a few more signs.
pub(crate) fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}

/// A host name or an IP address.
pub(crate) fn is_host(text: &str) -> bool {
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.parse::<std::net::IpAddr>().is_ok()
        || (text.len() <= 253 && text.trim_end_matches('.').split('.').all(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_bare_and_encrypted() {
        for good in [
            "https://hub",
            "https://hub.example:8443/",
            "https://[2001:db8::1]:8443",
        ] {
            let plain = https_url(good).unwrap();
            assert_eq!(plain, good.trim_end_matches('/'));
        }
        for (bad, word) in [
            ("http://hub", "https"),
            ("hub:8443", "https"),
            ("https://", "URL"),
            ("https://u:secret@hub", "password"),
            ("https://hub/api", "behind"),
            ("https://hub:99999", ""),
            ("https://hub:0", "port"),
            ("https://hub:", "port"),
            ("", "URL"),
        ] {
            let error = https_url(bad).unwrap_err();
            assert!(
                error.contains(word) && !error.contains("secret"),
                "{bad}: {error}"
            );
        }
        assert!(proxy_url("http://proxy:3128").is_ok());
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in ["ntp.example", "192.0.2.1", "2001:db8::1", "a-b.c."] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "a b", "-a", "a..b", "http://x", "a_b"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
