//! The switch's half of LACP (IEEE 802.1AX): it hears what the host's end of a
//! link says of itself, and answers as a partner that agrees.

use std::time::{Duration, Instant};

/// Where LACP's frames go, and their type.
const SLOW_PROTOCOLS: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x02];
const TYPE: [u8; 2] = [0x88, 0x09];

/// The switch's own identity, and the address that it sends from.
const SYSTEM: [u8; 6] = [0x52, 0x54, 0x00, 0x78, 0xff, 0x00];

/// Actor and partner: type, length, and 18 bytes of information.
const ACTOR: std::ops::Range<usize> = 18..36;
const PARTNER: std::ops::Range<usize> = 38..56;
const LENGTH: usize = 124;

/// Bits of an end's state.
const SHORT_TIMEOUT: u8 = 0x02;
const IN_USE: u8 = 0x08 | 0x10 | 0x20; // synchronisation, collecting, distributing
const AGREES: u8 = 0x01 | SHORT_TIMEOUT | 0x04 | IN_USE; // active, may be aggregated

/// How long an end is believed without a word: three of its periods, of a
/// second or of thirty.
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(90);

/// What links must have in common to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub system: [u8; 6],
    pub key: u16,
}

/// One frame of LACP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pdu {
    actor: [u8; 18],
    partner: [u8; 18],
}

pub(super) fn is_slow_protocol(frame: &[u8]) -> bool {
    frame.get(..6) == Some(&SLOW_PROTOCOLS) && frame.get(12..14) == Some(&TYPE)
}

impl Pdu {
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        // Subtype 1 is LACP; each end's information is a type and 20 bytes.
        let heads = [(14, [1, 1]), (16, [1, 20]), (36, [2, 20])];
        let whole = heads
            .iter()
            .all(|(at, head)| frame.get(*at..at + 2) == Some(head));
        (whole && is_slow_protocol(frame)).then_some(())?;
        Some(Self {
            actor: frame.get(ACTOR)?.try_into().ok()?,
            partner: frame.get(PARTNER)?.try_into().ok()?,
        })
    }

    fn write(&self) -> Vec<u8> {
        let mut frame = vec![0; LENGTH];
        frame[..6].copy_from_slice(&SLOW_PROTOCOLS);
        frame[6..12].copy_from_slice(&SYSTEM);
        frame[12..14].copy_from_slice(&TYPE);
        // Besides both ends there is the collector, which delays nothing.
        for (at, head) in [(14, [1, 1]), (16, [1, 20]), (36, [2, 20]), (56, [3, 16])] {
            frame[at..at + 2].copy_from_slice(&head);
        }
        frame[ACTOR].copy_from_slice(&self.actor);
        frame[PARTNER].copy_from_slice(&self.partner);
        frame
    }

    fn system(end: &[u8; 18]) -> [u8; 6] {
        [end[2], end[3], end[4], end[5], end[6], end[7]]
    }

    fn bundle(&self) -> Bundle {
        Bundle {
            system: Self::system(&self.actor),
            key: u16::from_be_bytes([self.actor[8], self.actor[9]]),
        }
    }

    fn state(&self) -> u8 {
        self.actor[14]
    }

    /// Whether the host uses the link with this switch at its far end.
    fn in_use(&self) -> bool {
        self.state() & IN_USE == IN_USE && Self::system(&self.partner) == SYSTEM
    }
}

/// What is known of the host's end of one link.
#[derive(Debug, Default)]
pub(super) struct Partner {
    heard: Option<(Pdu, Instant)>,
}

impl Partner {
    /// Takes a word of the host's on the link `number`; returns the answer.
    pub(super) fn hear(&mut self, pdu: &Pdu, number: usize, now: Instant) -> Vec<u8> {
        self.heard = Some((pdu.clone(), now));
        let mut actor = [0; 18];
        actor[2..8].copy_from_slice(&SYSTEM);
        // Key 1 for all links of the bundle, a number for each port.
        actor[9] = 1;
        actor[13] = u8::try_from(number + 1).unwrap_or(u8::MAX);
        actor[14] = AGREES;
        Pdu {
            actor,
            partner: pdu.actor,
        }
        .write()
    }

    /// The bundle that the link is in.
    pub(super) fn bundle(&self, now: Instant) -> Option<Bundle> {
        let (pdu, heard) = self.heard.as_ref()?;
        let patience = match pdu.state() & SHORT_TIMEOUT {
            0 => LONG,
            _ => SHORT,
        };
        let fresh = now.duration_since(*heard) < patience;
        (fresh && pdu.in_use()).then(|| pdu.bundle())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host says of itself before it knows the switch, or after.
    fn host(state: u8, partner: [u8; 18]) -> Pdu {
        let mut actor = [0; 18];
        actor[2..8].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        actor[9] = 15;
        actor[14] = state;
        Pdu { actor, partner }
    }

    #[test]
    fn an_answer_is_lacp_that_names_both_ends() {
        let pdu = host(0x07, [0; 18]);
        let answer = Partner::default().hear(&pdu, 1, Instant::now());
        assert_eq!(answer.len(), LENGTH);
        let answer = Pdu::parse(&answer).unwrap();
        assert_eq!(answer.partner, pdu.actor);
        assert_eq!(Pdu::system(&answer.actor), SYSTEM);
        assert_eq!(Pdu::parse(&[0; 60]), None);
    }

    #[test]
    fn a_link_is_in_the_bundle_once_the_host_uses_it_with_us_and_while_it_says_so() {
        let now = Instant::now();
        let mut partner = Partner::default();
        let answer = Pdu::parse(&partner.hear(&host(0x07, [0; 18]), 0, now)).unwrap();
        assert_eq!(partner.bundle(now), None);
        partner.hear(&host(0x3f, [0; 18]), 0, now);
        assert_eq!(partner.bundle(now), None, "with another switch");
        let agreed = host(0x3f, answer.actor);
        partner.hear(&agreed, 0, now);
        assert_eq!(partner.bundle(now).map(|bundle| bundle.key), Some(15));
        assert_eq!(partner.bundle(now + SHORT), None);
    }
}
