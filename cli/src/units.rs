//! Sizes, durations and money as people write and read them.
//!
//! What always holds: parsing is exact or refused (no floating point), and a
//! unit that could mean two things (`2G`) is asked about, not guessed.

mod duration;
mod money;
mod size;

pub(crate) use duration::{parse_duration, show_seconds};
pub(crate) use money::{parse_money, show_money, show_rate};
pub(crate) use size::{parse_size, show_size};

/// `quantity ÷ per` in decimal, rounded to six places, trailing zeros dropped.
pub(crate) fn decimal(quantity: u128, per: u128) -> String {
    let per = per.max(1);
    let micros = (quantity.saturating_mul(1_000_000).saturating_add(per / 2)) / per;
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_rounded_and_short() {
        assert_eq!(decimal(7_200_000, 3_600_000), "2");
        assert_eq!(decimal(1, 3), "0.333333");
        assert_eq!(decimal(2, 3), "0.666667");
        assert_eq!(decimal(0, 5), "0");
    }
}
