//! The name of an attack, within its frame.

const BEGIN: &[u8] = b"<surplus-attack ";
const END: u8 = b'>';

/// What a frame with this attack carries.
pub fn of(name: &str) -> Vec<u8> {
    let mut mark = BEGIN.to_vec();
    mark.extend(name.as_bytes());
    mark.push(END);
    mark
}

/// The name that a frame carries, wherever in it.
pub fn find(frame: &[u8]) -> Option<&str> {
    let begin = frame.windows(BEGIN.len()).position(|it| it == BEGIN)?;
    let rest = frame.get(begin + BEGIN.len()..)?;
    let end = rest.iter().position(|byte| *byte == END)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}
