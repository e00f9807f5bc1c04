//! The marketplace: certificate authority, register of hosts, offers, leases
//! and bills, over one TLS port and one store.
//!
//! Rules are in `surplus-market`; here is what they need of the world: HTTP,
//! SQLite, files, keys and the clock. The process keeps nothing that another
//! beside it could not take over: what must last is in the store or the data
//! directory, what is in memory (who waits for what, who was seen lately) can
//! be lost.

mod agent;
mod api;
mod app;
mod auth;
mod background;
mod certificates;
mod consoles;
mod data;
pub mod est;
mod extract;
mod images;
mod limits;
mod marketplace;
mod metrics;
mod names;
mod notary;
mod refusal;
mod registrar;
mod secret;
pub mod store;
mod wakers;

pub use api::document as openapi;
pub use data::{ADMIN_KEY, CA_CERTIFICATE};
pub use limits::Limits;
pub use marketplace::{Config, Marketplace, ServeError, StartError};
pub use refusal::chain;
