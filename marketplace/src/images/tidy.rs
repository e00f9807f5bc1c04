//! Removes the files of images that have no name left and that no live lease
//! needs.

use std::collections::BTreeSet;

use surplus_market::store::{LeaseFilter, Store as _, Tx as _};

use crate::app::App;
use crate::refusal::Refusal;

/// Removes what nothing needs.
///
/// # Errors
///
/// Where the store or the directory cannot be read.
pub(crate) async fn tidy(app: &App) -> Result<(), Refusal> {
    let _shelf = app.images.shelf.lock().await;
    let files = app.images.files().await;
    let mut spare = files.map_err(|error| Refusal::internal("listing the images", &error))?;
    let mut tx = app.store.read().await?;
    for image in tx.images().await? {
        spare.remove(&image.digest);
    }
    if spare.is_empty() {
        return Ok(());
    }
    let live = tx.leases(LeaseFilter::Live).await?;
    let guests = live.iter().filter_map(|lease| lease.guest.as_ref());
    let needed: BTreeSet<_> = guests.map(|guest| guest.image).collect();
    for digest in spare.difference(&needed) {
        app.images.remove(*digest).await;
    }
    Ok(())
}
