//! The rules that keep promises under faults, by name.
//!
//! Code that enforces one asks [`stands`]. In every program the answer is yes,
//! known when it is compiled; a simulation built with the feature `removable`
//! takes one rule out for its own thread, to show that a promise is broken
//! without it.

/// A rule without which some fault breaks a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safeguard {
    /// A host refuses a ticket of an epoch that it has seen through, and older
    /// ones.
    Epoch,
    /// A guest is not started after its ticket's time.
    NotAfter,
    /// A usage record is stored once by lease, epoch and number.
    UsageKey,
    /// Nothing is fenced while many hosts are silent at once.
    Brake,
    /// After its start a marketplace places nothing anew before hosts with a
    /// later placement were heard or have stopped: it may have been restored.
    Restart,
    /// A host stops a guest by a tombstone or at the lease's own end: absence from
    /// an answer is neither.
    Tombstone,
}

/// Whether the rule is in force.
#[cfg(not(feature = "removable"))]
pub const fn stands(_rule: Safeguard) -> bool {
    true
}

#[cfg(feature = "removable")]
pub use removable::{stands, without};

#[cfg(feature = "removable")]
mod removable {
    use std::cell::Cell;

    use super::Safeguard;

    thread_local! {
        static REMOVED: Cell<Option<Safeguard>> = const { Cell::new(None) };
    }

    /// Whether the rule is in force on this thread.
    pub fn stands(rule: Safeguard) -> bool {
        REMOVED.get() != Some(rule)
    }

    /// Does something on this thread without the rule.
    pub fn without<T>(rule: Option<Safeguard>, act: impl FnOnce() -> T) -> T {
        /// Puts the rule back, also when the act panics.
        struct Restore(Option<Safeguard>);
        impl Drop for Restore {
            fn drop(&mut self) {
                REMOVED.set(self.0);
            }
        }
        let _restore = Restore(REMOVED.replace(rule));
        act()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_rule_is_back_once_the_act_is_over() {
            assert!(stands(Safeguard::Epoch));
            without(Some(Safeguard::Epoch), || {
                assert!(!stands(Safeguard::Epoch));
                assert!(stands(Safeguard::Brake));
            });
            assert!(stands(Safeguard::Epoch));
        }
    }
}
