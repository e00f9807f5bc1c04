//! HTTP Basic (RFC 7617): the password is the join token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use secrecy::SecretString;
use surplus_protocol::Problem;

use super::problems;

/// What a 401 asks for.
pub(super) const CHALLENGE: &str = "Basic realm=\"surplus join token\", charset=\"UTF-8\"";

/// The password of a request; `None` where it has no `Authorization` at all.
pub(super) fn password(headers: &HeaderMap) -> Result<Option<SecretString>, Box<Problem>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let password = value.to_str().ok().and_then(parse);
    password
        .map(Some)
        .ok_or_else(|| problems::authorization_unreadable().into())
}

fn parse(value: &str) -> Option<SecretString> {
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (_, password) = credentials.split_once(':')?;
    (!password.is_empty()).then(|| password.into())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(value: &str) -> Result<Option<String>, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        let read = password(&headers).map_err(|problem| problem.status);
        read.map(|secret| secret.map(|secret| secret.expose_secret().to_owned()))
    }

    #[test]
    fn the_token_is_all_after_the_first_colon() {
        for (credentials, token) in [
            ("any:secret", "secret"),
            (":secret", "secret"),
            ("a:b:c", "b:c"),
        ] {
            let value = format!("bAsIc {}", STANDARD.encode(credentials));
            assert_eq!(read(&value).unwrap().as_deref(), Some(token));
        }
    }

    #[test]
    fn other_authorization_is_refused_rather_than_taken_for_none() {
        let empty = format!("Basic {}", STANDARD.encode("user:"));
        for value in ["Bearer x", "Basic", "Basic ???", empty.as_str()] {
            assert_eq!(read(value), Err(401), "{value}");
        }
        assert!(password(&HeaderMap::new()).unwrap().is_none());
    }
}
