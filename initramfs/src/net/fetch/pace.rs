//! A transfer that is too slow ends.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// The least that has to arrive in so much time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// What arrives at this pace or faster.
pub(super) struct Paced<R> {
    inner: R,
    pace: Pace,
    began: Instant,
    came: u64,
}

impl<R> Paced<R> {
    pub(super) fn new(inner: R, pace: Pace) -> Self {
        Self {
            inner,
            pace,
            began: Instant::now(),
            came: 0,
        }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.came += read as u64;
        if read > 0 && self.began.elapsed() >= self.pace.time {
            if self.came < self.pace.bytes {
                let Pace { bytes, time } = self.pace;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "too slow: {} of at least {bytes} bytes in {} s",
                        self.came,
                        time.as_secs()
                    ),
                ));
            }
            (self.began, self.came) = (Instant::now(), 0);
        }
        Ok(read)
    }
}
