//! HTTP as far as fetching a file in parts needs it.

use std::io::Read;
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;
use ureq::http::header::{CONTENT_RANGE, RANGE, USER_AGENT};
use ureq::http::{HeaderMap, StatusCode};
use ureq::unversioned::transport::DefaultConnector;

use super::error::FetchError;
use crate::net::dns::{Names, NoNameServer, Servers};
use crate::net::url::RootUrl;

/// A dead server costs so much, and no more.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A transfer in which nothing arrives for so long is given up.
const PROGRESS_WITHIN: Duration = Duration::from_secs(10);
const REDIRECTS: u32 = 4;
const BUFFER: usize = 128 * 1024;

/// Asks servers for parts of files.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    agent: Agent,
}

/// The bytes of an answer, and where in the file they begin.
pub(crate) struct Body {
    pub(crate) start: u64,
    pub(crate) reader: Box<dyn Read>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

impl Http {
    pub(crate) fn new(servers: Servers) -> Self {
        let config = Config::builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(REDIRECTS)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_recv_response(Some(PROGRESS_WITHIN))
            .timeout_per_read(Some(PROGRESS_WITHIN))
            .timeout_per_write(Some(PROGRESS_WITHIN))
            .input_buffer_size(BUFFER)
            .build();
        Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), Names(servers)),
        }
    }

    /// Asks for the file from `from` on, which has `size` bytes if it is ours. A
    /// server without ranges sends all of it: the body then begins at 0.
    pub(crate) fn get(
        &self,
        url: &RootUrl,
        from: u64,
        size: u64,
        user_agent: &str,
    ) -> Result<Body, FetchError> {
        let last = size.saturating_sub(1);
        let answer = self
            .agent
            .get(url.text())
            .header(RANGE, format!("bytes={from}-{last}"))
            .header(USER_AGENT, user_agent)
            .call()
            .map_err(|error| asked(&error))?;
        let status = answer.status();
        let (start, found) = match status {
            StatusCode::PARTIAL_CONTENT => {
                content_range(answer.headers()).ok_or(FetchError::Range)?
            }
            StatusCode::OK => (0, answer.body().content_length()),
            // The file is shorter than where we ask.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let found = unsatisfied(answer.headers()).unwrap_or(0);
                return Err(FetchError::Size {
                    found,
                    expected: size,
                });
            }
            _ => return Err(FetchError::Status(status.to_string())),
        };
        if let Some(found) = found
            && found != size
        {
            return Err(FetchError::Size {
                found,
                expected: size,
            });
        }
        if start != 0 && start != from {
            return Err(FetchError::Range);
        }
        Ok(Body {
            start,
            reader: Box::new(answer.into_body().into_reader()),
        })
    }
}

fn asked(error: &ureq::Error) -> FetchError {
    match error {
        ureq::Error::Io(inner)
            if inner
                .get_ref()
                .is_some_and(|inner| inner.is::<NoNameServer>()) =>
        {
            FetchError::NoNameServer(error.to_string())
        }
        error => FetchError::Ask(error.to_string()),
    }
}

/// `bytes 5-9/10`: first byte, and the whole file's size unless it is `*`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let size = match size.trim() {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    let sound = first <= last && size.is_none_or(|size| last < size);
    sound.then_some((first, size))
}

/// `bytes */10`: the size of a file that has no such range.
fn unsatisfied(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.trim().strip_prefix("bytes */")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ureq::http::HeaderValue;

    use super::*;

    fn headers(text: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(text) {
            headers.insert(CONTENT_RANGE, value);
        }
        headers
    }

    #[test]
    fn content_ranges_are_read_and_impossible_ones_are_not() {
        let read = |text: &str| content_range(&headers(text.as_bytes()));
        assert_eq!(read("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(read("bytes 0-9/*"), Some((0, None)));
        for text in [
            "bytes 5-10/10",
            "bytes 9-5/10",
            "items 5-9/10",
            "bytes */10",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(unsatisfied(&headers(b"bytes */10")), Some(10));
    }

    #[test]
    fn a_name_without_a_name_server_says_where_servers_would_come_from() {
        let http = Http::new(std::sync::Arc::new(Vec::new));
        let url = RootUrl::parse("http://boot/root.img").unwrap();
        let error = http.get(&url, 0, 4096, "test").unwrap_err();
        assert!(error.to_string().contains("no name server"), "{error}");
        assert!(error.advice().contains("DHCPv4 or DHCPv6"), "{error:?}");
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let noise = headers(&bytes);
            let _ = unsatisfied(&noise);
            if let Some((first, Some(size))) = content_range(&noise) {
                prop_assert!(first < size);
            }
        }
    }
}
