//! The words of a kernel command line that may be changed in a finished image.

use super::EfiError;

/// What `with_arguments` replaces. Anything else, the root hash above all, is
/// the build's word.
const REPLACED: [&str; 3] = ["surplus.site=", "surplus.ca=", "surplus.root="];

/// `line` with its replaceable words taken out and `arguments` at its end.
pub(super) fn replaced(line: &str, arguments: &str) -> Result<String, EfiError> {
    let arguments: Vec<&str> = arguments.split_ascii_whitespace().collect();
    if let Some(word) = arguments.iter().find(|word| !may_stand(word)) {
        return Err(EfiError::Argument {
            word: (*word).to_owned(),
        });
    }
    let kept = line.split(' ').filter(|word| !is_replaced(word));
    Ok(kept
        .filter(|word| !word.is_empty())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" "))
}

/// The value of the first word of this kind.
pub(super) fn value<'a>(line: &'a str, word: &'a str) -> Option<&'a str> {
    super::values(line, word).next()
}

fn is_replaced(word: &str) -> bool {
    REPLACED.iter().any(|kind| word.starts_with(kind))
}

/// Quotes would reach over to the next word in the kernel's parser.
fn may_stand(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    is_replaced(word) && word.bytes().all(plain)
}
