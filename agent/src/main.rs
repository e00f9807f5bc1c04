//! `surplus-agent`: the program on a host.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};
use surplus_agent::daemon::{self, RUN_DIRECTORY, STATE_DIRECTORY, STATUS_FILE, Settings};
use surplus_agent::stages::{Announcer, Consoles};
use surplus_agent::sysroot::SysRoot;
use surplus_agent::{self_test, status, storage, system};

/// Offers this machine's spare capacity on a Surplus marketplace.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Reads this site file before looking anywhere else.
    #[arg(long, value_name = "FILE")]
    site: Option<PathBuf>,
    /// Where the agent's volatile files are.
    #[arg(long, value_name = "DIR", default_value = RUN_DIRECTORY, global = true)]
    run_dir: PathBuf,
    /// Where guests and the record of leases are.
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    state_dir: Utf8PathBuf,
    /// Logs what is done in detail.
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Joins the marketplace and runs leased guests (the default).
    Run,
    /// Prints what the running agent does.
    Status {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Makes the disks ready that the site file gives (surplus-disks.service).
    #[command(hide = true)]
    Disks,
    /// Tries what keeps guests apart, and prints what came of it as JSON
    /// (surplus-selftest.service).
    #[command(hide = true)]
    SelfTest {
        /// As QEMU is held, and only what QEMU should not reach.
        #[arg(long)]
        as_qemu: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Status { json }) => print_status(&arguments.run_dir, json),
        Some(Command::Disks) => {
            storage::make_ready(&SysRoot::default()).context("cannot make the disks ready")
        }
        Some(Command::SelfTest { as_qemu }) => try_isolation(as_qemu),
        None | Some(Command::Run) => run(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("surplus-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    system::logging::start(arguments.verbose);
    let consoles: Announcer =
        Arc::new(Consoles::open().context("cannot start the console's thread")?);
    let settings = Settings {
        root: SysRoot::default(),
        run_directory: arguments.run_dir,
        state_directory: arguments.state_dir,
        site_file: arguments.site,
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        consoles,
    };
    // One thread for everything that waits, a few for what blocks: a host has
    // better things to do with memory than stacks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(daemon::run(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(error) = &done {
        tracing::error!(error = error as &dyn std::error::Error, "the agent ends");
    }
    done.context("the agent ends")
}

fn try_isolation(as_qemu: bool) -> anyhow::Result<()> {
    let text = if as_qemu {
        serde_json::to_string(&surplus_trial::qemu::tries())?
    } else {
        let mut itself = std::process::Command::new(std::env::current_exe()?);
        serde_json::to_string(&self_test::tries(itself.args(["self-test", "--as-qemu"])))?
    };
    println!("{text}");
    Ok(())
}

fn print_status(run_directory: &std::path::Path, json: bool) -> anyhow::Result<()> {
    let path = run_directory.join(STATUS_FILE);
    let status = status::read(&path)
        .with_context(|| format!("cannot read {}: is the agent running?", path.display()))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        println!("{}", status::describe(&status));
    }
    Ok(())
}
