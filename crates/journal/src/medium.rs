//! Where a journal lies: the few things it asks of a disk.
//!
//! [`Directory`] is a real one, [`Memory`] one for simulations, which loses what
//! was not synced.

mod directory;
mod memory;

use std::io;

pub use directory::{Directory, DirectoryError, View};
pub use memory::{Fault, Kept, Memory, Unsynced};

/// Files that can be read.
pub trait Source {
    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A whole file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
}

/// Files of which nobody else changes any.
pub trait Medium: Source {
    /// Makes an empty file; it is an error if there is one.
    fn create(&mut self, name: &str) -> io::Result<()>;

    /// Writes at a file's end. After an error some of the bytes may be there.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Returns when a file's bytes are durable; its name is another matter. After
    /// an error nothing is known of the bytes since the last success, and no
    /// later success says anything of them.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file another name in one step.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Returns when all names, as they are now, are durable.
    fn sync_names(&mut self) -> io::Result<()>;
}
