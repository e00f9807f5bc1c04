//! How often an address may guess at join tokens: a bucket for each, that
//! fills slowly. Good tokens give their guess back, so a rack that enrols at
//! once behind one address is not held up.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Guesses that a bucket holds.
const BURST: u32 = 20;

/// Time in which a bucket gains one guess.
const REFILL: Duration = Duration::from_secs(3);

/// Most addresses remembered. An attacker with more of them gains little: a
/// token has too many bits to be guessed.
const MAX_ADDRESSES: usize = 10_000;

/// Guesses left for each address.
#[derive(Debug)]
pub(super) struct Limiter {
    burst: u32,
    refill: Duration,
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    /// Up to when refilling was counted.
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, burst: u32, refill: Duration, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_millis() / refill.as_millis().max(1);
        let gained = u32::try_from(gained).unwrap_or(burst).min(burst);
        self.left = (self.left + gained).min(burst);
        self.at = if self.left == burst {
            now
        } else {
            self.at + refill * gained
        };
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self {
            burst: BURST,
            refill: REFILL,
            buckets: HashMap::new(),
        }
    }
}

impl Limiter {
    /// For requests without a token: a rack that waits behind one address asks
    /// on twice a minute and host; floods do not get through to the store.
    pub(super) fn without_token() -> Self {
        Self {
            burst: 120,
            refill: Duration::from_millis(250),
            ..Self::default()
        }
    }

    /// Takes a guess, or says how long to wait for one.
    pub(super) fn take(&mut self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        self.forget_full(now);
        let bucket = self.buckets.entry(network(from)).or_insert(Bucket {
            left: self.burst,
            at: now,
        });
        bucket.refill(self.burst, self.refill, now);
        if bucket.left == 0 {
            return Err(self
                .refill
                .saturating_sub(now.saturating_duration_since(bucket.at)));
        }
        bucket.left -= 1;
        Ok(())
    }

    /// The guess was none.
    pub(super) fn give_back(&mut self, from: IpAddr) {
        if let Some(bucket) = self.buckets.get_mut(&network(from)) {
            bucket.left = (bucket.left + 1).min(self.burst);
        }
    }

    fn forget_full(&mut self, now: Instant) {
        if self.buckets.len() < MAX_ADDRESSES {
            return;
        }
        self.buckets.retain(|_, bucket| {
            bucket.refill(self.burst, self.refill, now);
            bucket.left < self.burst
        });
        if self.buckets.len() >= MAX_ADDRESSES {
            self.buckets.clear();
        }
    }
}

/// An IPv6 site has 2^64 addresses: they share a bucket.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn guesses_run_out_and_come_back_slowly() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        for _ in 0..BURST {
            limiter.take(HERE, start).unwrap();
        }
        assert_eq!(limiter.take(HERE, start), Err(REFILL));
        limiter.take(HERE, start + REFILL).unwrap();
        assert!(limiter.take(HERE, start + REFILL).is_err());
        assert!(limiter.take(IpAddr::from([192, 0, 2, 1]), start).is_ok());
    }

    #[test]
    fn requests_without_a_token_run_out_as_well() {
        let mut limiter = Limiter::without_token();
        let start = Instant::now();
        let passed = (0..1000).filter(|_| limiter.take(HERE, start).is_ok());
        assert_eq!(passed.count(), 120);
        assert!(
            limiter
                .take(HERE, start + Duration::from_millis(250))
                .is_ok()
        );
    }

    #[test]
    fn good_tokens_are_not_counted() {
        let mut limiter = Limiter::default();
        for _ in 0..10 * BURST {
            limiter.take(HERE, Instant::now()).unwrap();
            limiter.give_back(HERE);
        }
    }

    #[test]
    fn one_ipv6_network_is_one_guesser() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        for host in 0..BURST {
            let address: IpAddr = format!("2001:db8::{host:x}").parse().unwrap();
            limiter.take(address, start).unwrap();
        }
        assert!(
            limiter
                .take("2001:db8::ffff".parse().unwrap(), start)
                .is_err()
        );
    }

    #[test]
    fn the_memory_for_addresses_is_bounded() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        for address in 0..3 * u32::try_from(MAX_ADDRESSES).unwrap() {
            limiter
                .take(IpAddr::from(address.to_be_bytes()), start)
                .unwrap();
        }
        assert!(limiter.buckets.len() <= MAX_ADDRESSES);
    }
}
