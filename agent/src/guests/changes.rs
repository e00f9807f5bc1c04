//! Says when a file is written to or renamed, so that nobody has to look again
//! and again (inotify(7)).
//!
//! A hint to look, not the truth: who waits for one looks by the clock as well,
//! seldom.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// For events that are read at once; none of a file has a name in it.
const BUFFER: usize = 1024;

/// Watches files, all by one inotify instance: of those a user has few.
#[derive(Debug)]
pub struct Changes {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

type Watched = HashMap<WatchDescriptor, Arc<Notify>>;

struct Shared {
    watches: Watches,
    watched: Mutex<Watched>,
}

/// One file that is watched, until this is dropped.
#[derive(Debug)]
pub struct Change {
    shared: Arc<Shared>,
    descriptor: WatchDescriptor,
    notify: Arc<Notify>,
}

impl Changes {
    /// Call within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the kernel gives no inotify instance.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let shared = Arc::new(Shared {
            watches: inotify.watches(),
            watched: Mutex::default(),
        });
        let events = inotify.into_event_stream([0; BUFFER])?;
        let task = tokio::spawn(Arc::clone(&shared).listen(events));
        Ok(Self { shared, task })
    }

    /// Watches the file from now on, whatever it is named.
    ///
    /// # Errors
    ///
    /// When the kernel takes no more watches.
    pub fn of(&self, file: &File) -> io::Result<Change> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mask = WatchMask::MODIFY | WatchMask::MOVE_SELF;
        let notify = Arc::new(Notify::new());
        // Locked meanwhile: the first event may come at once.
        let mut watched = self.shared.watched();
        let descriptor = self.shared.watches.clone().add(path, mask)?;
        watched.insert(descriptor.clone(), Arc::clone(&notify));
        drop(watched);
        Ok(Change {
            shared: Arc::clone(&self.shared),
            descriptor,
            notify,
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Change {
    /// Waits for a change since the last call, or since the watch began. Cancel
    /// safe.
    pub async fn seen(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut watched = self.shared.watched();
        // Another watch of the same file has taken this one's place.
        let ours = |notify: &Arc<Notify>| Arc::ptr_eq(notify, &self.notify);
        if watched.get(&self.descriptor).is_some_and(ours) {
            watched.remove(&self.descriptor);
            // One whose file is gone has gone by itself.
            let _ = self.shared.watches.clone().remove(self.descriptor.clone());
        }
    }
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(self: Arc<Self>, mut events: EventStream<[u8; BUFFER]>) {
        while let Some(event) = events.next().await {
            match event {
                Ok(event) if event.mask.contains(EventMask::Q_OVERFLOW) => {
                    self.watched().values().for_each(|it| it.notify_one());
                }
                Ok(event) => {
                    if let Some(notify) = self.watched().get(&event.wd) {
                        notify.notify_one();
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "changes of files are not heard of any more");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_write_and_a_rename_are_heard_of_and_another_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let (mut file, mut other) = (File::create(&one).unwrap(), File::create(&two).unwrap());
        let changes = Changes::new().unwrap();
        let (change, others) = (changes.of(&file).unwrap(), changes.of(&other).unwrap());
        file.write_all(b"a").unwrap();
        change.seen().await;
        assert_eq!(others.seen().now_or_never(), None);
        other.write_all(b"b").unwrap();
        others.seen().await;
        assert_eq!(change.seen().now_or_never(), None);
        fs::rename(&one, dir.path().join("three")).unwrap();
        change.seen().await;
    }

    #[tokio::test]
    async fn a_file_that_is_watched_anew_is_heard_of_by_the_new_watch() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::create(dir.path().join("one")).unwrap();
        let changes = Changes::new().unwrap();
        let former = changes.of(&file).unwrap();
        let change = changes.of(&file).unwrap();
        drop(former);
        file.write_all(b"a").unwrap();
        change.seen().await;
    }
}
