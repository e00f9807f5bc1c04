//! The ledger's directory, with a point around whatever changes it; a write is
//! done in two halves, with a point between them.

use std::io;
use std::sync::Arc;

use surplus_journal::medium::Directory;
use surplus_journal::{Medium, Source};

use super::World;

#[derive(Debug)]
pub(super) struct Announcing {
    directory: Directory,
    world: Arc<World>,
}

impl Announcing {
    pub(super) fn new(directory: Directory, world: Arc<World>) -> Self {
        Self { directory, world }
    }

    fn point(&self, what: &str) -> io::Result<()> {
        if self.world.point(format!("ledger: {what}")) {
            return Ok(());
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    fn around(
        &mut self,
        what: &str,
        act: impl FnOnce(&mut Directory) -> io::Result<()>,
    ) -> io::Result<()> {
        self.point(what)?;
        act(&mut self.directory)?;
        self.point(&format!("{what}, done"))
    }
}

impl Source for Announcing {
    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.directory.read(name)
    }
}

impl Medium for Announcing {
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.around(&format!("create {name}"), |directory| {
            directory.create(name)
        })
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        self.around(&format!("write half an entry to {name}"), |directory| {
            directory.append(name, first)
        })?;
        // What comes next is the sync, with a point of its own before it.
        self.directory.append(name, second)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.around(&format!("sync {name}"), |directory| directory.sync(name))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.around(&format!("rename {from} to {to}"), |directory| {
            directory.rename(from, to)
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.around(&format!("remove {name}"), |directory| {
            directory.remove(name)
        })
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.around("sync names", Directory::sync_names)
    }
}
