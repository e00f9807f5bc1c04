//! Money with its currency; integer micro-units throughout.

use surplus_protocol::Money;

/// Why a text is not an amount of money.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an amount: write for instance 2, 0.50 or 0.012 (at most six decimals)")]
pub(crate) struct InvalidMoney {
    text: String,
}

/// Reads an amount in the marketplace's currency.
pub(crate) fn parse_money(text: &str) -> Result<Money, InvalidMoney> {
    let invalid = || InvalidMoney {
        text: text.to_owned(),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 6 {
        return Err(invalid());
    }
    let whole: i64 = whole.parse().map_err(|_| invalid())?;
    let micros: i64 = format!("{fraction:0<6}").parse().map_err(|_| invalid())?;
    let amount = whole
        .checked_mul(1_000_000)
        .and_then(|whole| whole.checked_add(micros));
    amount.map(Money).ok_or_else(invalid)
}

/// An amount with its currency: at least two decimals, no rounding.
pub(crate) fn show_money(amount: Money, currency: &str) -> String {
    format!("{} {currency}", show_rate(amount))
}

/// An amount without its currency: at least two decimals, no rounding.
pub(crate) fn show_rate(amount: Money) -> String {
    let text = amount.to_string();
    let cents = text.len() - 4;
    let (head, tail) = text.split_at(cents);
    format!("{head}{}", tail.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_survive_the_round_trip() {
        for (text, micros) in [("2", 2_000_000), ("0.50", 500_000), ("0.012345", 12_345)] {
            assert_eq!(parse_money(text), Ok(Money(micros)));
        }
        assert_eq!(show_money(Money(12_345), "EUR"), "0.012345 EUR");
        assert_eq!(show_money(Money(2_500_000), "EUR"), "2.50 EUR");
        assert_eq!(show_money(Money(0), "EUR"), "0.00 EUR");
        assert_eq!(show_money(Money(-1_100_000), "EUR"), "-1.10 EUR");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ".", "-1", "1.0000001", "1,5", "99999999999999", "1e3"] {
            assert!(parse_money(text).is_err(), "{text}");
        }
    }
}
