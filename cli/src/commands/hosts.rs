//! `surplus hosts`: the register, and who may join it.
//!
//! What always holds: of hosts that are chosen by what they are, exactly those
//! are approved that were shown before.

use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args as ClapArgs, Subcommand};
use surplus_protocol::api::{Host, HostState};
use surplus_protocol::ids::HostId;

use super::Session;
use super::admissions::{Means, waiting};
use crate::failure::Failure;
use crate::select::pick;

#[derive(ClapArgs, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Show this host whole: its id
    #[arg(conflicts_with = "pending")]
    id: Option<String>,
    /// Those that wait to join, with what they say of themselves
    #[arg(long)]
    pending: bool,
    #[command(subcommand)]
    decision: Option<Decision>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Decision {
    /// Let a waiting host join, or those that fit what is said
    Approve {
        /// Its id
        #[arg(required_unless_present = "Means", conflicts_with = "Means")]
        id: Option<String>,
        #[command(flatten)]
        means: Means,
        /// Do not ask back; nothing is asked where an id is given
        #[arg(long)]
        yes: bool,
    },
    /// Refuse a host; one that joined may do nothing any more
    Reject {
        /// Its id
        id: String,
    },
    /// Confirm that a silent host is powered off: the leases it ran end, or are
    /// placed anew where their clause says so
    ConfirmOff {
        /// Its id
        id: String,
    },
}

pub(crate) async fn run(session: &Session, args: Args) -> Result<(), Failure> {
    let (wanted, decision) = match args.decision {
        Some(Decision::Approve {
            id: None,
            means,
            yes,
        }) => return approve_all(session, &means, yes).await,
        Some(Decision::Approve { id: Some(id), .. }) => (id, "approve"),
        Some(Decision::Reject { id }) => (id, "reject"),
        Some(Decision::ConfirmOff { id }) => (id, "confirm-off"),
        None => return show(session, args.id, args.pending).await,
    };
    let id = host_id(session, &wanted).await?;
    let host = decide(session, id, decision).await?;
    session.out.result(&host, |view| view.host(&host))
}

async fn show(session: &Session, wanted: Option<String>, pending: bool) -> Result<(), Failure> {
    if let Some(wanted) = wanted {
        let id = host_id(session, &wanted).await?;
        let host: Host = session.api.get(&format!("/hosts/{id}")).await?;
        return session.out.result(&host, |view| view.host(&host));
    }
    let mut hosts: Vec<Host> = session.api.get("/hosts").await?;
    if pending {
        hosts.retain(|host| host.state == HostState::Pending);
        return session
            .out
            .result(&hosts, |view| view.pending_hosts(&hosts));
    }
    session.out.result(&hosts, |view| view.hosts(&hosts))
}

/// Shows the waiting hosts that are meant, asks back, and lets them in.
async fn approve_all(session: &Session, means: &Means, yes: bool) -> Result<(), Failure> {
    let selectors = means.selectors()?;
    let hosts: Vec<Host> = session.api.get("/hosts").await?;
    let fitting: Vec<Host> = waiting(&hosts, &selectors).cloned().collect();
    if fitting.is_empty() {
        return Err(Failure::new(
            format!("no waiting host fits {selectors}"),
            "`surplus hosts --pending` shows who waits; `surplus admit` lets in who comes later",
        ));
    }
    let shown = session.out.view().pending_hosts(&fitting);
    shown.lines().for_each(|line| session.out.note(line));
    if !yes {
        confirm(session, fitting.len())?;
    }
    let mut approved = Vec::new();
    for host in &fitting {
        approved.push(decide(session, host.id, "approve").await?);
    }
    session.out.result(&approved, |view| view.hosts(&approved))
}

/// Asks the person at the terminal.
fn confirm(session: &Session, hosts: usize) -> Result<(), Failure> {
    let what = match hosts {
        1 => "this host".to_owned(),
        many => format!("these {many} hosts"),
    };
    if session.out.json() || !io::stdin().is_terminal() {
        return Err(Failure::new(
            format!("nobody can be asked whether {what} may join; nothing was approved"),
            "add --yes",
        ));
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "approve {what}? [y/N] ")
        .and_then(|()| io::stdin().read_line(&mut answer));
    let agreed = ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str());
    if asked.is_ok() && agreed {
        return Ok(());
    }
    Err(Failure::new("nothing was approved", "say `y` or add --yes"))
}

async fn decide(session: &Session, id: HostId, decision: &str) -> Result<Host, Failure> {
    Ok(session
        .api
        .post_again(&format!("/hosts/{id}/{decision}"))
        .await?)
}

async fn host_id(session: &Session, wanted: &str) -> Result<HostId, Failure> {
    if let Ok(id) = wanted.parse() {
        return Ok(id);
    }
    let hosts: Vec<Host> = session.api.get("/hosts").await?;
    Ok(pick(wanted, &hosts)?.id)
}
