//! The boot server: everything checked and bound first, then served together.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as Bound, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use socket2::{Domain, Socket, Type};
use surplus_artefacts::sums::{self, SumsError};
use surplus_artefacts::{Artefacts, NAMES, OpenError};
use surplus_https::server::SetupError;
use surplus_https::{Clock, Server};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::dhcp::{Answer, Boot, ListenError, Listener, Request, Responder, Silence};
use crate::efi::{self, EfiError};
use crate::hardware::Choice;
use crate::identity::{Identity, IdentityError};
use crate::interface::{Interface, InterfaceError};
use crate::places::{Base, Places};
use crate::ports::{self, Protocol};
use crate::site::{self, Audience, ReadError};
use crate::tftp;
use crate::watch::Watch;

const EFI: &str = "surplus.efi";
const LOADER: &str = "snponly.efi";

/// How often the certificate's age is looked at.
const RENEWAL: Duration = Duration::from_secs(3600);

/// How long the site file's requests may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(1);

/// What a boot server is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    pub interface: String,
    pub listen_address: Option<Ipv4Addr>,
    /// A port that is 0 becomes a free one.
    pub http_port: u16,
    pub https_port: u16,
    pub tftp_port: u16,
    pub artefacts: PathBuf,
    pub site: PathBuf,
    pub state: PathBuf,
    /// Other boot servers with the same artefacts, CA and HTTPS port.
    pub also: Vec<Base>,
    pub choice: Choice,
    /// Other networks whose hosts may have the site file, and first stages.
    pub site_networks: Vec<IpNet>,
    /// Answer as proxy-DHCP.
    pub dhcp: bool,
    /// Answer relays of `site_networks`, too.
    pub relayed: bool,
    pub clock: Clock,
}

/// Why a boot server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    #[error("the artefacts are not in order; make them (cargo xtask image), or copy them all anew")]
    Sums(#[from] SumsError),
    #[error(transparent)]
    Artefacts(#[from] OpenError),
    #[error(transparent)]
    Efi(#[from] EfiError),
    #[error(transparent)]
    Site(#[from] ReadError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot set up TLS")]
    Tls(#[from] SetupError),
    #[error("cannot listen on {protocol} {address}, which is held by {holder}; {next}")]
    InUse {
        protocol: &'static str,
        address: SocketAddr,
        holder: String,
        next: &'static str,
    },
    #[error(
        "cannot listen on {protocol} {address}: that needs root (sudo), or CAP_NET_BIND_SERVICE and \
         CAP_NET_RAW"
    )]
    Forbidden {
        protocol: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {protocol} {address}")]
    Listen {
        protocol: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Dhcp(#[from] ListenError),
}

/// A part ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the {part} part ended by itself{}", reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}")))]
pub struct RunError {
    part: &'static str,
    reason: Option<String>,
}

/// A boot server that is ready to serve.
#[derive(Debug)]
pub struct Netboot {
    places: Places,
    interface: Interface,
    tftp_address: SocketAddr,
    /// `surplus.efi` is signed, so hosts that boot it learn the site from it.
    pub efi_is_signed: bool,
    artefacts: Artefacts,
    first_stages: tftp::Files,
    identity: Identity,
    server: Server,
    config: Config,
    http: TcpListener,
    https: TcpListener,
    tftp: UdpSocket,
    dhcp: Option<(Listener, Responder)>,
}

impl Netboot {
    /// Checks everything and binds every port.
    ///
    /// # Errors
    ///
    /// The first thing that is not as it must be.
    pub fn open(config: Config) -> Result<Self, StartError> {
        let interface = Interface::find(&config.interface, config.listen_address)?;
        site::read(&config.site)?;
        let efi_is_signed = efi::is_signed(&config.artefacts.join(EFI))?;
        // One that is no program at all is for the list of sums to refuse.
        let loader_is_signed = efi::is_signed(&config.artefacts.join(LOADER)).unwrap_or(false);
        // What is signed is the operator's own, and on no list of ours.
        let listed = |name: &&str| match *name {
            sums::FILE => false,
            EFI => !efi_is_signed,
            LOADER => !loader_is_signed,
            _ => true,
        };
        sums::check(&config.artefacts, NAMES.iter().copied().filter(listed))?;
        let identity = Identity::open(
            &config.state,
            &[IpAddr::V4(interface.address)],
            config.clock.now(),
        )?;
        let http = tcp(
            interface.address,
            config.http_port,
            "end it, or give another port with --http-port",
        )?;
        let https = tcp(
            interface.address,
            config.https_port,
            "end it, or give another port with --https-port",
        )?;
        let places = Places {
            address: interface.address,
            http_port: port(&http, config.http_port),
            https_port: port(&https, config.https_port),
            pin: identity.pin(),
            also: config.also.clone(),
        };
        let tftp = udp(
            &interface,
            config.tftp_port,
            !config.site_networks.is_empty(),
        )?;
        let tftp_address = tftp
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::new(interface.address.into(), config.tftp_port));
        let dhcp = match config.dhcp {
            true => Some((
                Listener::bind(&interface, config.relayed)?,
                responder(&places, &config),
            )),
            false => None,
        };
        let authorities = [identity.authority().clone()];
        let server = Server::new(identity.shown(), &authorities, config.clock.clone())?
            .max_connections(1024)
            .drain_timeout(DRAIN);
        let script = places.script();
        let mut artefacts =
            Artefacts::open(&config.artefacts, NAMES)?.with("start.ipxe", script.clone());
        if !efi_is_signed {
            let path = config.artefacts.join(EFI);
            let bytes = efi::with_arguments(&path, &places.arguments())?;
            artefacts = artefacts.with(EFI, bytes);
        }
        Ok(Self {
            first_stages: first_stages(&config, script)?,
            places,
            interface,
            tftp_address,
            efi_is_signed,
            artefacts,
            identity,
            server,
            config,
            http,
            https,
            tftp,
            dhcp,
        })
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    pub fn tftp_address(&self) -> SocketAddr {
        self.tftp_address
    }

    /// Serves until `shutdown` resolves.
    ///
    /// # Errors
    ///
    /// Where a part ended before that.
    pub async fn serve(
        self,
        watch: Arc<Watch>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), RunError> {
        let closing = CancellationToken::new();
        let mut parts = JoinSet::new();
        let observer = watch.clone();
        let closed = closing.clone().cancelled_owned();
        parts.spawn(async move {
            surplus_artefacts::serve(self.http, self.artefacts, observer, closed).await;
            ("HTTP", None)
        });
        let audience = Audience {
            near: self.interface,
            far: self.config.site_networks,
        };
        let router = site::router(self.config.site, audience.clone(), watch.clone());
        let closed = closing.clone().cancelled_owned();
        parts.spawn(async move {
            self.server.serve(self.https, router, closed).await;
            ("HTTPS", None)
        });
        let seen = watch.clone();
        let progress: tftp::Progress = Arc::new(move |address, name, at, total| {
            seen.first_stage(address, name, at, total);
        });
        parts.spawn(async move {
            let ended = tftp::serve(self.tftp, self.first_stages, audience, progress).await;
            ("TFTP", ended.err().map(|error| error.to_string()))
        });
        if let Some((listener, responder)) = self.dhcp {
            parts.spawn(async move {
                let seen = |request: &Request, answer: Result<&Answer, Silence>| {
                    note(&watch, request, answer);
                };
                listener.serve(Arc::new(responder), seen).await;
                ("DHCP", None)
            });
        }
        parts.spawn(renew(self.identity, self.config.clock));
        // Cancel safe: the process ends after either.
        let ended = tokio::select! {
            () = shutdown => None,
            ended = parts.join_next() => ended,
        };
        if let Some(ended) = ended {
            let (part, reason) =
                ended.unwrap_or_else(|error| ("background", Some(error.to_string())));
            return Err(RunError { part, reason });
        }
        closing.cancel();
        // HTTPS answers to their end within the drain, the others are cut.
        let _ = tokio::time::timeout(DRAIN, async {
            while !matches!(parts.join_next().await, None | Some(Ok(("HTTPS", _)))) {}
        })
        .await;
        parts.shutdown().await;
        Ok(())
    }
}

/// Keeps the certificate young.
async fn renew(identity: Identity, clock: Clock) -> (&'static str, Option<String>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = identity.renew(clock.now()) {
            tracing::error!(%error, "cannot renew the certificate; trying again in an hour");
        }
    }
}

/// Tells the board of a DHCP packet.
fn note(watch: &Watch, request: &Request, answer: Result<&Answer, Silence>) {
    let mac = request.mac;
    if let Some(address) = request.address_of_client() {
        watch.learned(mac, address.into());
    }
    match answer {
        Ok(answer) => watch.asked(mac, answer.client),
        Err(Silence::NothingToBoot(architecture)) => tracing::info!(
            %mac, architecture,
            "asks to boot, and is of an architecture that there is nothing for"
        ),
        Err(Silence::TooLong) => {
            tracing::error!(%mac, "cannot answer: the URLs do not fit into a packet");
        }
        Err(_) => {}
    }
}

fn responder(places: &Places, config: &Config) -> Responder {
    Responder {
        boot: Boot {
            address: places.address,
            bios: "undionly.kpxe".to_owned(),
            uefi: LOADER.to_owned(),
            http: places.url(EFI),
            script: places.url("start.ipxe"),
            root: places.roots().join(" "),
        },
        choice: config.choice.clone(),
        relays: match config.relayed {
            true => config.site_networks.clone(),
            false => Vec::new(),
        },
    }
}

/// What TFTP serves, in memory: half a megabyte.
fn first_stages(config: &Config, script: String) -> Result<tftp::Files, StartError> {
    let mut files = tftp::Files::new();
    for name in ["undionly.kpxe", LOADER] {
        let path = config.artefacts.join(name);
        let bytes = std::fs::read(&path).map_err(|source| OpenError::Read { path, source })?;
        files.insert(name.to_owned(), bytes.into());
    }
    files.insert("autoexec.ipxe".to_owned(), Bytes::from(script));
    Ok(files)
}

fn tcp(address: Ipv4Addr, port: u16, next: &'static str) -> Result<TcpListener, StartError> {
    let address = SocketAddr::new(address.into(), port);
    let bind = || {
        let listener = Bound::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|source| refused(Protocol::Tcp, address, next, source))
}

/// The socket of TFTP. It hears the interface alone, unless there are hosts
/// from `afar`, which may come by any.
fn udp(interface: &Interface, port: u16, afar: bool) -> Result<UdpSocket, StartError> {
    let address = SocketAddr::new(interface.address.into(), port);
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        if !afar {
            socket.bind_device(Some(interface.name.as_bytes()))?;
        }
        socket.bind(&address.into())?;
        Ok(UdpSocket::from(socket))
    };
    let next = "firmware asks for TFTP there alone: end it (tftpd, or dnsmasq's enable-tftp)";
    bind().map_err(|source| refused(Protocol::Udp, address, next, source))
}

fn refused(
    protocol: Protocol,
    address: SocketAddr,
    next: &'static str,
    source: io::Error,
) -> StartError {
    let name = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse {
            protocol: name,
            address,
            holder: ports::holder(protocol, address.port()),
            next,
        },
        io::ErrorKind::PermissionDenied => StartError::Forbidden {
            protocol: name,
            address,
            source,
        },
        _ => StartError::Listen {
            protocol: name,
            address,
            source,
        },
    }
}

fn port(listener: &TcpListener, asked: u16) -> u16 {
    listener
        .local_addr()
        .map_or(asked, |address| address.port())
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[test]
    fn tftp_hears_one_interface_unless_other_networks_are_served() {
        let lo = Interface::find("lo", None).unwrap();
        let device = |afar| {
            let socket = udp(&lo, 0, afar).unwrap();
            SockRef::from(&socket).device().unwrap()
        };
        assert_eq!(device(false).as_deref(), Some(&b"lo"[..]));
        assert_eq!(device(true), None);
    }
}
