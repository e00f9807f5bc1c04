//! What guests need of the marketplace: images down, consoles up.
//!
//! What always holds: a stream of an image starts exactly where it was asked
//! to, whether or not the server knows ranges.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, header};
use surplus_https::{Body, Client, ClientError, Response};
use surplus_protocol::Digest;
use surplus_protocol::agent::ConsoleAck;
use tokio::sync::watch;

use crate::enrol::Credentials;
use crate::guests::{ByteStream, Placement, Uplink, UplinkError};
use crate::hub::in_one_line;

/// The marketplace, with the credentials of the moment.
#[derive(Clone, Debug)]
pub struct Marketplace(pub watch::Receiver<Credentials>);

impl Marketplace {
    fn client(&self) -> Client {
        self.0.borrow().client.clone()
    }
}

impl Uplink for Marketplace {
    fn image(&self, digest: Digest, offset: u64) -> BoxFuture<'_, Result<ByteStream, UplinkError>> {
        async move {
            let path = format!("/agent/v1/images/{digest}");
            let answer = self
                .client()
                .download(&path, offset)
                .await
                .map_err(|error| refused(&format!("cannot fetch image {digest}"), &error))?;
            from_offset(answer, offset).await
        }
        .boxed()
    }

    fn console(
        &self,
        placement: Placement,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'_, Result<u64, UplinkError>> {
        async move {
            let Placement { lease, epoch } = placement;
            let path = format!("/agent/v1/leases/{lease}/{epoch}/console?offset={offset}");
            let mut headers = HeaderMap::new();
            let octets = HeaderValue::from_static("application/octet-stream");
            headers.insert(header::CONTENT_TYPE, octets);
            let sent = async {
                self.client()
                    .request(Method::POST, &path, headers, Body::from(bytes))
                    .await?
                    .json::<ConsoleAck>()
                    .await
            };
            let ack = sent.await.map_err(|error| {
                refused(
                    &format!("cannot hand over the console of lease {lease}"),
                    &error,
                )
            })?;
            Ok(ack.next_offset)
        }
        .boxed()
    }
}

/// The body from `wanted` on: what lies before it is read and dropped.
async fn from_offset(mut answer: Response, wanted: u64) -> Result<ByteStream, UplinkError> {
    let mut skip = wanted
        .checked_sub(answer.offset())
        .ok_or_else(|| UplinkError {
            what: format!(
                "the marketplace sent an image from byte {} on instead of {wanted}",
                answer.offset()
            ),
            retryable: true,
        })?;
    let mut first = Bytes::new();
    while skip > 0 {
        let chunk = answer.chunk().await.map_err(|error| broke(&error))?;
        let Some(mut chunk) = chunk else { break };
        let dropped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
        first = chunk.split_off(dropped);
        skip -= dropped as u64;
    }
    let rest = answer
        .into_stream()
        .map(|chunk| chunk.map_err(|error| broke(&error)));
    let first = futures_util::stream::iter((!first.is_empty()).then_some(Ok(first)));
    Ok(first.chain(rest).boxed())
}

fn broke(error: &ClientError) -> UplinkError {
    refused("the download of an image broke off", error)
}

fn refused(what: &str, error: &ClientError) -> UplinkError {
    // Refused identities and forgotten hosts can be mended; a missing image or
    // a malformed request cannot.
    let retryable = error.retryable() || matches!(error.status(), None | Some(401 | 403));
    UplinkError {
        what: format!("{what}: {}", in_one_line(error)),
        retryable,
    }
}

#[cfg(test)]
mod tests;
