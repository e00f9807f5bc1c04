//! `surplus-netboot serve`: see `--help`.

use std::io::IsTerminal as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ipnet::IpNet;
use surplus_https::Clock;
use surplus_netboot::hardware::{Choice, Prefix};
use surplus_netboot::interface::Interface;
use surplus_netboot::places::Base;
use surplus_netboot::watch::{Look, Watch};
use surplus_netboot::{Config, Netboot, descriptors};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Boots hosts over the network, beside an existing DHCP server.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until Ctrl-C or SIGTERM.
    Serve(Serve),
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// The interface to the hosts' network.
    #[arg(long, value_name = "IF")]
    interface: String,
    /// What `cargo xtask image` made: target/image.
    #[arg(long, value_name = "DIR")]
    artefacts: PathBuf,
    /// The site file, as `surplus site-file` writes it.
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// Which of the interface's addresses hosts shall be told.
    #[arg(long, value_name = "IP")]
    listen_address: Option<Ipv4Addr>,
    /// For the artefacts.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// For the site file.
    #[arg(long, value_name = "PORT", default_value_t = 8444)]
    https_port: u16,
    /// Where the keys are kept that hosts know this server by.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/surplus-netboot")]
    state: PathBuf,
    /// Another boot server with the same artefacts, CA and HTTPS port, tried
    /// where this one does not answer: http://ADDRESS:8080/. May be repeated.
    #[arg(long, value_name = "URL")]
    also: Vec<Base>,
    /// Never answer this hardware address, or all that begin so. May be
    /// repeated.
    #[arg(long, value_name = "MAC")]
    ignore: Vec<Prefix>,
    /// Answer this hardware address, or all that begin so, and no other. May be
    /// repeated.
    #[arg(long, value_name = "MAC")]
    only: Vec<Prefix>,
    /// Give the site file and, by TFTP, first stages to hosts of this network
    /// too, besides the interface's own. May be repeated.
    #[arg(long, value_name = "NETWORK")]
    site_network: Vec<IpNet>,
    /// Answer DHCP relays, too, whose addresses are in a --site-network and which
    /// forward hosts' requests to this machine as well.
    #[arg(long, requires = "site_network", conflicts_with = "no_dhcp")]
    relayed: bool,
    /// Leave DHCP alone altogether: your DHCP server says where to boot from.
    #[arg(long)]
    no_dhcp: bool,
    /// Print a JSON object for each change, one a line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Command::Serve(arguments) = Arguments::parse().command;
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("surplus-netboot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(arguments: Serve) -> anyhow::Result<()> {
    let look = match arguments.json {
        true => Look::Json,
        false if std::io::stdout().is_terminal() => Look::table(),
        false => Look::Lines,
    };
    let above = look.above();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || above.clone())
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let netboot = Netboot::open(Config {
        interface: Interface::of_hosts(arguments.interface)?,
        listen_address: arguments.listen_address,
        http_port: arguments.http_port,
        https_port: arguments.https_port,
        tftp_port: 69,
        artefacts: arguments.artefacts,
        site: arguments.site,
        state: arguments.state,
        also: arguments.also,
        choice: Choice {
            ignore: arguments.ignore,
            only: arguments.only,
        },
        site_networks: arguments.site_network,
        dhcp: !arguments.no_dhcp,
        relayed: arguments.relayed,
        clock: Clock::system(),
    })?;
    descriptors::raise();
    say_what_is_served(&netboot, !arguments.no_dhcp);
    let watch = Watch::start(look);
    netboot
        .serve(watch, async {
            // Cancel safe: the process ends after either.
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        })
        .await?;
    tracing::info!("ended");
    Ok(())
}

fn say_what_is_served(netboot: &Netboot, dhcp: bool) {
    let places = netboot.places();
    let interface = netboot.interface();
    tracing::info!(
        "hosts on {} ({}) {}: artefacts at {}, site file at {} (sha256:{})",
        interface.name,
        interface.network,
        match dhcp {
            true => "are told where to boot from, beside their DHCP server",
            false => "hear where to boot from by your DHCP server alone",
        },
        places.url(""),
        places.site(),
        hex::encode(places.pin),
    );
    if netboot.efi_is_signed {
        tracing::info!(
            "surplus.efi is signed and served as it is: UEFI HTTP boot, and PXE under Secure Boot, \
             need surplus.site= and surplus.ca= in it (surplus-image customize)"
        );
    }
}
