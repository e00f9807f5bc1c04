//! The real workshop on the host's directory, with points around it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::future::BoxFuture;
use surplus_agent::guests::Placement;
use surplus_agent::guests::directories::DirectoryError;
use surplus_agent::guests::prepare::{LocalWorkshop, PrepareError};
use surplus_agent::guests::record::Record;
use surplus_agent::guests::workshop::{Progress, Workshop};
use surplus_protocol::Digest;

use super::World;

#[derive(Debug)]
pub(super) struct Counting {
    inner: LocalWorkshop,
    world: Arc<World>,
    guests: Utf8PathBuf,
}

impl Counting {
    pub(super) fn new(inner: LocalWorkshop, world: Arc<World>, state: &Utf8Path) -> Self {
        let guests = state.join("guests");
        Self {
            inner,
            world,
            guests,
        }
    }

    /// The real removal, of something that is no directory: it fails.
    fn remove_in_vain(&self, placement: Placement) -> Result<bool, DirectoryError> {
        let path = self.guests.join(placement.to_string());
        let aside = self.guests.join(format!("{placement}-aside"));
        let was_there = fs::rename(&path, &aside).is_ok();
        let made = fs::write(&path, b"");
        let result = self.inner.remove(placement);
        if made.is_ok() {
            let _ = fs::remove_file(&path);
        }
        if was_there {
            let _ = fs::rename(&aside, &path);
        }
        result
    }
}

impl Workshop for Counting {
    fn prepare<'a>(
        &'a self,
        record: &'a Record,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<String, PrepareError>> {
        let failed = || PrepareError::Make {
            what: "guest, as it was told to fail",
            source: io::ErrorKind::StorageFull.into(),
        };
        Box::pin(async move {
            let placement = record.placement();
            if !self.world.point(format!("prepare {placement}")) {
                return Err(failed());
            }
            let xml = self.inner.prepare(record, progress).await?;
            if !self.world.point(format!("prepare {placement}, done")) {
                return Err(failed());
            }
            Ok(xml)
        })
    }

    fn placements(&self) -> Vec<Placement> {
        self.inner.placements()
    }

    fn remove(&self, placement: Placement) -> Result<bool, DirectoryError> {
        if !self.world.point(format!("remove files of {placement}")) {
            return self.remove_in_vain(placement);
        }
        let removed = self.inner.remove(placement)?;
        self.world
            .done(format!("remove files of {placement}, done"));
        Ok(removed)
    }

    fn keep_images(&self, digests: BTreeSet<Digest>) {
        self.inner.keep_images(digests);
    }

    fn follow_console(&self, placement: Placement) {
        self.inner.follow_console(placement);
    }

    fn end_console(&self, placement: Placement) {
        self.inner.end_console(placement);
    }
}
