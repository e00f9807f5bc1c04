//! `surplus hosts`: the register, and who may join it.

use clap::{Args as ClapArgs, Subcommand};
use surplus_protocol::api::Host;
use surplus_protocol::ids::HostId;

use super::Session;
use crate::failure::Failure;
use crate::select::pick;

#[derive(ClapArgs, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Show this host whole: its id
    id: Option<String>,
    #[command(subcommand)]
    decision: Option<Decision>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Decision {
    /// Let a waiting host join
    Approve {
        /// Its id
        id: String,
    },
    /// Refuse a host; one that joined may do nothing any more
    Reject {
        /// Its id
        id: String,
    },
    /// Confirm that a silent host is powered off: the leases it ran end
    ConfirmOff {
        /// Its id
        id: String,
    },
}

pub(crate) async fn run(session: &Session, args: Args) -> Result<(), Failure> {
    let host: Host = match (args.decision, args.id) {
        (Some(Decision::Approve { id }), _) => decide(session, &id, "approve").await?,
        (Some(Decision::Reject { id }), _) => decide(session, &id, "reject").await?,
        (Some(Decision::ConfirmOff { id }), _) => decide(session, &id, "confirm-off").await?,
        (None, Some(wanted)) => {
            session
                .api
                .get(&format!("/hosts/{}", host_id(session, &wanted).await?))
                .await?
        }
        (None, None) => {
            let hosts: Vec<Host> = session.api.get("/hosts").await?;
            return session.out.result(&hosts, |view| view.hosts(&hosts));
        }
    };
    session.out.result(&host, |view| view.host(&host))
}

async fn decide(session: &Session, wanted: &str, decision: &str) -> Result<Host, Failure> {
    let id = host_id(session, wanted).await?;
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
