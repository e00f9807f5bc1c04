//! The one byte range that a request asks for (RFC 9110, 14.1.2).

/// What of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Whole,
    /// First and last byte.
    Part(u64, u64),
    /// It begins past the end.
    Nothing,
}

/// Reads a `Range` header. What is not one range of bytes is ignored, as the
/// RFC allows.
pub(crate) fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let Some((first, last)) = header
        .and_then(|text| text.trim().strip_prefix("bytes="))
        .and_then(|text| text.split_once('-'))
    else {
        return Wanted::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    let end = length.saturating_sub(1);
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(end)),
        (Ok(first), Err(_)) if last.is_empty() => (first, end),
        (Err(_), Ok(0)) if first.is_empty() => return Wanted::Nothing,
        (Err(_), Ok(count)) if first.is_empty() => (length.saturating_sub(count), end),
        _ => return Wanted::Whole,
    };
    if first >= length {
        return Wanted::Nothing;
    }
    Wanted::Part(first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        for (header, expected) in [
            (None, Wanted::Whole),
            (Some("bytes=0-"), Wanted::Part(0, 9)),
            (Some("bytes=5-7"), Wanted::Part(5, 7)),
            (Some("bytes=5-700"), Wanted::Part(5, 9)),
            (Some("bytes=-3"), Wanted::Part(7, 9)),
            (Some("bytes=-30"), Wanted::Part(0, 9)),
            (Some("bytes=10-"), Wanted::Nothing),
            (Some("bytes=-0"), Wanted::Nothing),
            (Some("bytes=7-5"), Wanted::Whole),
            (Some("bytes=1-2,4-5"), Wanted::Whole),
            (Some("bytes=-"), Wanted::Whole),
            (Some("lines=1-2"), Wanted::Whole),
        ] {
            assert_eq!(wanted(header, 10), expected, "{header:?}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
        assert_eq!(wanted(Some("bytes=-5"), 0), Wanted::Nothing);
    }
}
