//! The marketplace's promises, over real TLS sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "contract/admission.rs"]
mod admission;
#[path = "contract/artefacts.rs"]
mod artefacts;
#[path = "contract/enrolment.rs"]
mod enrolment;
#[path = "contract/fake_host.rs"]
mod fake_host;
#[path = "contract/images.rs"]
mod images;
#[path = "contract/interface.rs"]
mod interface;
#[path = "contract/lease.rs"]
mod lease;
#[path = "contract/marketplace.rs"]
mod marketplace;
#[path = "contract/moved.rs"]
mod moved;
