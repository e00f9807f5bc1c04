//! One byte range of a `Range` header (RFC 9110, 14.1.2).

use http::StatusCode;

use crate::refusal::Refusal;

/// First and last byte that are asked for; none: the whole. What is not one
/// range of bytes is ignored, as the RFC allows.
///
/// # Errors
///
/// A range that begins past the end.
pub(super) fn parse(header: Option<&str>, length: u64) -> Result<Option<(u64, u64)>, Refusal> {
    let Some((first, last)) = header
        .and_then(|text| text.trim().strip_prefix("bytes="))
        .and_then(|text| text.split_once('-'))
    else {
        return Ok(None);
    };
    let end = length.saturating_sub(1);
    let range = match (first.trim().parse::<u64>(), last.trim()) {
        (Ok(first), "") => (first, end),
        (Ok(first), last) => match last.parse::<u64>() {
            Ok(last) if last >= first => (first, last.min(end)),
            _ => return Ok(None),
        },
        (Err(_), last) if first.trim().is_empty() => match last.parse::<u64>() {
            Ok(count) if count > 0 => (length.saturating_sub(count), end),
            _ => return Ok(None),
        },
        (Err(_), _) => return Ok(None),
    };
    if range.0 >= length {
        return Err(Refusal::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "no-such-range",
            "The range lies past the end",
            format!(
                "the image has {length} bytes, byte {} is asked for",
                range.0
            ),
            "ask for a range within it, or for the whole",
        ));
    }
    Ok(Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        for (header, range) in [
            (None, None),
            (Some("bytes=0-"), Some((0, 9))),
            (Some("bytes=5-7"), Some((5, 7))),
            (Some("bytes=5-700"), Some((5, 9))),
            (Some("bytes=-3"), Some((7, 9))),
            (Some("bytes=-30"), Some((0, 9))),
            (Some("bytes=7-5"), None),
            (Some("bytes=1-2,4-5"), None),
            (Some("lines=1-2"), None),
        ] {
            assert_eq!(parse(header, 10).unwrap(), range, "{header:?}");
        }
        assert!(parse(Some("bytes=10-"), 10).is_err());
    }
}
