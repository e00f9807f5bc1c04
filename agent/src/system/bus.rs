//! The connection to the system bus, made when it is first needed.

use std::time::Duration;

use tokio::sync::OnceCell;
use zbus::Connection;

/// Longest wait for the bus: it answers in milliseconds or is not there.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why the system bus could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("cannot connect to the system bus")]
    Connect(#[source] zbus::Error),
    #[error("the system bus did not answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

/// The system bus. A failed connection is tried again at the next use.
#[derive(Debug, Default)]
pub struct Bus(OnceCell<Connection>);

impl Bus {
    /// A bus that is connected already, for tests.
    pub fn of(connection: Connection) -> Self {
        Self(OnceCell::new_with(Some(connection)))
    }

    pub async fn connection(&self) -> Result<&Connection, BusError> {
        self.0
            .get_or_try_init(|| async {
                tokio::time::timeout(DEADLINE, Connection::system())
                    .await
                    .map_err(|_| BusError::Deadline)?
                    .map_err(BusError::Connect)
            })
            .await
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use std::os::unix::net::UnixStream;

    use zbus::connection::Builder;
    use zbus::object_server::Interface;

    use super::*;

    /// A peer-to-peer pair: our side, and the service's, which must be kept.
    pub(crate) async fn serving<I: Interface>(path: &str, service: I) -> (Connection, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let stream = |stream| tokio::net::UnixStream::from_std(stream).unwrap();
        let server = Builder::unix_stream(stream(theirs))
            .server(zbus::Guid::generate())
            .unwrap()
            .p2p()
            .serve_at(path, service)
            .unwrap()
            .build();
        let client = Builder::unix_stream(stream(ours)).p2p().build();
        let (server, client) = tokio::join!(server, client);
        (client.unwrap(), server.unwrap())
    }
}
