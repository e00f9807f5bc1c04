//! Enrolment as real EST clients do it: curl with openssl, strongSwan's `pki`,
//! and our own, against the real routes over a registrar in memory and against
//! the whole marketplace.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "est_interop/curl.rs"]
mod curl;
#[path = "est_interop/refusals.rs"]
mod refusals;
#[path = "est_interop/registrar.rs"]
mod registrar;
#[path = "est_interop/renewal.rs"]
mod renewal;
#[path = "est_interop/strongswan.rs"]
mod strongswan;
#[path = "est_interop/tools.rs"]
mod tools;
#[path = "est_interop/whole.rs"]
mod whole;
