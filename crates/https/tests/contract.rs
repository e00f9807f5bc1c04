//! The promises of client and server, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "contract/identity.rs"]
mod identity;
#[path = "contract/proxy.rs"]
mod proxy;
#[path = "contract/site.rs"]
mod site;
#[path = "contract/transfer.rs"]
mod transfer;
#[path = "contract/trust.rs"]
mod trust;
