//! The first stage by TFTP (RFC 1350, with the options of RFC 2348, 2349 and
//! 7440), for firmware that can fetch by nothing else.
//!
//! What always holds: three names, from memory, for reading, and for hosts of
//! the networks that are served; so many transfers at once and no more; a lost
//! packet is sent again a second later, and a client that is gone is given up
//! after some of that. A sender's address proves nothing in UDP: so what nobody
//! acknowledges stays small.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_tftp::packet::Error as Refusal;
use async_tftp::server::{Handler, TftpServer, TftpServerBuilder};
use bytes::Bytes;
use futures_util::AsyncRead;
use futures_util::io::{Cursor, Sink, sink};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::site::Audience;

/// Transfers at once. A first stage takes a second or two; but UEFI asks for its
/// size first, and what it leaves there counts until it is given up.
const TRANSFERS: usize = 2048;

/// How long an acknowledgement is waited for, and how often that is done.
const TIMEOUT: Duration = Duration::from_secs(1);
const RETRIES: u32 = 4;

/// Refusals are said so often at most, for a flood of them fills no log.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// No packet is larger than an Ethernet frame carries.
const BLOCK: u16 = 1468;
const WINDOW: u16 = 16;

/// What is served, by name.
pub type Files = BTreeMap<String, Bytes>;

/// Told of each transfer: client, name, bytes read so far, size.
pub type Progress = Arc<dyn Fn(IpAddr, &str, u64, u64) + Send + Sync>;

/// Serves `files` to `audience` on `socket`, which is bound to the address that
/// hosts know.
///
/// # Errors
///
/// Where the socket fails.
pub async fn serve(
    socket: UdpSocket,
    files: Files,
    audience: Audience,
    progress: Progress,
) -> io::Result<()> {
    let failed = |error: async_tftp::Error| io::Error::other(error);
    build(socket, files, audience, progress)
        .await
        .map_err(failed)?
        .serve()
        .await
        .map_err(failed)
}

async fn build(
    socket: UdpSocket,
    files: Files,
    audience: Audience,
    progress: Progress,
) -> async_tftp::Result<TftpServer<FirstStages>> {
    let handler = FirstStages {
        files,
        audience,
        refused: None,
        progress,
        permits: Arc::new(Semaphore::new(TRANSFERS)),
    };
    TftpServerBuilder::with_handler(handler)
        .std_socket(socket)?
        .timeout(TIMEOUT)
        .ignore_client_timeout()
        .max_send_retries(RETRIES)
        .block_size_limit(BLOCK)
        .window_size_limit(WINDOW)
        .build()
        .await
}

struct FirstStages {
    files: Files,
    audience: Audience,
    /// When a refusal was said last.
    refused: Option<Instant>,
    progress: Progress,
    permits: Arc<Semaphore>,
}

impl FirstStages {
    fn refuse(&mut self, address: IpAddr) -> Refusal {
        if self.refused.is_none_or(|said| said.elapsed() > SAID_EVERY) {
            self.refused = Some(Instant::now());
            tracing::warn!(
                %address,
                "refused a first stage: the address is on no network that is served; \
                 --site-network adds one"
            );
        }
        Refusal::PermissionDenied
    }
}

impl Handler for FirstStages {
    type Reader = Reading;
    type Writer = Sink;

    async fn read_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
    ) -> Result<(Reading, Option<u64>), Refusal> {
        if !self.audience.has(client.ip()) {
            return Err(self.refuse(client.ip()));
        }
        // Some firmware puts a slash before the name.
        let name = path.to_str().unwrap_or_default().trim_start_matches('/');
        let content = self.files.get(name).ok_or(Refusal::FileNotFound)?;
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::Msg("too many transfers, ask again".into()))?;
        let size = content.len() as u64;
        (self.progress)(client.ip(), name, 0, size);
        let reading = Reading {
            content: Cursor::new(content.clone()),
            client: client.ip(),
            name: name.to_owned(),
            progress: self.progress.clone(),
            _permit: permit,
        };
        Ok((reading, Some(size)))
    }

    async fn write_req_open(
        &mut self,
        _: &SocketAddr,
        _: &Path,
        _: Option<u64>,
    ) -> Result<Sink, Refusal> {
        let _ = sink();
        Err(Refusal::PermissionDenied)
    }
}

/// One transfer.
struct Reading {
    content: Cursor<Bytes>,
    client: IpAddr,
    name: String,
    progress: Progress,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.content).poll_read(context, buffer);
        let size = self.content.get_ref().len() as u64;
        (self.progress)(self.client, &self.name, self.content.position(), size);
        read
    }
}

#[cfg(test)]
mod tests;
