//! Sizes in bytes: `512MiB` is 2^20 × 512, `1GB` is 10^9.

/// Why a text is not a size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidSize {
    #[error("{text:?} is not a size: write for instance 512MiB, 2GiB, 10GB or a number of bytes")]
    Unreadable { text: String },
    #[error(
        "{text:?} could mean two sizes: write {number}{letter}iB (powers of 1024) or {number}{letter}B (powers of 1000)"
    )]
    Ambiguous {
        text: String,
        number: String,
        letter: char,
    },
    #[error("{text:?} is larger than any machine (the limit is 2^63 bytes)")]
    TooLarge { text: String },
    #[error("{text:?} is not a whole number of bytes")]
    Fraction { text: String },
}

/// Reads a size in bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, InvalidSize> {
    let owned = || text.trim().to_owned();
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let scale: u128 = match unit.as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u128.pow(2),
        "gb" => 1000_u128.pow(3),
        "tb" => 1000_u128.pow(4),
        "kib" | "ki" => 1 << 10,
        "mib" | "mi" => 1 << 20,
        "gib" | "gi" => 1 << 30,
        "tib" | "ti" => 1 << 40,
        "k" | "m" | "g" | "t" => {
            let letter = unit.to_ascii_uppercase().chars().next().unwrap_or('G');
            return Err(InvalidSize::Ambiguous {
                text: owned(),
                number: number.to_owned(),
                letter,
            });
        }
        _ => return Err(InvalidSize::Unreadable { text: owned() }),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 12 || whole.len() > 19 {
        return Err(InvalidSize::Unreadable { text: owned() });
    }
    let unreadable = |_| InvalidSize::Unreadable { text: owned() };
    let whole: u128 = whole.parse().map_err(unreadable)?;
    let parts: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(unreadable)?
    };
    let per = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    if !(parts * scale).is_multiple_of(per) {
        return Err(InvalidSize::Fraction { text: owned() });
    }
    let bytes = whole * scale + parts * scale / per;
    // The limit is i64's: sizes are stored as signed 64-bit numbers.
    match u64::try_from(bytes) {
        Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => Err(InvalidSize::TooLarge { text: owned() }),
    }
}

/// A size for people, in the largest of B, KiB, MiB, GiB, TiB that leaves at
/// least one; one decimal where it is not whole.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    for (unit, scale) in UNITS {
        if bytes >= scale {
            let tenths = (u128::from(bytes) * 10 + u128::from(scale / 2)) / u128::from(scale);
            return if tenths.is_multiple_of(10) {
                format!("{} {unit}", tenths / 10)
            } else {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_decimal_units_differ() {
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_size(" 2 gib "), Ok(2 << 30));
        assert_eq!(parse_size("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_size("4096"), Ok(4096));
    }

    #[test]
    fn a_bare_letter_is_asked_about() {
        let message = parse_size("2G").unwrap_err().to_string();
        assert!(
            message.contains("2GiB") && message.contains("2GB"),
            "{message}"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "GiB",
            "-1GiB",
            "1..5GiB",
            "1,5GiB",
            "two",
            "1.0000001B",
            "9000000TiB",
            "5 apples",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(512 << 20), "512 MiB");
        assert_eq!(show_size(3 << 29), "1.5 GiB");
        assert_eq!(show_size(1_000_000_000), "953.7 MiB");
        assert_eq!(show_size(u64::MAX), "16777216 TiB");
    }
}
