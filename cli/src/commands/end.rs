//! `surplus end`: ends a lease now.

use std::time::Duration;

use clap::Args as ClapArgs;
use surplus_protocol::api::Lease;

use super::watch::{Goal, wait};
use super::{Session, leases};
use crate::failure::Failure;
use crate::units::parse_duration;

#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    /// The lease: its id or name
    lease: String,
    /// Wait until the host says that the guest is gone
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this time; the lease ends all the same
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "wait")]
    timeout: Option<u64>,
}

pub(crate) async fn run(session: &Session, args: Args) -> Result<(), Failure> {
    let id = leases::lease_id(session, &args.lease).await?;
    let mut lease: Lease = session.api.post_again(&format!("/leases/{id}/end")).await?;
    if args.wait {
        lease = wait(
            session,
            id,
            Goal::Ended,
            args.timeout.map(Duration::from_secs),
        )
        .await?;
    }
    session.out.result(&lease, |view| view.lease(&lease))?;
    if !session.out.json() {
        session
            .out
            .note(&format!("`surplus bill {id}` shows what it costs"));
    }
    Ok(())
}
