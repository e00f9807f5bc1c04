//! The commands, a module each: its arguments and what it does.

use crate::api::Api;
use crate::args::{Cli, Command};
use crate::config;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) mod admissions;
pub(crate) mod console;
pub(crate) mod end;
pub(crate) mod hosts;
pub(crate) mod image;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod rent;
pub(crate) mod shell;
pub(crate) mod site_file;
pub(crate) mod tokens;

mod inputs;
mod watch;

/// What every command that speaks with the marketplace has.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) api: Api,
    pub(crate) out: Output,
}

/// Does what the command line asks for.
pub(crate) async fn run(cli: Cli, out: Output) -> Result<(), Failure> {
    match &cli.command {
        Command::Completions(args) => return shell::completions(&out, args),
        Command::Man => return shell::manual(&out),
        _ => {}
    }
    let settings = config::settle(&cli.flags, |name| std::env::var(name).ok())?;
    let session = Session {
        api: Api::connect(settings)?,
        out,
    };
    match cli.command {
        Command::Offers => leases::offers(&session).await,
        Command::Prices => leases::prices(&session).await,
        Command::Image(command) => image::run(&session, command).await,
        Command::Rent(args) => rent::run(&session, args).await,
        Command::Leases(args) => leases::run(&session, args).await,
        Command::Console(args) => console::run(&session, args).await,
        Command::End(args) => end::run(&session, args).await,
        Command::Bill(args) => leases::bill(&session, args).await,
        Command::Hosts(args) => hosts::run(&session, args).await,
        Command::Admit(args) => admissions::admit(&session, args).await,
        Command::Admissions(args) => admissions::run(&session, args).await,
        Command::Token(command) => tokens::run(&session, command).await,
        Command::SiteFile(args) => site_file::run(&session, args).await,
        Command::Key(command) => keys::run(&session, command).await,
        Command::Completions(_) | Command::Man => Ok(()),
    }
}
