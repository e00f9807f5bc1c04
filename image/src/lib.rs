//! What can be done to finished artefacts: look into them, write the site into
//! them, sign them, check them. No rebuild, no root, no mounting.
//!
//! What always holds: an input is opened for reading alone; an output appears
//! complete under its name or not at all; a secret is never part of what is
//! returned for showing, nor of an error.

pub use self::customize::{
    CustomizeError, Customized, CustomizedKernel, SiteAddress, customize, customize_kernel,
};
pub use self::iso::{Iso, OpenError};
pub use self::kind::Kind;
pub use self::show::{ShowEfiError, Shown, ShownEfi, ShownSite, show, show_efi};
pub use self::verify::{Check, Outcome, VerifyError, verify, verify_efi};
pub use self::verity::{VerityError, check_tree, root_of_hash};

pub mod efi;
pub mod signing;

mod customize;
mod iso;
mod kind;
mod show;
mod sums;
mod verify;
mod verity;

#[cfg(test)]
mod testing;
