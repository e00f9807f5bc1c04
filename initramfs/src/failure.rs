//! What is said when a stage fails, and what is done when it fails for good.

use std::fmt::Display;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use surplus_stage::Stage;

/// What to do when the kernel refuses something that it must be able to do.
pub(crate) const KERNEL: &str =
    "the kernel and the initramfs do not fit each other; boot an unaltered medium";
/// What to do when the medium's content cannot be right.
pub(crate) const MEDIUM: &str =
    "write the medium anew and check it with `surplus-image verify`; then boot again";

/// Long enough to read a line and take a picture of it.
const READING_TIME: Duration = Duration::from_secs(20);

/// A failed stage: where, what happened to what and why, what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) stage: &'static str,
    pub(crate) error: String,
    pub(crate) next: String,
}

impl Failure {
    pub(crate) fn new(stage: &'static str, error: impl Display, next: impl Display) -> Self {
        Self {
            stage,
            error: error.to_string(),
            next: next.to_string(),
        }
    }

    pub(crate) fn announce(&self) {
        Stage::new(self.stage)
            .failed(&self.error, &self.next)
            .announce();
    }
}

/// Turns any error into a [`Failure`] that says what was attempted.
pub(crate) trait Context<T> {
    fn failed(self, stage: &'static str, attempt: &str, next: &str) -> Result<T, Failure>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn failed(self, stage: &'static str, attempt: &str, next: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(stage, format!("{attempt}: {error}"), next))
    }
}

/// A panic of process 1 is a panic of the kernel: say before it what happened.
pub(crate) fn announce_panics() {
    std::panic::set_hook(Box::new(|panic| {
        Failure::new(
            "root",
            format!("/init has a defect: {panic}"),
            "report this line",
        )
        .announce();
    }));
}

/// Powers the host off after time to read; if that fails, waits for ever, since
/// process 1 must not end.
pub(crate) fn power_off() -> ! {
    std::thread::sleep(READING_TIME);
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    Failure::new(
        "root",
        format!("powering off: {error}"),
        "switch the host off",
    )
    .announce();
    loop {
        std::thread::park();
    }
}
