//! Proxy-DHCP (PXE 2.1, chapter 2): tells who asks to boot where to boot from,
//! and leaves addresses to the DHCP server that is there.
//!
//! [`Responder::answer`] is pure: a packet in, an answer or a reason for
//! silence out. What always holds: an answer offers no address (`yiaddr` is
//! 0); whoever does not ask to boot, or is to be left alone, gets none; no
//! packet, however broken, stops the server.

mod answer;
mod client;
mod listen;
mod request;

pub use answer::{Answer, Boot, Port, Responder, Silence};
pub use client::{Client, Firmware};
pub use listen::{ListenError, Listener};
pub use request::Request;
