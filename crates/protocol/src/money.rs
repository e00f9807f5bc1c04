//! Money as integer micro-units: 1,000,000 is one unit of the currency.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// An amount in micro-units of the price book's currency.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Money(pub i64);

impl Money {
    pub const ZERO: Self = Self(0);

    /// `rate × quantity ÷ per`, rounded half up: the price of `quantity` where
    /// `per` of it costs `rate`. Saturates instead of overflowing.
    pub fn of(rate: Self, quantity: u128, per: u128) -> Self {
        let per = i128::try_from(per.max(1)).unwrap_or(i128::MAX);
        let quantity = i128::try_from(quantity).unwrap_or(i128::MAX);
        let product = i128::from(rate.0).saturating_mul(quantity);
        let rounded = product.saturating_add(per / 2).div_euclid(per);
        let limit = if rounded < 0 { i64::MIN } else { i64::MAX };
        Self(i64::try_from(rounded).unwrap_or(limit))
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let micros = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_a_micro_unit_rounds_up() {
        assert_eq!(Money::of(Money(1), 1, 2), Money(1));
        assert_eq!(Money::of(Money(1), 1, 3), Money(0));
    }

    #[test]
    fn prints_units_and_micros() {
        assert_eq!(Money(1_500_000).to_string(), "1.500000");
        assert_eq!(Money(-1).to_string(), "-0.000001");
    }

    proptest! {
        #[test]
        fn a_whole_period_costs_the_rate(rate in 0_i64..1 << 40, per in 1_u128..1 << 60) {
            prop_assert_eq!(Money::of(Money(rate), per, per), Money(rate));
        }
    }
}
