//! What a guest costs: integer arithmetic, rounded once for each line.

use surplus_protocol::Money;
use surplus_protocol::api::{BillLine, PriceBook};
use surplus_protocol::inventory::Resources;

const MIB: u128 = 1 << 20;
const MB: u128 = 1_000_000;
const HOUR_MILLIS: u128 = 3_600_000;
const MONTH_MILLIS: u128 = 30 * 24 * HOUR_MILLIS;
const GB: u128 = 1_000_000_000;

/// The lines for having `resources` during `millis`.
///
/// A quantity is whole units of `unit`, rounded down; the amount follows from
/// that quantity, so that a bill can be checked by itself.
pub fn time_lines(book: &PriceBook, resources: Resources, millis: u64) -> Vec<BillLine> {
    let millis = u128::from(millis);
    let vcpu = u128::from(resources.vcpus) * millis;
    let memory = u128::from(resources.memory_bytes) * millis / MIB;
    let disk = u128::from(resources.disk_bytes) * millis / MB;
    let mut lines = vec![
        line("vcpu", "vcpu_millis", vcpu, book.vcpu_hour, HOUR_MILLIS),
        line(
            "memory",
            "mib_millis",
            memory,
            book.memory_gib_hour,
            1024 * HOUR_MILLIS,
        ),
        line(
            "disk",
            "mb_millis",
            disk,
            book.disk_gb_month,
            1000 * MONTH_MILLIS,
        ),
    ];
    if resources.addresses > 0 {
        let address = u128::from(resources.addresses) * millis;
        let rate = book.address_hour;
        lines.push(line(
            "address",
            "address_millis",
            address,
            rate,
            HOUR_MILLIS,
        ));
    }
    lines
}

/// The lines for traffic, in bytes.
pub fn traffic_lines(book: &PriceBook, received: u64, sent: u64) -> Vec<BillLine> {
    vec![
        line(
            "traffic_in",
            "bytes",
            received.into(),
            book.traffic_in_gb,
            GB,
        ),
        line("traffic_out", "bytes", sent.into(), book.traffic_out_gb, GB),
    ]
}

/// The price of a window, traffic apart.
pub fn window(book: &PriceBook, resources: Resources, seconds: u64) -> Money {
    total(&time_lines(book, resources, seconds.saturating_mul(1000)))
}

/// The sum of the lines.
pub fn total(lines: &[BillLine]) -> Money {
    lines.iter().map(|line| line.amount).sum()
}

fn line(item: &str, unit: &str, quantity: u128, rate: Money, per: u128) -> BillLine {
    BillLine {
        item: item.to_owned(),
        quantity: u64::try_from(quantity).unwrap_or(u64::MAX),
        unit: unit.to_owned(),
        rate,
        amount: Money::of(rate, quantity, per),
    }
}

/// The prices that a marketplace starts with. A stored version never changes: other
/// prices are another version.
pub fn default_book() -> PriceBook {
    PriceBook {
        version: 2,
        currency: "EUR".to_owned(),
        vcpu_hour: Money(12_000),
        memory_gib_hour: Money(4_000),
        disk_gb_month: Money(50_000),
        address_hour: Money(4_000),
        traffic_in_gb: Money(0),
        traffic_out_gb: Money(10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_known_window_costs_what_the_book_says() {
        let resources = Resources {
            vcpus: 2,
            memory_bytes: 4 * GIB,
            disk_bytes: 10_000_000_000,
            addresses: 0,
        };
        // 2 × 12,000 + 4 × 4,000 + 10 × 50,000 ÷ 720 (694.4, rounded).
        assert_eq!(
            window(&default_book(), resources, 3600),
            Money(24_000 + 16_000 + 694)
        );
        let with_address = Resources {
            addresses: 1,
            ..resources
        };
        assert_eq!(
            window(&default_book(), with_address, 1800),
            Money(12_000 + 8_000 + 347 + 2_000)
        );
    }

    #[test]
    fn nothing_costs_nothing() {
        assert_eq!(
            window(&default_book(), Resources::default(), 3600),
            Money::ZERO
        );
        assert_eq!(total(&traffic_lines(&default_book(), 0, 0)), Money::ZERO);
    }
}
