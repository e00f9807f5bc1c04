//! `surplus rent`: asks for a quote, shows it, takes it, and waits if told to.
//!
//! What always holds: every file is read and every word checked before a
//! quote holds a reservation; a quote above `--max-price` is not taken.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use surplus_protocol::Money;
use surplus_protocol::api::{CreateLease, Image, Lease, Quote, QuoteRequest};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{Firmware, GuestPort, OnLostLink, Transport};

use super::watch::{Goal, wait};
use super::{Session, inputs};
use crate::failure::Failure;
use crate::select::pick;
use crate::units::{parse_duration, parse_money, parse_size, show_money, show_size};

#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    /// The guest's image: its name, or any unique beginning of its digest
    #[arg(long, value_name = "NAME|DIGEST")]
    image: String,
    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: u32,
    /// Memory: 512MiB, 2GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: u64,
    /// Disk: 1GB, 20GiB [default: what the image unfolds to]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    disk: Option<u64>,
    /// For how long: 30m, 2h, 7d
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: u64,
    /// The guest's host name [default: one is made up]
    #[arg(long, value_parser = dns_label)]
    name: Option<String>,
    /// File with public keys that may log in; several may be given
    #[arg(long = "ssh-key", value_name = "FILE")]
    ssh_keys: Vec<PathBuf>,
    /// cloud-init user data; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// An address that is the guest's alone, where it is reached at all of its ports.
    /// `surplus leases` says which
    #[arg(long)]
    address: bool,
    /// A port of the guest that is reached from outside: 22, 53/udp; several may be
    /// given. `surplus leases` says where
    #[arg(long = "port", value_name = "PORT[/tcp|udp]", value_parser = guest_port, conflicts_with = "address")]
    ports: Vec<GuestPort>,
    /// When host and marketplace lose each other: `keep` runs on to the end,
    /// `fence:5m` stops the guest then and starts it afresh on another host, as
    /// it does when its host reboots
    #[arg(long, value_name = "keep|fence:DURATION", default_value = "keep", value_parser = on_lost_link)]
    on_lost_link: OnLostLink,
    /// Only hosts of this site
    #[arg(long)]
    site: Option<String>,
    /// What the guest boots by
    #[arg(long, value_enum, default_value = "bios")]
    firmware: FirmwareName,
    /// The most that the whole window may cost, traffic apart: 1.50
    #[arg(long, value_name = "AMOUNT", value_parser = parse_money)]
    max_price: Option<Money>,
    /// Wait until the guest runs, showing each step
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this time; the lease goes on
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "wait")]
    timeout: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FirmwareName {
    Bios,
    Uefi,
}

impl From<FirmwareName> for Firmware {
    fn from(name: FirmwareName) -> Self {
        match name {
            FirmwareName::Bios => Self::Bios,
            FirmwareName::Uefi => Self::Uefi,
        }
    }
}

fn on_lost_link(text: &str) -> Result<OnLostLink, String> {
    if text == "keep" {
        return Ok(OnLostLink::Keep);
    }
    let after = text
        .strip_prefix("fence:")
        .ok_or_else(|| "write `keep` or for instance `fence:5m`".to_owned())?;
    let seconds = parse_duration(after).map_err(|error| error.to_string())?;
    let after_seconds =
        u32::try_from(seconds).map_err(|_| format!("{after} is too long to wait with a fence"))?;
    Ok(OnLostLink::Fence { after_seconds })
}

fn dns_label(text: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = (1..=63).contains(&text.len()) && text.bytes().all(inner);
    if fits && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(text.to_owned());
    }
    Err("a host name has 1 to 63 of a-z, 0-9 and `-`, and no `-` at either end".to_owned())
}

pub(crate) async fn run(session: &Session, args: Args) -> Result<(), Failure> {
    let mut ssh_keys = Vec::new();
    for file in &args.ssh_keys {
        ssh_keys.extend(inputs::public_keys(file)?);
    }
    let user_data = args.user_data.as_deref().map(inputs::text).transpose()?;
    let images: Vec<Image> = session.api.get("/images").await?;
    let image = pick(&args.image, &images)?;
    let disk_bytes = disk(image, args.disk)?;

    let quote: Quote = session
        .api
        .post(
            "/quotes",
            &QuoteRequest {
                resources: Resources {
                    vcpus: args.vcpus,
                    memory_bytes: args.memory,
                    disk_bytes,
                    addresses: args.address.into(),
                },
                seconds: args.duration,
                on_lost_link: args.on_lost_link,
                site: args.site,
            },
        )
        .await?;
    session.out.note(&session.out.view().quote(&quote));
    affordable(session, &quote, args.max_price)?;

    let order = CreateLease {
        quote: quote.id,
        name: args.name.unwrap_or_else(|| made_up_name(&quote)),
        image: image.digest.to_string(),
        firmware: args.firmware.into(),
        ssh_keys,
        user_data,
        ports: args.ports,
    };
    let mut lease: Lease = session.api.post("/leases", &order).await?;
    session
        .out
        .note(&format!("lease {} is made, as {}", lease.id, lease.name));
    if args.wait {
        lease = wait(
            session,
            lease.id,
            Goal::Running,
            args.timeout.map(Duration::from_secs),
        )
        .await?;
    }
    session.out.result(&lease, |view| view.lease(&lease))?;
    if !session.out.json() {
        session.out.note(&format!(
            "`surplus console {0}` shows its console, `surplus end {0}` ends it",
            lease.name
        ));
    }
    Ok(())
}

fn disk(image: &Image, asked: Option<u64>) -> Result<u64, Failure> {
    match asked {
        Some(bytes) if bytes < image.virtual_bytes => Err(Failure::new(
            format!(
                "the image {} unfolds to {}, and does not fit on a disk of {}",
                image.name,
                show_size(image.virtual_bytes),
                show_size(bytes)
            ),
            format!(
                "ask for --disk {} or more, or leave --disk away",
                image.virtual_bytes
            ),
        )),
        asked => Ok(asked.unwrap_or(image.virtual_bytes)),
    }
}

fn affordable(session: &Session, quote: &Quote, limit: Option<Money>) -> Result<(), Failure> {
    match limit {
        Some(limit) if quote.price > limit => Err(Failure::new(
            format!(
                "the price of {} is above the limit of {}",
                show_money(quote.price, &quote.currency),
                show_money(limit, &quote.currency)
            ),
            format!(
                "ask for less or raise --max-price; the quote lapses by itself at {}",
                session.out.view().time(quote.expires_at)
            ),
        )),
        _ => Ok(()),
    }
}

/// A host name from the quote's id, of its last digits: those are random.
fn guest_port(text: &str) -> Result<GuestPort, String> {
    let (number, transport) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Transport::Tcp),
        Some((number, "udp")) => (number, Transport::Udp),
        Some((_, other)) => return Err(format!("{other} is neither tcp nor udp")),
    };
    match number.parse() {
        Ok(port) if port > 0 => Ok(GuestPort { transport, port }),
        _ => Err(format!("{number} is no port: a number from 1 to 65535")),
    }
}

fn made_up_name(quote: &Quote) -> String {
    let id = quote.id.to_string();
    format!("guest-{}", &id[id.len() - 6..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples::{image, quote};

    #[test]
    fn a_port_is_read_with_its_transport() {
        let port = |transport, port| Ok(GuestPort { transport, port });
        assert_eq!(guest_port("22"), port(Transport::Tcp, 22));
        assert_eq!(guest_port("443/tcp"), port(Transport::Tcp, 443));
        assert_eq!(guest_port("53/udp"), port(Transport::Udp, 53));
        for wrong in ["", "0", "65536", "ssh", "22/sctp", "/udp", "22/tcp/tcp"] {
            assert!(guest_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_lost_link_clause_is_read() {
        assert_eq!(on_lost_link("keep"), Ok(OnLostLink::Keep));
        assert_eq!(
            on_lost_link("fence:5m"),
            Ok(OnLostLink::Fence { after_seconds: 300 })
        );
        for text in ["", "fence", "fence:", "fence:0s", "kill", "fence:200y"] {
            assert!(on_lost_link(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_made_up_name_is_a_host_name() {
        assert!(dns_label(&made_up_name(&quote())).is_ok());
        for text in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(dns_label(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_disk_smaller_than_the_image_is_refused_before_a_quote_is_asked_for() {
        assert!(disk(&image(), Some(1 << 20)).is_err());
        assert_eq!(disk(&image(), None).unwrap(), image().virtual_bytes);
        assert_eq!(disk(&image(), Some(1 << 30)).unwrap(), 1 << 30);
    }
}
