//! A marketplace in memory whose line can be cut at will.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use surplus_protocol::Digest;
use tokio::sync::Notify;

use super::{ByteStream, Uplink, UplinkError};
use crate::guests::placement::Placement;

/// How one request for an image is served.
#[derive(Clone, Debug)]
pub enum Serve {
    /// This many bytes, then a clean end.
    Cut(usize),
    /// This many bytes, then a broken connection.
    Break(usize),
    /// Something else.
    Instead(Bytes),
    /// This many bytes a minute, for ever.
    Trickle(usize),
    /// No for good.
    Refuse,
}

#[derive(Debug, Default)]
pub struct FakeUplink {
    images: Mutex<HashMap<Digest, Bytes>>,
    /// How the next requests are served; whole afterwards.
    pub script: Mutex<VecDeque<Serve>>,
    /// The offsets that were asked for.
    pub offsets: Mutex<Vec<u64>>,
    pub consoles: Mutex<BTreeMap<Placement, Vec<u8>>>,
    pub offline: Mutex<bool>,
    /// Something of a console arrived.
    pub heard: Notify,
}

impl FakeUplink {
    pub fn offer(&self, image: impl Into<Bytes>) -> Digest {
        let image = image.into();
        let digest = Digest::from_sha256(Sha256::digest(&image).into());
        self.images.lock().unwrap().insert(digest, image);
        digest
    }

    pub fn script(&self, serves: impl IntoIterator<Item = Serve>) {
        self.script.lock().unwrap().extend(serves);
    }

    pub fn set_offline(&self, offline: bool) {
        *self.offline.lock().unwrap() = offline;
    }

    fn reach(&self) -> Result<(), UplinkError> {
        if *self.offline.lock().unwrap() {
            return Err(UplinkError {
                what: "no route to the marketplace".into(),
                retryable: true,
            });
        }
        Ok(())
    }
}

impl Uplink for FakeUplink {
    fn image(&self, digest: Digest, offset: u64) -> BoxFuture<'_, Result<ByteStream, UplinkError>> {
        Box::pin(async move {
            self.reach()?;
            self.offsets.lock().unwrap().push(offset);
            let no = || UplinkError {
                what: "there is no such image".into(),
                retryable: false,
            };
            let image = self
                .images
                .lock()
                .unwrap()
                .get(&digest)
                .cloned()
                .ok_or_else(no)?;
            let serve = self.script.lock().unwrap().pop_front();
            let rest = image.slice(usize::try_from(offset).unwrap()..);
            let (bytes, end) = match serve {
                None => (rest, None),
                Some(Serve::Cut(count)) => (rest.slice(..count.min(rest.len())), None),
                Some(Serve::Break(count)) => {
                    let broken = UplinkError {
                        what: "connection reset".into(),
                        retryable: true,
                    };
                    (rest.slice(..count.min(rest.len())), Some(Err(broken)))
                }
                Some(Serve::Instead(other)) => (other, None),
                Some(Serve::Trickle(bytes)) => {
                    let chunks = rest.chunks(bytes).map(Bytes::copy_from_slice);
                    let chunks: Vec<_> = chunks.collect();
                    let slowly = stream::iter(chunks).then(|chunk| async move {
                        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
                        Ok(chunk)
                    });
                    return Ok(slowly.boxed());
                }
                Some(Serve::Refuse) => return Err(no()),
            };
            let chunks: Vec<_> = bytes
                .chunks(1000)
                .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
                .collect();
            Ok(stream::iter(chunks.into_iter().chain(end)).boxed())
        })
    }

    fn console(
        &self,
        placement: Placement,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'_, Result<u64, UplinkError>> {
        Box::pin(async move {
            self.reach()?;
            let mut consoles = self.consoles.lock().unwrap();
            let console = consoles.entry(placement).or_default();
            let have = console.len() as u64;
            if let Some(skip) = have.checked_sub(offset) {
                let skip = usize::try_from(skip).unwrap().min(bytes.len());
                console.extend_from_slice(&bytes[skip..]);
            }
            self.heard.notify_one();
            Ok(console.len() as u64)
        })
    }
}
