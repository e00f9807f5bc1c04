//! Files that a person gives: SSH keys, user data, secrets, image headers.
//!
//! What always holds: a private key or a compressed image is refused here,
//! before anything leaves the machine.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use surplus_protocol::lease::ImageFormat;

use crate::failure::Failure;

/// Why a given file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadInput {
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not text", .path.display())]
    NotText { path: PathBuf },
    #[error("{} is a private key, which stays where it is", .path.display())]
    PrivateKey { path: PathBuf },
    #[error("{} holds no public key in OpenSSH's format (line {line} is none)", .path.display())]
    NoPublicKey { path: PathBuf, line: usize },
    #[error("{} holds no secret, or more than one word", .path.display())]
    NoSecret { path: PathBuf },
    #[error("{} holds no line that says something", .path.display())]
    NoLines { path: PathBuf },
    #[error("{} is empty", .path.display())]
    Empty { path: PathBuf },
    #[error("{} is {what}, not a disk", .path.display())]
    Packed {
        path: PathBuf,
        what: &'static str,
        unpack: &'static str,
    },
    #[error("{} is {found} by its content, not {asked}", .path.display())]
    Unlike {
        path: PathBuf,
        asked: ImageFormat,
        found: ImageFormat,
    },
}

impl From<BadInput> for Failure {
    fn from(error: BadInput) -> Self {
        let next = match &error {
            BadInput::Unreadable { .. } => "check the path and its permissions".to_owned(),
            BadInput::NotText { .. } => "give a file in UTF-8".to_owned(),
            BadInput::PrivateKey { path } => {
                format!("give the public one, likely {}.pub", path.display())
            }
            BadInput::NoPublicKey { .. } => "give a .pub file as ssh-keygen writes it".to_owned(),
            BadInput::NoSecret { .. } => "the file holds the secret alone, on one line".to_owned(),
            BadInput::NoLines { .. } => "write one on each line".to_owned(),
            BadInput::Empty { .. } => "give a disk image that holds something".to_owned(),
            BadInput::Packed { unpack, .. } => (*unpack).to_owned(),
            BadInput::Unlike { .. } => {
                "leave --format away, then the file itself says what it is".to_owned()
            }
        };
        Self::new(error.to_string(), next)
    }
}

/// A text file, or standard input for `-`.
pub(crate) fn text(path: &Path) -> Result<String, BadInput> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|source| BadInput::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|_| BadInput::NotText {
        path: path.to_owned(),
    })
}

/// The one word that a file holds.
pub(crate) fn secret(path: &Path) -> Result<SecretString, BadInput> {
    let text = text(path)?;
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(SecretString::from(word.to_owned())),
        _ => Err(BadInput::NoSecret {
            path: path.to_owned(),
        }),
    }
}

/// The words of a file, one a line; empty lines and those after `#` are left
/// out.
pub(crate) fn lines(path: &Path) -> Result<Vec<String>, BadInput> {
    let text = text(path)?;
    let lines = text.lines().map(str::trim);
    let said = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let words: Vec<String> = said.map(str::to_owned).collect();
    if words.is_empty() {
        return Err(BadInput::NoLines {
            path: path.to_owned(),
        });
    }
    Ok(words)
}

/// The public keys of a file, a line each.
pub(crate) fn public_keys(path: &Path) -> Result<Vec<String>, BadInput> {
    let text = text(path)?;
    if text.contains("PRIVATE KEY-----") {
        return Err(BadInput::PrivateKey {
            path: path.to_owned(),
        });
    }
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let kind = line.split_whitespace().next().unwrap_or_default();
        let known = ["ssh-", "ecdsa-", "sk-"]
            .iter()
            .any(|prefix| kind.starts_with(prefix));
        if !known || line.split_whitespace().count() < 2 {
            return Err(BadInput::NoPublicKey {
                path: path.to_owned(),
                line: index + 1,
            });
        }
        keys.push(line.to_owned());
    }
    if keys.is_empty() {
        Err(BadInput::NoPublicKey {
            path: path.to_owned(),
            line: 1,
        })
    } else {
        Ok(keys)
    }
}

/// What an image says itself that it is; `asked` is the format that the person
/// named.
pub(crate) fn image_format(
    path: &Path,
    file: &mut (impl io::Read + io::Seek),
    asked: Option<ImageFormat>,
) -> Result<ImageFormat, BadInput> {
    const PACKED: [(&[u8], &str, &str); 5] = [
        (
            b"\x1f\x8b",
            "compressed by gzip",
            "unpack it with gunzip first",
        ),
        (
            b"\xfd7zXZ\0",
            "compressed by xz",
            "unpack it with unxz first",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            "compressed by zstd",
            "unpack it with unzstd first",
        ),
        (
            b"BZh",
            "compressed by bzip2",
            "unpack it with bunzip2 first",
        ),
        (b"PK\x03\x04", "a ZIP archive", "unpack it first"),
    ];
    let unreadable = |source| BadInput::Unreadable {
        path: path.to_owned(),
        source,
    };
    let found = surplus_disk_image::recognise(file).map_err(unreadable)?;
    let mut head = Vec::new();
    file.rewind().map_err(unreadable)?;
    file.take(16).read_to_end(&mut head).map_err(unreadable)?;
    if head.is_empty() {
        return Err(BadInput::Empty {
            path: path.to_owned(),
        });
    }
    match asked {
        Some(asked) if asked != found => {
            return Err(BadInput::Unlike {
                path: path.to_owned(),
                asked,
                found,
            });
        }
        // Whoever says that it is raw means its bytes.
        Some(asked) => return Ok(asked),
        None if found != ImageFormat::Raw => return Ok(found),
        None => {}
    }
    match PACKED.iter().find(|(magic, ..)| head.starts_with(magic)) {
        Some((_, what, unpack)) => Err(BadInput::Packed {
            path: path.to_owned(),
            what,
            unpack,
        }),
        None => Ok(ImageFormat::Raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn a_private_key_never_leaves() {
        let private = file("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n");
        assert!(matches!(
            public_keys(private.path()),
            Err(BadInput::PrivateKey { .. })
        ));
    }

    #[test]
    fn several_public_keys_are_taken_and_other_lines_refused() {
        let two = file("# mine\nssh-ed25519 AAAA a@b\n\necdsa-sha2-nistp256 BBBB\n");
        assert_eq!(
            public_keys(two.path()).unwrap(),
            ["ssh-ed25519 AAAA a@b", "ecdsa-sha2-nistp256 BBBB"]
        );
        let odd = file("ssh-ed25519 AAAA\nhello\n");
        assert!(matches!(
            public_keys(odd.path()),
            Err(BadInput::NoPublicKey { line: 2, .. })
        ));
        assert!(public_keys(file("").path()).is_err());
    }

    #[test]
    fn a_list_is_read_line_by_line() {
        let list = file("# rack 7\n B5RJ12 \r\n\nB5RJ13");
        assert_eq!(lines(list.path()).unwrap(), ["B5RJ12", "B5RJ13"]);
        assert!(lines(file("# nothing\n").path()).is_err());
    }

    #[test]
    fn a_secret_is_one_word() {
        use secrecy::ExposeSecret as _;
        assert_eq!(secret(file("abc\n").path()).unwrap().expose_secret(), "abc");
        assert!(secret(file("a b").path()).is_err());
        assert!(secret(file("\n").path()).is_err());
    }

    #[test]
    fn the_format_is_read_from_the_file() {
        let format =
            |bytes: &[u8], asked| image_format(Path::new("x"), &mut io::Cursor::new(bytes), asked);
        for (bytes, found) in [
            (&b"QFI\xfb\0\0"[..], ImageFormat::Qcow2),
            (b"KDMV", ImageFormat::Vmdk),
            (b"vhdxfile", ImageFormat::Vhdx),
            (b"conectix", ImageFormat::Vhd),
            (b"\xebc\x90", ImageFormat::Raw),
        ] {
            assert_eq!(format(bytes, None).unwrap(), found);
            assert_eq!(format(bytes, Some(found)).unwrap(), found);
        }
        let error = format(b"KDMV", Some(ImageFormat::Raw)).unwrap_err();
        assert_eq!(error.to_string(), "x is vmdk by its content, not raw");
        assert!(format(b"\xebc\x90", Some(ImageFormat::Qcow2)).is_err());
        assert!(format(b"\xfd7zXZ\0", None).is_err());
        assert_eq!(
            format(b"\x1f\x8b", Some(ImageFormat::Raw)).unwrap(),
            ImageFormat::Raw
        );
        assert!(format(b"", None).is_err());
    }
}
