//! The host's clock: whether it can be believed, and setting it.
//!
//! timesyncd runs beside; but a host whose clock stands at 1970 must judge a
//! certificate before any time server has answered, and may have none. So the
//! agent asks the marketplace, whose key it can verify at a time that it knows
//! to have passed, and takes the `Date` of the answer; before it has a site
//! file, the site file's own server.
//!
//! What always holds: the clock is only set forward, never to a time before
//! the image was built, and only to the word of a server that the site file's
//! CA, or the one pinned on the kernel command line, vouches for.

mod marketplace;

pub use marketplace::{Estimate, MarketplaceTime};

use jiff::Timestamp;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::time::{Duration, UNIX_EPOCH};

use surplus_stage::Stage;

use crate::hub::in_one_line;
use crate::stages::Announce;
use crate::sysroot::SysRoot;

/// Files whose modification time is the image's build time, best first.
const BUILT: [&str; 3] = ["/usr/lib/clock-epoch", "/usr/lib/os-release", "/usr"];

/// Tells and sets the time.
pub trait SystemClock: std::fmt::Debug + Send + Sync {
    fn now(&self) -> Timestamp;
    fn set(&self, to: Timestamp) -> Result<(), SetError>;
}

/// Why the clock was not set.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("the time offered, {offered}, lies before {floor}, when this image was built")]
    BeforeBuild {
        offered: Timestamp,
        floor: Timestamp,
    },
    #[error("cannot set the clock to {to}")]
    System {
        to: Timestamp,
        #[source]
        source: nix::Error,
    },
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl SystemClock for Kernel {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn set(&self, to: Timestamp) -> Result<(), SetError> {
        let time = TimeSpec::new(to.as_second(), 0);
        clock_settime(ClockId::CLOCK_REALTIME, time)
            .map_err(|source| SetError::System { to, source })
    }
}

/// When the image was built, as far as its files tell; 1970 where they do not.
pub fn built_at(root: &SysRoot) -> Timestamp {
    BUILT
        .iter()
        .filter_map(|path| std::fs::metadata(root.path(path)).ok()?.modified().ok())
        .filter_map(|time| Timestamp::try_from(time).ok())
        .find(|time| time.as_second() > 0)
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Sets the clock to `offered` where it is behind; `Some` with the step made.
///
/// A step of less than a minute is timesyncd's.
pub fn catch_up(
    clock: &dyn SystemClock,
    offered: Timestamp,
    floor: Timestamp,
) -> Result<Option<Duration>, SetError> {
    if offered < floor {
        return Err(SetError::BeforeBuild { offered, floor });
    }
    let behind = offered.duration_since(clock.now());
    if behind.as_secs() < 60 {
        return Ok(None);
    }
    clock.set(offered)?;
    Ok(Some(behind.unsigned_abs()))
}

/// Sets the clock to a trusted server's word where it is behind, and says so;
/// whether it was set.
pub fn adopt(
    clock: &dyn SystemClock,
    offered: Timestamp,
    floor: Timestamp,
    consoles: &dyn Announce,
) -> bool {
    match catch_up(clock, offered, floor) {
        Ok(Some(step)) => {
            let stage = Stage::new("clock")
                .with("set", offered)
                .with("behind", format!("{}s", step.as_secs()));
            consoles.say(stage);
            true
        }
        Ok(None) => false,
        Err(error) => {
            let next = "set the clock in the firmware's setup; the host goes on trying";
            consoles.say(Stage::new("clock").failed(in_one_line(&error), next));
            false
        }
    }
}

/// The time of an HTTP `Date` header (RFC 9110, 5.6.7).
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim())
        .ok()
}

/// Time since boot, sleep included (`CLOCK_BOOTTIME`): the clock that leases'
/// deadlines run on.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or_else(
        |_| {
            std::time::SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        },
        Duration::from,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug)]
    struct Fake(Mutex<Timestamp>);

    impl SystemClock for Fake {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }

        fn set(&self, to: Timestamp) -> Result<(), SetError> {
            *self.0.lock().unwrap() = to;
            Ok(())
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_clock_at_1970_is_set_and_one_that_is_right_is_left_alone() {
        let clock = Fake(Mutex::new(Timestamp::UNIX_EPOCH));
        let (floor, offered) = (at("2026-01-01T00:00:00Z"), at("2026-06-01T00:00:00Z"));
        assert!(catch_up(&clock, offered, floor).unwrap().is_some());
        assert_eq!(clock.now(), offered);
        assert_eq!(
            catch_up(&clock, at("2026-06-01T00:00:30Z"), floor).unwrap(),
            None
        );
        assert_eq!(
            catch_up(&clock, at("2026-05-01T00:00:00Z"), floor).unwrap(),
            None
        );
        assert_eq!(clock.now(), offered);
    }

    #[test]
    fn a_time_before_the_image_was_built_is_refused() {
        let clock = Fake(Mutex::new(Timestamp::UNIX_EPOCH));
        let refused = catch_up(
            &clock,
            at("2020-01-01T00:00:00Z"),
            at("2026-01-01T00:00:00Z"),
        );
        assert!(matches!(refused, Err(SetError::BeforeBuild { .. })));
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn http_dates_are_read() {
        let parsed = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parsed, Some(at("1994-11-06T08:49:37Z")));
        assert_eq!(parse_http_date("yesterday"), None);
    }
}
