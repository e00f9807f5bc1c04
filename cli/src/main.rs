//! `surplus`: the command line of buyers and operators.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use jiff::tz::TimeZone;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;
use crate::view::View;

mod api;
mod args;
mod clock;
mod commands;
mod config;
mod failure;
mod output;
mod select;
mod units;
mod view;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    let view = View {
        zone: TimeZone::system(),
        now: clock::now(),
        fit: std::io::stdout().is_terminal(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(
                json,
                &Failure::new(format!("the runtime cannot start: {error}"), ""),
            );
        }
    };
    match runtime.block_on(commands::run(cli, Output::new(json, view))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(json, &failure),
    }
}

/// Says why, once. A reader of standard output that went away hears nothing,
/// and wanted no more: that is no failure.
fn fail(json: bool, failure: &Failure) -> ExitCode {
    if failure.is_silent() {
        return ExitCode::SUCCESS;
    }
    // Where even this cannot be written, the exit code still tells.
    let _ = std::io::stderr().write_all(failure.text().as_bytes());
    if json {
        let _ = writeln!(std::io::stdout(), "{:#}", failure.document());
    }
    ExitCode::FAILURE
}
