//! `surplus console`: the guest's serial console, as its bytes came.
//!
//! What always holds: bytes are never written twice or in another order, also
//! across a lost connection; bytes that the marketplace no longer has are
//! counted and told.

use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;
use surplus_protocol::ids::LeaseId;

use super::{Session, leases};
use crate::clock;
use crate::failure::Failure;

/// How long one request may wait for new bytes, in seconds.
const WAIT: u64 = 25;
/// The shortest time between two requests that brought nothing.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    /// The lease: its id or name
    lease: String,
    /// Go on until the lease has ended [default]
    #[arg(short, long, overrides_with = "no_follow")]
    follow: bool,
    /// Print what there is and stop
    #[arg(long, overrides_with = "follow")]
    no_follow: bool,
    /// Start at this byte of what the guest has written
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    offset: u64,
}

/// What programs get.
#[derive(Serialize)]
struct Document {
    lease: LeaseId,
    /// The first byte's place in all that the guest has written.
    offset: u64,
    /// Nothing more will come.
    ended: bool,
    /// Bytes that are not UTF-8 are replaced.
    text: String,
}

pub(crate) async fn run(session: &Session, args: Args) -> Result<(), Failure> {
    let id = leases::lease_id(session, &args.lease).await?;
    let wait = if args.no_follow { 0 } else { WAIT };
    let mut next = args.offset;
    let mut first = None;
    let mut kept = Vec::new();
    let ended = loop {
        let asked = clock::instant();
        let part = session.api.console(id, next, wait).await?;
        if part.offset > next {
            session.out.note(&format!(
                "({} bytes are no longer kept)",
                part.offset - next
            ));
        }
        if part.offset < next && first.is_some() && part.bytes.is_empty() {
            // Fewer bytes than were seen: the guest was placed anew.
            session.out.note("(the guest was started anew)");
            next = 0;
            first = None;
            continue;
        }
        // An answer that starts before what was asked for would repeat bytes.
        let repeated = usize::try_from(next.saturating_sub(part.offset)).unwrap_or(usize::MAX);
        let fresh = part.bytes.get(repeated..).unwrap_or_default();
        let start = part.offset.max(next);
        if !fresh.is_empty() {
            first.get_or_insert(start);
        }
        next = start + fresh.len() as u64;
        if session.out.json() {
            kept.extend_from_slice(fresh);
        } else if !fresh.is_empty() {
            session.out.bytes(fresh)?;
        }
        match (part.ended, fresh.is_empty()) {
            (true, true) => break true,
            (false, true) if args.no_follow => break false,
            // A marketplace that does not wait must not be asked in a circle.
            (false, true) => tokio::time::sleep(PAUSE.saturating_sub(asked.elapsed())).await,
            // More may be there: an answer need not hold all.
            (_, false) => {}
        }
    };
    if session.out.json() {
        let text = String::from_utf8_lossy(&kept).into_owned();
        return session.out.document(&Document {
            lease: id,
            offset: first.unwrap_or(args.offset),
            ended,
            text,
        });
    }
    if ended && !args.no_follow {
        session.out.note("the lease has ended");
    }
    Ok(())
}
