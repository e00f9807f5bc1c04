//! Lengths of time in whole seconds: `90m`, `2h`, `7d`, `1d12h`.

use jiff::{Span, SpanRelativeTo, Unit};

/// Why a text is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: write for instance 90s, 30m, 2h, 7d or 1d12h")]
pub(crate) struct InvalidDuration {
    text: String,
}

/// Reads a duration of at least one second; a day has 24 hours. Units whose
/// length varies (months) are refused.
pub(crate) fn parse_duration(text: &str) -> Result<u64, InvalidDuration> {
    let invalid = || InvalidDuration {
        text: text.to_owned(),
    };
    let span: Span = text.trim().parse().map_err(|_| invalid())?;
    if span.get_months() != 0 || span.get_years() != 0 || span.is_negative() {
        return Err(invalid());
    }
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| invalid())?;
    if duration.subsec_nanos() != 0 || duration.is_zero() {
        return Err(invalid());
    }
    u64::try_from(duration.as_secs()).map_err(|_| invalid())
}

/// A duration for people, its two largest units: `1d 12h`, `2h`, `45s`.
pub(crate) fn show_seconds(seconds: u64) -> String {
    let parts = [
        (Unit::Day, seconds / 86_400),
        (Unit::Hour, seconds / 3600 % 24),
        (Unit::Minute, seconds / 60 % 60),
        (Unit::Second, seconds % 60),
    ];
    let Some(first) = parts.iter().position(|(_, amount)| *amount > 0) else {
        return "0s".to_owned();
    };
    let words: Vec<_> = parts[first..]
        .iter()
        .take(2)
        .filter(|(_, amount)| *amount > 0)
        .map(|(unit, amount)| {
            let letter = match unit {
                Unit::Day => 'd',
                Unit::Hour => 'h',
                Unit::Minute => 'm',
                _ => 's',
            };
            format!("{amount}{letter}")
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_lengths_are_read() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("7d", 604_800),
            ("1d12h", 129_600),
            ("1w", 604_800),
        ] {
            assert_eq!(parse_duration(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn nonsense_and_varying_units_are_refused() {
        for text in [
            "", "2", "h", "-2h", "0s", "1mo", "1y", "1.5s", "500ms", "tomorrow",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_read_well() {
        assert_eq!(show_seconds(0), "0s");
        assert_eq!(show_seconds(45), "45s");
        assert_eq!(show_seconds(7200), "2h");
        assert_eq!(show_seconds(129_661), "1d 12h");
        assert_eq!(show_seconds(3601), "1h");
    }
}
