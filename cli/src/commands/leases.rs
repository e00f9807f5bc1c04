//! What is only looked at: `surplus leases`, `bill`, `offers`, `prices`.

use clap::Args as ClapArgs;
use surplus_protocol::api::{Bill, Lease, Offer, PriceBook};
use surplus_protocol::ids::LeaseId;

use super::Session;
use crate::failure::Failure;
use crate::select::pick;

#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    /// Show this lease whole: its id or name
    id: Option<String>,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct BillArgs {
    /// The lease: its id or name
    lease: String,
}

pub(crate) async fn run(session: &Session, args: Args) -> Result<(), Failure> {
    let Some(wanted) = args.id else {
        let leases: Vec<Lease> = session.api.get("/leases").await?;
        return session.out.result(&leases, |view| view.leases(&leases));
    };
    let lease = look(session, lease_id(session, &wanted).await?).await?;
    session.out.result(&lease, |view| view.lease(&lease))
}

pub(crate) async fn bill(session: &Session, args: BillArgs) -> Result<(), Failure> {
    let id = lease_id(session, &args.lease).await?;
    let bill: Bill = session.api.get(&format!("/leases/{id}/bill")).await?;
    session.out.result(&bill, |view| view.bill(&bill))
}

pub(crate) async fn offers(session: &Session) -> Result<(), Failure> {
    let offers: Vec<Offer> = session.api.get("/offers").await?;
    session.out.result(&offers, |view| view.offers(&offers))
}

pub(crate) async fn prices(session: &Session) -> Result<(), Failure> {
    let book: PriceBook = session.api.get("/prices").await?;
    session.out.result(&book, |view| view.prices(&book))
}

/// The lease as the marketplace sees it now.
pub(crate) async fn look(session: &Session, id: LeaseId) -> Result<Lease, Failure> {
    Ok(session.api.get(&format!("/leases/{id}")).await?)
}

/// The id of the lease that a person means.
pub(crate) async fn lease_id(session: &Session, wanted: &str) -> Result<LeaseId, Failure> {
    if let Ok(id) = wanted.parse() {
        return Ok(id);
    }
    let leases: Vec<Lease> = session.api.get("/leases").await?;
    Ok(pick(wanted, &leases)?.id)
}
