//! Images come from the world, in pieces with a point before each.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use surplus_agent::guests::{ByteStream, Placement, Uplink, UplinkError};
use surplus_protocol::Digest;

use super::World;
use crate::wire::{Answer, Ask};

#[derive(Debug)]
pub struct Fetching(pub(super) Arc<World>);

fn unreachable() -> UplinkError {
    UplinkError {
        what: "the marketplace cannot be reached".to_owned(),
        retryable: true,
    }
}

impl Uplink for Fetching {
    fn image(&self, digest: Digest, offset: u64) -> BoxFuture<'_, Result<ByteStream, UplinkError>> {
        Box::pin(async move {
            let image = match self.0.ask(&Ask::Image { digest, offset }) {
                Answer::Image(image) => image,
                Answer::NoImage => {
                    return Err(UplinkError {
                        what: "there is no such image".to_owned(),
                        retryable: false,
                    });
                }
                _ => return Err(unreachable()),
            };
            let world = Arc::clone(&self.0);
            let half = image.len().div_ceil(2).max(1);
            let pieces: Vec<_> = image.chunks(half).map(Bytes::copy_from_slice).collect();
            let pieces = stream::iter(pieces).map(move |piece| {
                if world.point("a piece of the image".to_owned()) {
                    Ok(piece)
                } else {
                    Err(unreachable())
                }
            });
            Ok(pieces.boxed())
        })
    }

    fn console(
        &self,
        _placement: Placement,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'_, Result<u64, UplinkError>> {
        Box::pin(async move { Ok(offset + bytes.len() as u64) })
    }
}
