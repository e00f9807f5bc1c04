//! What kind of client asks, told by its class options.

use super::request::{Request, code};

/// Who can be told where to boot from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A network boot ROM; it takes a first stage by TFTP.
    Rom(Firmware),
    /// UEFI HTTP boot.
    Http,
    /// iPXE, whatever it runs on; it takes a script.
    Ipxe(Firmware),
    /// Our initramfs.
    Init,
    /// It asks to boot, and we have nothing that it could run: its
    /// architecture (RFC 4578 and the IANA register).
    Other(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Firmware {
    Bios,
    /// UEFI on x86-64.
    Uefi,
}

/// What a PXE client calls itself, before its architecture.
pub(crate) const PXE: &[u8] = b"PXEClient";
/// The same for UEFI HTTP boot.
pub(crate) const HTTP: &[u8] = b"HTTPClient";
/// The vendor class of our initramfs.
pub(crate) const INIT: &[u8] = b"surplus-init";
const IPXE: &[u8] = b"iPXE";

impl Client {
    /// `None`: it does not ask to boot.
    pub fn of(request: &Request) -> Option<Self> {
        let class = request.option(code::VENDOR_CLASS)?;
        if class == INIT {
            return Some(Self::Init);
        }
        let architecture = request
            .option(code::ARCHITECTURE)
            .and_then(|bytes| bytes.first_chunk())
            .map(|bytes| u16::from_be_bytes(*bytes))
            .or_else(|| architecture_in(class));
        if class.starts_with(HTTP) {
            return Some(match architecture {
                Some(16) => Self::Http,
                other => Self::Other(other.unwrap_or(u16::MAX)),
            });
        }
        if !class.starts_with(PXE) {
            return None;
        }
        let firmware = match architecture {
            // The oldest ROMs say nothing.
            Some(0) | None => Firmware::Bios,
            Some(7 | 9) => Firmware::Uefi,
            Some(other) => return Some(Self::Other(other)),
        };
        let is_ipxe = request.option(code::USER_CLASS).is_some_and(names_ipxe);
        Some(if is_ipxe {
            Self::Ipxe(firmware)
        } else {
            Self::Rom(firmware)
        })
    }

    /// The class that an answer has to bear for the client to take it.
    pub(crate) fn class(self) -> &'static [u8] {
        match self {
            Self::Rom(_) | Self::Ipxe(_) | Self::Other(_) => PXE,
            Self::Http => HTTP,
            Self::Init => INIT,
        }
    }
}

/// `PXEClient:Arch:00007:UNDI:003016` says it as well.
fn architecture_in(class: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(class).ok()?;
    let mut words = text.split(':');
    words.find(|word| *word == "Arch")?;
    words.next()?.parse().ok()
}

/// iPXE sends the bare word, others lists of counted words (RFC 3004).
fn names_ipxe(class: &[u8]) -> bool {
    if class == IPXE {
        return true;
    }
    let mut rest = class;
    while let Some((&length, after)) = rest.split_first() {
        let Some((word, after)) = after.split_at_checked(usize::from(length)) else {
            return false;
        };
        if word == IPXE {
            return true;
        }
        rest = after;
    }
    false
}
