//! Who waits for what: long polls sleep until the thing they wait for changes.
//!
//! Subscribe before looking: a change after that look then ends the wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Above this many names, those that nobody waits for are forgotten.
const CROWD: usize = 1024;

/// Wakes those who wait for a `K`.
#[derive(Debug)]
pub(crate) struct Wakers<K>(Mutex<HashMap<K, watch::Sender<()>>>);

impl<K> Default for Wakers<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Wakers<K> {
    /// From now on, a change of `key` ends the wait.
    pub(crate) fn subscribe(&self, key: K) -> watch::Receiver<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() > CROWD && waiting.len().is_power_of_two() {
            waiting.retain(|_, sender| sender.receiver_count() > 0);
        }
        waiting
            .entry(key)
            .or_insert_with(|| watch::channel(()).0)
            .subscribe()
    }

    /// `key` changed.
    pub(crate) fn wake(&self, key: &K) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.get(key) {
            sender.send_replace(());
        }
    }
}
