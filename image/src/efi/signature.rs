//! Who signed, as the certificate table says.
//!
//! Format: "Windows Authenticode Portable Executable Signature Format": entries
//! of length, revision, type and a PKCS #7 `SignedData`, each at a multiple of
//! eight bytes.

use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use der::{Decode as _, SliceReader};

/// Length, revision and type of an entry.
const HEADER: usize = 8;
const PKCS_SIGNED_DATA: [u8; 2] = [2, 0];

/// The signers' names, entry by entry.
pub(super) fn signers(mut table: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while table.len() > HEADER {
        let length = u32::from_le_bytes([table[0], table[1], table[2], table[3]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length <= HEADER || length > table.len() {
            names.push("nobody that can be read".to_owned());
            break;
        }
        if table[6..HEADER] == PKCS_SIGNED_DATA {
            let read = signed_data(&table[HEADER..length]);
            names.extend(read.map_or_else(|| vec!["nobody that can be read".into()], names_in));
        }
        table = &table[length.next_multiple_of(8).min(table.len())..];
    }
    names
}

/// What follows the message is padding.
fn signed_data(bytes: &[u8]) -> Option<SignedData> {
    let content = ContentInfo::decode(&mut SliceReader::new(bytes).ok()?).ok()?;
    content.content.decode_as().ok()
}

fn names_in(data: SignedData) -> Vec<String> {
    let name = |signer: &SignerInfo| match &signer.sid {
        SignerIdentifier::IssuerAndSerialNumber(sid) => {
            let certificates = data.certificates.iter().flat_map(|set| set.0.iter());
            let subject = certificates.filter_map(|choice| match choice {
                CertificateChoices::Certificate(found) => Some(&found.tbs_certificate),
                CertificateChoices::Other(_) => None,
            });
            subject
                .filter(|found| found.serial_number == sid.serial_number)
                .find(|found| found.issuer == sid.issuer)
                .map_or_else(
                    || format!("a certificate issued by {}", sid.issuer),
                    |found| found.subject.to_string(),
                )
        }
        SignerIdentifier::SubjectKeyIdentifier(_) => "a key without a name".to_owned(),
    };
    data.signer_infos.0.iter().map(name).collect()
}
