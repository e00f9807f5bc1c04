//! `surplus-attack`: sends what a hostile guest would, or says what it hears; or
//! tries what somebody would who broke out of one.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use surplus_attack::escape::{Forbidden, Guard};
use surplus_attack::packet::Wire;
use surplus_attack::{Cast, all, escape, flooded, kernel, mark, network};
use surplus_seat::Seat;

/// Ends whoever listens.
const LAST: &str = "last";

#[derive(Debug, Parser)]
#[command(about)]
enum Arguments {
    /// Sends every attack, in order
    Send(Send),
    /// Prints the names of the attacks that it hears, until one is called `last`
    #[command(subcommand)]
    Hear(Hear),
    /// Sends `last` on an interface
    Last { interface: String },
    /// In the confinement of a QEMU that runs
    #[command(subcommand)]
    Escape(Escape),
    /// Tries to change the kernel that runs, as whoever runs this
    Kernel,
    /// Tries this host's networks as it tries itself at its start
    Trial,
    /// Sends as much to UDP ports as it can: 1400 bytes each time
    Flood {
        to: SocketAddr,
        /// How often
        count: u16,
        /// To another port each time, counted up from the first
        #[arg(long)]
        ports: bool,
    },
    /// Sends a name to a UDP port
    Tell {
        to: SocketAddr,
        #[arg(default_value = LAST)]
        name: String,
        /// The address and port to send it from
        #[arg(long)]
        from: Option<SocketAddr>,
    },
    /// Sends as much as it can over TCP, for so many seconds
    Pour { to: SocketAddr, seconds: f64 },
    /// Takes what one connection to a TCP port brings; prints the bytes of it and
    /// the seconds that it took
    Drain { port: u16 },
}

#[derive(Debug, clap::Args)]
struct Send {
    #[arg(long)]
    interface: String,
    #[arg(long, value_parser = seat)]
    me: Seat,
    #[arg(long, value_parser = seat)]
    victim: Seat,
    /// The host's MAC address on the guests' bridge
    #[arg(long, value_parser = mac)]
    host: [u8; 6],
    #[arg(long)]
    uplink: Ipv4Addr,
    #[arg(long)]
    management: Ipv4Addr,
    #[arg(long)]
    uplink6: Ipv6Addr,
    #[arg(long)]
    management6: Ipv6Addr,
    /// Over and over, until the standard input ends
    #[arg(long)]
    again: bool,
    /// What the host might flood for this empty seat, instead of attacks
    #[arg(long, value_parser = seat)]
    flood: Option<Seat>,
}

#[derive(Debug, Subcommand)]
enum Hear {
    /// Raw frames, of every interface if none is named
    Frames {
        interface: Option<String>,
        /// Only those that this MAC address sent
        #[arg(long, value_parser = mac)]
        from: Option<[u8; 6]>,
    },
    /// Datagrams to a UDP port
    Port { port: u16 },
}

#[derive(Debug, Subcommand)]
enum Escape {
    /// Tries everything, and says what came through
    Try {
        #[command(flatten)]
        held: Held,
        /// Another tenant's QEMU
        #[arg(long)]
        neighbour: i32,
        #[arg(long)]
        agent: i32,
        /// The host's disk
        #[arg(long)]
        disk: PathBuf,
    },
    /// Tries what QEMU's filters of system calls forbid
    Forbidden {
        #[command(flatten)]
        held: Held,
        what: Forbidden,
    },
    /// Starts threads until it cannot
    Threads {
        #[command(flatten)]
        held: Held,
        most: usize,
    },
    /// Takes memory until it is ended
    Memory {
        #[command(flatten)]
        held: Held,
        /// Bytes
        most: usize,
    },
}

/// By what it is held.
#[derive(Debug, clap::Args)]
struct Held {
    /// The process number of the QEMU
    #[arg(long)]
    like: i32,
    /// What of its confinement to leave out
    #[arg(long, value_delimiter = ',')]
    without: Vec<Guard>,
}

fn seat(text: &str) -> Result<Seat, String> {
    let number: u16 = text.parse().map_err(|_| format!("{text} is no number"))?;
    Seat::try_from(number).map_err(|error| error.to_string())
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes = bytes.collect::<Result<Vec<_>, _>>().ok();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| format!("{text} is no MAC address"))
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Send(arguments) => send(&arguments),
        Arguments::Hear(Hear::Frames { interface, from }) => {
            let wire = match interface {
                Some(interface) => Wire::tap(&interface)?,
                None => Wire::tap_all()?,
            };
            println!("listening");
            hear(|| {
                let frame = wire.receive()?;
                let is_last = mark::find(&frame) == Some(LAST);
                let counts = is_last || from.is_none_or(|from| frame.get(6..12) == Some(&from));
                Ok(if counts { frame } else { Vec::new() })
            })
        }
        Arguments::Hear(Hear::Port { port }) => {
            // Which hears IPv4 as well.
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
                .with_context(|| format!("could not listen to UDP port {port}"))?;
            println!("listening");
            hear(|| {
                let mut datagram = vec![0; 2048];
                let (length, _) = socket.recv_from(&mut datagram)?;
                datagram.truncate(length);
                Ok(datagram)
            })
        }
        Arguments::Last { interface } => {
            let wire = Wire::tap(&interface)?;
            let mac = wire.mac().context("an interface without an address")?;
            // A type that nobody takes up, to itself.
            let mut frame = [mac, mac].concat();
            frame.extend([0x88, 0xb5]);
            frame.extend(mark::of(LAST));
            frame.resize(60, 0);
            Ok(wire.send(&frame)?)
        }
        Arguments::Escape(escape) => {
            print!("{}", escape.run()?);
            Ok(())
        }
        Arguments::Kernel => {
            print!("{}", kernel::tries()?);
            Ok(())
        }
        Arguments::Trial => {
            println!("{}", serde_json::to_string(&network::checks())?);
            Ok(())
        }
        Arguments::Flood { to, count, ports } => {
            let socket = from_anywhere(to)?;
            for number in 0..count {
                let port = to.port() + if ports { number } else { 0 };
                socket.send_to(&[0; 1400], (to.ip(), port))?;
            }
            Ok(())
        }
        Arguments::Tell { to, name, from } => {
            let socket = from.map_or_else(|| from_anywhere(to), UdpSocket::bind)?;
            socket.send_to(&mark::of(&name), to)?;
            Ok(())
        }
        Arguments::Pour { to, seconds } => pour(to, Duration::from_secs_f64(seconds)),
        Arguments::Drain { port } => drain(port),
    }
}

impl Escape {
    fn run(self) -> Result<String> {
        match self {
            Self::Try {
                held: Held { like, without },
                neighbour,
                agent,
                disk,
            } => {
                let cast = escape::Cast {
                    like,
                    neighbour,
                    agent,
                    disk,
                };
                escape::tries(&cast, &without)
            }
            Self::Forbidden { held, what } => escape::forbidden(held.like, &held.without, what),
            Self::Threads { held, most } => {
                let count = escape::threads(held.like, &held.without, most)?;
                Ok(format!("{count} threads\n"))
            }
            Self::Memory { held, most } => {
                let bytes = escape::memory(held.like, &held.without, most)?;
                Ok(format!("{bytes} bytes\n"))
            }
        }
    }
}

fn send(arguments: &Send) -> Result<()> {
    let cast = Cast {
        me: arguments.me,
        victim: arguments.victim,
        host: arguments.host,
        uplink: arguments.uplink,
        management: arguments.management,
        uplink6: arguments.uplink6,
        management6: arguments.management6,
    };
    let attacks = match arguments.flood {
        Some(empty) => flooded(&cast, empty),
        None => all(&cast),
    };
    if attacks.is_empty() {
        bail!("there is nothing to send");
    }
    let wire = Wire::tap(&arguments.interface)?;
    let round = || {
        attacks.iter().try_for_each(|attack| {
            let sent = wire.send(&attack.frame);
            sent.with_context(|| format!("could not send {}", attack.name))
        })
    };
    round()?;
    if arguments.again {
        let told =
            std::thread::spawn(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        while !told.is_finished() {
            round()?;
        }
    }
    Ok(())
}

/// A socket for datagrams to there.
fn from_anywhere(to: SocketAddr) -> std::io::Result<UdpSocket> {
    match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// Bytes that are written, or read, at once.
const AT_ONCE: usize = 1 << 18;

fn pour(to: SocketAddr, span: Duration) -> Result<()> {
    let mut stream =
        TcpStream::connect(to).with_context(|| format!("could not connect to {to}"))?;
    let bytes = vec![0; AT_ONCE];
    let end = Instant::now() + span;
    while Instant::now() < end {
        stream.write_all(&bytes)?;
    }
    Ok(())
}

fn drain(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .with_context(|| format!("could not listen to TCP port {port}"))?;
    println!("listening");
    let (mut stream, _) = listener.accept()?;
    let begun = Instant::now();
    let (mut bytes, mut buffer) = (0, vec![0; AT_ONCE]);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            more => bytes += more,
        }
    }
    println!("{bytes} {}", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Prints each name once.
fn hear(mut next: impl FnMut() -> Result<Vec<u8>>) -> Result<()> {
    let mut heard = BTreeSet::new();
    loop {
        let frame = next()?;
        match mark::find(&frame) {
            Some(LAST) => return Ok(()),
            Some(name) if !heard.contains(name) => {
                println!("{name}");
                heard.insert(name.to_owned());
            }
            _ => {}
        }
    }
}
