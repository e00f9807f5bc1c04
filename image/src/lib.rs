//! What can be done to finished media: look into them, write a site file into
//! them, check them. No rebuild, no root, no mounting.
//!
//! What always holds: an input is opened for reading alone; an output appears
//! complete under its name or not at all; a secret is never part of what is
//! returned for showing, nor of an error.

pub use self::customize::{CustomizeError, Customized, customize};
pub use self::iso::{Iso, OpenError};
pub use self::show::{Shown, ShownSite, show};
pub use self::verify::{Check, Outcome, VerifyError, verify};
pub use self::verity::{VerityError, check_tree, root_of_hash};

mod customize;
mod iso;
mod show;
mod sums;
mod verify;
mod verity;

#[cfg(test)]
mod testing;
