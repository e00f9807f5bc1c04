//! Shell patterns, as module aliases use them: `*`, `?`, `[abc]`, `[0-9]`.

/// Whether the whole of `text` matches `pattern`.
///
/// Takes at most length of pattern × length of text steps, since only the last
/// star ever has to be tried again.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
        } else if let Some(length) = matches_one(&pattern[p..], text[t]) {
            p += length;
            t += 1;
        } else if let Some((after, from)) = star {
            // The last star takes one more byte.
            star = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Bytes of the pattern's first sign, if it stands for `byte`.
fn matches_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => {
            let end = set.iter().position(|&sign| sign == b']')?;
            in_set(&set[..end], byte).then_some(end + 2)
        }
        [sign, ..] => (*sign == byte).then_some(1),
    }
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    loop {
        set = match set {
            [] => return false,
            [from, b'-', to, rest @ ..] if (*from..=*to).contains(&byte) || rest.is_empty() => {
                return (*from..=*to).contains(&byte);
            }
            [_, b'-', _, rest @ ..] => rest,
            [sign, ..] if *sign == byte => return true,
            [_, rest @ ..] => rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::matches;

    #[test]
    fn aliases_of_real_modules_match_their_devices() {
        let ahci = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
        assert!(matches("pci:v*d*sv*sd*bc01sc06i01*", ahci));
        assert!(matches("pci:v00008086d00002922sv*sd*bc*sc*i*", ahci));
        assert!(!matches("pci:v*d*sv*sd*bc01sc08i02*", ahci));
        let stick = "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00";
        assert!(matches("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", stick));
        assert!(matches(
            "usb:v46F4p0001d00[0-9]*dc*dsc*dp*ic*isc*ip*in*",
            stick
        ));
        assert!(!matches(
            "usb:v46F4p0001d00[1-9a]0*dc*dsc*dp*ic*isc*ip*in*",
            stick
        ));
        assert!(matches("scsi:t-0x05*", "scsi:t-0x05"));
        assert!(!matches("scsi:t-0x05", "scsi:t-0x051"));
    }

    proptest! {
        #[test]
        fn no_pattern_panics_and_a_plain_text_matches_itself(
            pattern in "[ab*?\\[\\]-]{0,20}", text in "[ab]{0,20}",
        ) {
            let _ = matches(&pattern, &text);
            prop_assert!(matches(&text, &text));
            let around = format!("*{text}*");
            prop_assert!(matches(&around, &text));
        }
    }
}
