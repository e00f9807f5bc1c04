//! A bill, computed again from what it is made of: the test's own arithmetic,
//! in whole numbers, beside the marketplace's.

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::Money;
use surplus_protocol::api::{Bill, PriceBook};
use surplus_protocol::inventory::Resources;

const HOUR: u128 = 3_600_000;
const MONTH: u128 = 30 * 24 * HOUR;
const MIB: u64 = 1 << 20;
const MB: u64 = 1_000_000;

/// One line as it must be: item, quantity, rate, and what the rate is for.
type Line = (&'static str, u128, Money, u128);

/// Checks every line of `bill` and its total, to the micro-unit. The rented
/// `resources` must be whole MiB of memory and whole MB of disk.
pub fn check(bill: &Bill, book: &PriceBook, resources: &Resources) -> Result<()> {
    ensure!(
        bill.price_book == book.version,
        "another price book: {bill:?}"
    );
    ensure!(bill.currency == book.currency, "another currency: {bill:?}");
    ensure!(
        resources.memory_bytes.is_multiple_of(MIB),
        "memory is not whole MiB"
    );
    ensure!(
        resources.disk_bytes.is_multiple_of(MB),
        "disk is not whole MB"
    );
    let sum = |field: fn(&surplus_protocol::lease::UsageRecord) -> u64| {
        bill.usage
            .iter()
            .map(|record| u128::from(field(record)))
            .sum::<u128>()
    };
    let millis = sum(|record| record.running_millis);
    let lines: [Line; 5] = [
        (
            "vcpu",
            u128::from(resources.vcpus) * millis,
            book.vcpu_hour,
            HOUR,
        ),
        (
            "memory",
            u128::from(resources.memory_bytes / MIB) * millis,
            book.memory_gib_hour,
            1024 * HOUR,
        ),
        (
            "disk",
            u128::from(resources.disk_bytes / MB) * millis,
            book.disk_gb_month,
            1000 * MONTH,
        ),
        (
            "traffic_in",
            sum(|record| record.rx_bytes),
            book.traffic_in_gb,
            1_000_000_000,
        ),
        (
            "traffic_out",
            sum(|record| record.tx_bytes),
            book.traffic_out_gb,
            1_000_000_000,
        ),
    ];
    let mut total = 0;
    for (item, quantity, rate, per) in lines {
        let line = bill.lines.iter().find(|line| line.item == item);
        let line = line.with_context(|| format!("no line for {item} in {bill:?}"))?;
        let amount = half_up(
            i128::from(rate.0) * i128::try_from(quantity)?,
            i128::try_from(per)?,
        );
        ensure!(
            u128::from(line.quantity) == quantity,
            "{item}: {} ≠ {quantity}",
            line.quantity
        );
        ensure!(
            line.rate == rate,
            "{item}: the rate is not the price book's"
        );
        ensure!(
            i128::from(line.amount.0) == amount,
            "{item}: {} ≠ {amount}",
            line.amount.0
        );
        total += amount;
    }
    ensure!(
        i128::from(bill.total.0) == total,
        "total {} ≠ {total}",
        bill.total.0
    );
    Ok(())
}

/// `dividend ÷ divisor` to the nearest whole number; a half goes up.
fn half_up(dividend: i128, divisor: i128) -> i128 {
    (2 * dividend + divisor).div_euclid(2 * divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_up() {
        assert_eq!(
            [half_up(1, 2), half_up(1, 3), half_up(7, 2), half_up(0, 9)],
            [1, 0, 4, 0]
        );
    }
}
