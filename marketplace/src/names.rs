//! The names that the server's certificate bears: those in the URLs that it is
//! called by, and the address that it listens on.

use std::net::{IpAddr, SocketAddr};

use http::Uri;

use crate::marketplace::StartError;

/// The names for these URLs, each once, the URLs' first.
///
/// # Errors
///
/// [`StartError::Url`] for a URL that is not `https://host[:port]`.
pub(crate) fn server_names(urls: &[String], listen: SocketAddr) -> Result<Vec<String>, StartError> {
    let mut names = Vec::new();
    let mut add = |name: String| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    for url in urls {
        let invalid = || StartError::Url { url: url.clone() };
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if uri.scheme_str() != Some("https") || !bare {
            return Err(invalid());
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let unspecified = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        if !unspecified {
            add(host.to_ascii_lowercase());
        }
    }
    let ip = listen.ip();
    if !ip.is_unspecified() {
        add(ip.to_string());
    }
    // Whoever stands before the machine may always call it so.
    if ip.is_unspecified() || ip.is_loopback() {
        add("localhost".to_owned());
        add("127.0.0.1".to_owned());
        add("::1".to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_urls_are_in_the_certificate() {
        let urls = [
            "https://Market.example:8443/",
            "https://[2001:db8::1]",
            "https://192.0.2.1:1",
        ]
        .map(str::to_owned);
        let names = server_names(&urls, "192.0.2.1:8443".parse().unwrap()).unwrap();
        assert_eq!(names, ["market.example", "2001:db8::1", "192.0.2.1"]);
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["http://a", "https://", "market:1", "https://a/path"] {
            let listen = "127.0.0.1:1".parse().unwrap();
            assert!(server_names(&[url.to_owned()], listen).is_err(), "{url}");
        }
    }
}
