//! Counts what a guest used.
//!
//! Counters are cumulative per placement and never fall. Running time counts
//! only between two looks that both saw the guest running, so time in which it
//! did not run, or nobody can say, is not billed. Records are kept until they
//! are acknowledged; since each holds everything before it, older ones may be
//! thinned out when a host is offline for long.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use surplus_protocol::lease::UsageRecord;

use super::hypervisor::{DomainUsage, Traffic};
use super::placement::Placement;

/// Unacknowledged records kept before older ones are thinned.
const MAX_RECORDS: usize = 256;

/// What one look at a guest showed. Counters are since its domain was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When, on the boot-time clock, in milliseconds.
    pub at_boot_millis: u64,
    pub running: bool,
    pub cpu_nanos: u64,
    /// Bytes that the guest received and sent.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    running_millis: u64,
    cpu_nanos: u64,
    rx_bytes: u64,
    tx_bytes: u64,
    /// Number of the last record.
    seq: u64,
    last: Option<Sample>,
    /// When the last record was made, on the boot-time clock.
    recorded_at: Option<u64>,
}

/// The counters of one placement, and the records made of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    counted: Counters,
    unacknowledged: Vec<UsageRecord>,
}

impl Meter {
    /// Takes in one look.
    pub fn sample(&mut self, sample: Sample) {
        let last = self.counted.last.unwrap_or_default();
        if last.running && sample.running {
            let elapsed = sample.at_boot_millis.saturating_sub(last.at_boot_millis);
            self.counted.running_millis = self.counted.running_millis.saturating_add(elapsed);
        }
        self.counted.cpu_nanos = self
            .counted
            .cpu_nanos
            .saturating_add(grown(last.cpu_nanos, sample.cpu_nanos));
        self.counted.rx_bytes = self
            .counted
            .rx_bytes
            .saturating_add(grown(last.rx_bytes, sample.rx_bytes));
        self.counted.tx_bytes = self
            .counted
            .tx_bytes
            .saturating_add(grown(last.tx_bytes, sample.tx_bytes));
        self.counted
            .recorded_at
            .get_or_insert(sample.at_boot_millis);
        self.counted.last = Some(sample);
    }

    /// Takes in what a look at a domain showed.
    pub fn look(&mut self, at_boot_millis: u64, running: bool, usage: DomainUsage) {
        let last = self.counted.last.unwrap_or_default();
        // What could not be read has not fallen to nothing.
        let traffic = usage.traffic.unwrap_or(Traffic {
            rx_bytes: last.rx_bytes,
            tx_bytes: last.tx_bytes,
        });
        self.sample(Sample {
            at_boot_millis,
            running,
            cpu_nanos: usage.cpu_nanos,
            rx_bytes: traffic.rx_bytes,
            tx_bytes: traffic.tx_bytes,
        });
    }

    /// Takes in that the guest was seen, without its counters.
    pub fn tick(&mut self, at_boot_millis: u64, running: bool) {
        let last = self.counted.last.unwrap_or_default();
        self.sample(Sample {
            at_boot_millis,
            running,
            ..last
        });
    }

    /// Whether the last look saw the guest running.
    pub fn is_running(&self) -> bool {
        self.counted.last.is_some_and(|last| last.running)
    }

    /// The guest stopped running at this time on the boot-time clock.
    pub fn stopped(&mut self, at_boot_millis: u64) {
        if let Some(last) = self.counted.last.filter(|last| last.running) {
            self.sample(Sample {
                at_boot_millis,
                running: true,
                ..last
            });
            self.counted.last = Some(Sample {
                at_boot_millis,
                running: false,
                ..last
            });
        }
    }

    /// Whether a record is due: a mark of the boot-time clock, one each
    /// `interval_millis`, lies between the look that the last record was made of
    /// and the last one. So all guests' records are made, and sent, together.
    /// Without a look there is nothing new to record.
    pub fn is_due(&self, interval_millis: u64) -> bool {
        let looked = self.counted.last.map(|last| last.at_boot_millis);
        let (Some(recorded), Some(looked)) = (self.counted.recorded_at, looked) else {
            return false;
        };
        let interval = interval_millis.max(1);
        looked / interval > recorded / interval
    }

    /// Makes the next record and keeps it until it is acknowledged.
    pub fn record(&mut self, placement: Placement, now: Timestamp) -> UsageRecord {
        let record = self.next_record(placement, now);
        self.counted.seq = record.seq;
        self.counted.recorded_at = self.counted.last.map(|last| last.at_boot_millis);
        self.unacknowledged.push(record.clone());
        self.thin();
        record
    }

    /// Every second one of the older half goes where there are too many: the
    /// totals are in the rest.
    fn thin(&mut self) {
        while self.unacknowledged.len() > MAX_RECORDS {
            let mut index = 0;
            self.unacknowledged.retain(|_| {
                index += 1;
                index > MAX_RECORDS / 2 || index % 2 == 0
            });
        }
    }

    /// The record that closes the placement; it travels in the receipt, and
    /// makes all earlier ones superfluous once that is acknowledged.
    pub fn close(&mut self, placement: Placement, now: Timestamp) -> UsageRecord {
        let record = self.next_record(placement, now);
        self.counted.seq = record.seq;
        record
    }

    fn next_record(&self, placement: Placement, now: Timestamp) -> UsageRecord {
        UsageRecord {
            lease: placement.lease,
            epoch: placement.epoch,
            seq: self.counted.seq + 1,
            measured_at: now,
            running_millis: self.counted.running_millis,
            cpu_millis: self.counted.cpu_nanos / 1_000_000,
            rx_bytes: self.counted.rx_bytes,
            tx_bytes: self.counted.tx_bytes,
        }
    }

    /// Forgets records up to `seq`; whether there were any.
    pub fn acknowledge(&mut self, seq: u64) -> bool {
        let before = self.unacknowledged.len();
        self.unacknowledged.retain(|record| record.seq > seq);
        self.unacknowledged.len() != before
    }

    /// Records not yet acknowledged, oldest first.
    pub fn unacknowledged(&self) -> &[UsageRecord] {
        &self.unacknowledged
    }

    /// What was counted so far, without the records.
    pub fn counters(&self) -> Counters {
        self.counted
    }

    /// The records made since the meter was `before`, and the number from which
    /// on records are not acknowledged.
    pub fn since(&self, before: &Self) -> (Vec<UsageRecord>, u64) {
        let new = |record: &&UsageRecord| record.seq > before.counted.seq;
        let records = self.unacknowledged.iter().filter(new).cloned().collect();
        let first = self.unacknowledged.first();
        (records, first.map_or(self.counted.seq + 1, |it| it.seq))
    }

    /// Takes up what [`counters`](Self::counters) and [`since`](Self::since)
    /// gave. Twice is as good as once.
    pub fn restore(&mut self, counters: Counters, records: Vec<UsageRecord>, from: u64) {
        if counters.seq < self.counted.seq {
            return;
        }
        let last = self.unacknowledged.last().map_or(0, |record| record.seq);
        let new = records.into_iter().filter(|record| record.seq > last);
        self.unacknowledged.extend(new);
        self.unacknowledged.retain(|record| record.seq >= from);
        self.counted = counters;
        self.thin();
    }
}

/// How much a counter grew; one that fell began anew at zero.
fn grown(before: u64, after: u64) -> u64 {
    after.checked_sub(before).unwrap_or(after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placement() -> Placement {
        "0190a1b2-0000-7000-8000-000000000001.1".parse().unwrap()
    }

    fn at(seconds: u64, running: bool) -> Sample {
        Sample {
            at_boot_millis: seconds * 1000,
            running,
            ..Sample::default()
        }
    }

    #[test]
    fn time_in_which_the_guest_did_not_run_is_not_billed() {
        let mut meter = Meter::default();
        for (seconds, running) in [(10, true), (20, true), (30, false), (40, false), (50, true)] {
            meter.sample(at(seconds, running));
        }
        meter.stopped(53_000);
        meter.stopped(60_000);
        let record = meter.close(placement(), Timestamp::UNIX_EPOCH);
        assert_eq!(record.running_millis, 13_000);
    }

    #[test]
    fn an_interface_that_cannot_be_read_once_is_not_billed_twice() {
        let mut meter = Meter::default();
        let traffic = |bytes| Traffic {
            rx_bytes: bytes,
            tx_bytes: bytes,
        };
        for (seconds, traffic) in [(1, Some(traffic(70))), (2, None), (3, Some(traffic(100)))] {
            let usage = DomainUsage {
                cpu_nanos: 0,
                traffic,
            };
            meter.look(seconds * 1000, true, usage);
        }
        let record = meter.close(placement(), Timestamp::UNIX_EPOCH);
        assert_eq!((record.rx_bytes, record.tx_bytes), (100, 100));
    }

    #[test]
    fn a_counter_that_begins_anew_is_added_not_subtracted() {
        let mut meter = Meter::default();
        meter.sample(Sample {
            rx_bytes: 100,
            ..at(1, true)
        });
        meter.sample(Sample {
            rx_bytes: 40,
            ..at(2, true)
        });
        assert_eq!(
            meter.close(placement(), Timestamp::UNIX_EPOCH).rx_bytes,
            140
        );
    }

    #[test]
    fn records_are_kept_until_acknowledged() {
        let mut meter = Meter::default();
        meter.sample(at(20, true));
        meter.sample(at(59, true));
        assert!(!meter.is_due(60_000));
        for minute in 1..=3 {
            meter.sample(at(minute * 60 + minute, true));
            assert!(meter.is_due(60_000));
            meter.record(placement(), Timestamp::UNIX_EPOCH);
            assert!(!meter.is_due(60_000));
        }
        assert!(meter.acknowledge(2));
        assert!(!meter.acknowledge(2));
        let left: Vec<_> = meter
            .unacknowledged()
            .iter()
            .map(|record| record.seq)
            .collect();
        assert_eq!(left, [3]);
    }

    proptest! {
        #[test]
        fn counters_never_fall_and_the_queue_is_bounded(
            steps in proptest::collection::vec((0..90_000_u64, any::<bool>(), 0..1_u64 << 40), 0..600),
        ) {
            let mut meter = Meter::default();
            let (mut now, mut before) = (0, 0);
            for (elapsed, running, cpu_nanos) in steps {
                now += elapsed;
                meter.sample(Sample { cpu_nanos, ..Sample { at_boot_millis: now, running, ..Sample::default() } });
                let record = meter.record(placement(), Timestamp::UNIX_EPOCH);
                prop_assert!(record.running_millis >= before && record.running_millis <= now);
                before = record.running_millis;
                prop_assert!(meter.unacknowledged().len() <= MAX_RECORDS);
            }
        }
    }
}
