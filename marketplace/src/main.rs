//! `surplus-marketplace serve`: see `--help`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use surplus_artefacts::Artefacts;
use surplus_https::Clock;
use surplus_market::pricing;
use surplus_marketplace::{ADMIN_KEY, CA_CERTIFICATE, Config, Limits, Marketplace};
use surplus_protocol::api::PriceBook;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The hub: certificate authority, hosts, offers, leases, bills.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve(Serve),
    /// Print the interface's OpenAPI document.
    Openapi,
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Where everything is kept; made by the first start.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The one port, TLS only.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Serve the boot artefacts in DIR (target/image) by plain HTTP: they are
    /// public, and hosts verify them.
    #[arg(long, value_name = "DIR")]
    artefacts: Option<PathBuf>,
    /// Where the artefacts are served.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        requires = "artefacts"
    )]
    artefacts_listen: SocketAddr,
    /// Where hosts and buyers reach it: https://name[:port]. May be repeated.
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// Prices, as TOML; without it those of the program.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Largest image, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 30)]
    max_image_bytes: u64,
    /// Images that one buyer may have stored, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().image_bytes)]
    buyer_image_bytes: u64,
    /// Quotes that one buyer may hold open at once.
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().open_quotes)]
    buyer_open_quotes: usize,
    /// What uploads leave free on the disk, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().free_bytes)]
    keep_free_bytes: u64,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(arguments) => serve(arguments),
        Command::Openapi => openapi(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("surplus-marketplace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn openapi() -> anyhow::Result<()> {
    println!("{}", surplus_marketplace::openapi().to_pretty_json()?);
    Ok(())
}

#[tokio::main]
async fn serve(arguments: Serve) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let prices = match &arguments.prices {
        Some(path) => prices(path)?,
        None => pricing::default_book(),
    };
    // Bound first: an address in use is said before anything is written, and
    // port 0 becomes the real one.
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let listen = listener
        .local_addr()
        .context("cannot tell the address listened on")?;
    if let Some(directory) = &arguments.artefacts {
        serve_artefacts(directory, arguments.artefacts_listen).await?;
    }
    let marketplace = Marketplace::open(Config {
        data: arguments.data.clone(),
        listen,
        urls: arguments.urls,
        prices,
        max_image_bytes: arguments.max_image_bytes,
        limits: Limits {
            image_bytes: arguments.buyer_image_bytes,
            open_quotes: arguments.buyer_open_quotes,
            free_bytes: arguments.keep_free_bytes,
        },
        clock: Clock::system(),
    })
    .await?;
    say_what_is_next(&marketplace, &arguments.data);
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tracing::info!(%listen, "serving");
    marketplace
        .serve(listener, async {
            // Cancel safe: the process ends after either.
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            tracing::info!("closing");
        })
        .await?;
    tracing::info!("closed");
    Ok(())
}

/// Serves the boot artefacts for as long as the process lives.
async fn serve_artefacts(directory: &Path, listen: SocketAddr) -> anyhow::Result<()> {
    let artefacts = Artefacts::open(directory, surplus_artefacts::NAMES)
        .context("cannot serve the artefacts; make them (cargo xtask image)")?;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let listen = listener.local_addr().unwrap_or(listen);
    tracing::info!(%listen, "serving the boot artefacts");
    let (nobody, forever) = (Arc::new(()), std::future::pending());
    tokio::spawn(surplus_artefacts::serve(
        listener, artefacts, nobody, forever,
    ));
    Ok(())
}

fn prices(path: &Path) -> anyhow::Result<PriceBook> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the prices in {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not a price book", path.display()))
}

fn say_what_is_next(marketplace: &Marketplace, data: &Path) {
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let data = data.display();
    if marketplace.first_start {
        println!("surplus-marketplace: first start; CA and operator's API key are in {data}");
    }
    println!("To use it from this machine:");
    let url = marketplace.urls().first().map_or("", String::as_str);
    println!("  export SURPLUS_URL={url}");
    println!("  export SURPLUS_CA={data}/{CA_CERTIFICATE}");
    println!("  export SURPLUS_TOKEN=\"$(cat {data}/{ADMIN_KEY})\"");
    if marketplace.first_start {
        println!("Then let a host join:");
        println!("  surplus site-file --token-name rack1 --uses 1 --expires 1d -o site.toml");
    }
}
