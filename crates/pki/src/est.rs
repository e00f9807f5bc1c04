//! EST's formats (RFC 7030): requests as base64 of PKCS#10, answers as base64
//! of a certs-only PKCS#7.
//!
//! Strict in what it sends (one unwrapped line, which every client reads),
//! tolerant in what it takes: base64 with any white space, PEM, raw DER.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cms::cert::CertificateChoices;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{CertificateSet, EncapsulatedContentInfo, SignedData, SignerInfos};
use der::asn1::{ObjectIdentifier, SetOfVec};
use der::{Any, Decode as _, Encode as _};

use crate::certificate::{Certificate, CertificateError};
use crate::request::{CertificateRequest, RequestError};

/// Media type of a request.
pub const REQUEST_TYPE: &str = "application/pkcs10";

/// Media type of an answer to an enrolment.
pub const ENROLLED_TYPE: &str = "application/pkcs7-mime; smime-type=certs-only";

/// Media type of the answer to `cacerts`.
pub const CA_CERTIFICATES_TYPE: &str = "application/pkcs7-mime";

const ID_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ID_SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

/// Why certificates could not be wrapped.
#[derive(Debug, thiserror::Error)]
#[error("cannot wrap certificates as PKCS#7")]
pub struct EncodeError(#[from] der::Error);

/// Why a body is not a request or an answer.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the body is empty")]
    Empty,
    #[error("the body is neither base64, PEM nor DER")]
    Encoding,
    #[error("the body is not a certs-only PKCS#7")]
    Pkcs7(#[source] der::Error),
    #[error("the body is a PKCS#7 of another kind than signed data")]
    NotSignedData,
    #[error("the PKCS#7 holds something that is not a certificate")]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// `certificates` as a certs-only PKCS#7, base64 in one line.
pub fn encode_certificates(certificates: &[Certificate]) -> Result<String, EncodeError> {
    let choices = certificates
        .iter()
        .map(|certificate| {
            x509_cert::Certificate::from_der(certificate.der()).map(CertificateChoices::Certificate)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let signed = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::new(),
        encap_content_info: EncapsulatedContentInfo {
            econtent_type: ID_DATA,
            econtent: None,
        },
        certificates: Some(CertificateSet(SetOfVec::try_from(choices)?)),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::new()),
    };
    let content = ContentInfo {
        content_type: ID_SIGNED_DATA,
        content: Any::encode_from(&signed)?,
    };
    Ok(STANDARD.encode(content.to_der()?))
}

/// The certificates of an answer. PKCS#7 holds a set: find your own by its key.
pub fn decode_certificates(body: &[u8]) -> Result<Vec<Certificate>, DecodeError> {
    let content = ContentInfo::from_der(&binary(body)?).map_err(DecodeError::Pkcs7)?;
    if content.content_type != ID_SIGNED_DATA {
        return Err(DecodeError::NotSignedData);
    }
    let signed: SignedData = content.content.decode_as().map_err(DecodeError::Pkcs7)?;
    let mut certificates = Vec::new();
    for choice in signed.certificates.iter().flat_map(|set| set.0.iter()) {
        if let CertificateChoices::Certificate(certificate) = choice {
            let der = certificate.to_der().map_err(DecodeError::Pkcs7)?;
            certificates.push(Certificate::from_der(&der)?);
        }
    }
    Ok(certificates)
}

/// `request` as EST sends it: base64 in one line.
pub fn encode_request(request: &CertificateRequest) -> String {
    STANDARD.encode(request.der())
}

/// The request in a body, in whichever of the usual forms a client sends it.
pub fn decode_request(body: &[u8]) -> Result<CertificateRequest, DecodeError> {
    Ok(CertificateRequest::from_der(&binary(body)?)?)
}

/// The DER in `body`, which is DER, PEM or base64 with any white space.
fn binary(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    const DER_SEQUENCE: u8 = 0x30;
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(DecodeError::Empty),
        // The digit 0 is 0x30 too; base64 of a DER sequence starts with M.
        Some(_) if body[0] == DER_SEQUENCE => return Ok(body.to_vec()),
        Some(b'-') => {
            let block = pem::parse(body).map_err(|_| DecodeError::Encoding)?;
            return Ok(block.into_contents());
        }
        Some(_) => {}
    }
    let packed: Vec<u8> = body
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    STANDARD.decode(packed).map_err(|_| DecodeError::Encoding)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::{Authority, KeyPair};

    #[test]
    fn certificates_survive_the_round_trip_in_one_line() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let authority = Authority::create(now).unwrap();
        let leaf = authority
            .issue_signer(&KeyPair::generate().unwrap(), now)
            .unwrap();
        let sent = [leaf.clone(), authority.certificate().clone()];
        let text = encode_certificates(&sent).unwrap();
        assert!(!text.contains(char::is_whitespace));
        let received = decode_certificates(text.as_bytes()).unwrap();
        assert_eq!(received.len(), 2);
        assert!(
            sent.iter()
                .all(|certificate| received.contains(certificate))
        );
    }

    #[test]
    fn a_request_is_read_in_each_of_the_usual_forms() {
        let request = CertificateRequest::create(&KeyPair::generate().unwrap(), "a", &[]).unwrap();
        let line = encode_request(&request);
        let wrapped: String = line
            .as_bytes()
            .chunks(64)
            .map(|chunk| format!("{}\r\n", String::from_utf8_lossy(chunk)))
            .collect();
        let pem = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", request.der()));
        for body in [
            line.as_bytes(),
            wrapped.as_bytes(),
            pem.as_bytes(),
            request.der(),
        ] {
            assert_eq!(decode_request(body).unwrap().der(), request.der());
        }
    }

    #[test]
    fn other_bodies_are_refused() {
        assert!(matches!(decode_request(b" \n"), Err(DecodeError::Empty)));
        assert!(matches!(decode_request(b"{}"), Err(DecodeError::Encoding)));
        assert!(matches!(
            decode_request(b"MAA="),
            Err(DecodeError::Request(RequestError::NotPkcs10))
        ));
        assert!(matches!(
            decode_certificates(b"MAA="),
            Err(DecodeError::Pkcs7(_))
        ));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_request(&body);
            let _ = decode_certificates(&body);
        }

        #[test]
        fn no_changed_answer_makes_it_panic(at in 0_usize..400, to in any::<u8>()) {
            let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let authority = Authority::create(now).unwrap();
            let text = encode_certificates(&[authority.certificate().clone()]).unwrap();
            let mut der = STANDARD.decode(text).unwrap();
            let at = at % der.len();
            der[at] = to;
            let _ = decode_certificates(&der);
        }
    }
}
