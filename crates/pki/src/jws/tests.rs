use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::authority::SIGNER_LIFETIME;
use crate::{Authority, CertificateRequest};

struct Signed {
    authority: Authority,
    key: KeyPair,
    text: String,
    now: Timestamp,
}

fn signed() -> Signed {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let authority = Authority::create(now).unwrap();
    let key = KeyPair::generate().unwrap();
    let signer = authority.issue_signer(&key, now).unwrap();
    let text = sign(&key, &[signer], &"run it").unwrap();
    Signed {
        authority,
        key,
        text,
        now,
    }
}

fn verify(signed: &Signed, text: &str) -> Result<String, VerifyError> {
    verify_chained(
        text,
        signed.authority.certificate(),
        signed.now,
        Role::TicketSigner,
    )
}

#[test]
fn a_document_signed_by_the_ticket_signer_is_believed() {
    let signed = signed();
    assert_eq!(verify(&signed, &signed.text).unwrap(), "run it");
    let text: String = verify_with_spki(&signed.text, &signed.key.spki_der()).unwrap();
    assert_eq!(text, "run it");
}

#[test]
fn a_host_cannot_sign_a_ticket() {
    let signed = signed();
    let request = CertificateRequest::create(&signed.key, "a", &[]).unwrap();
    let host = signed
        .authority
        .issue_host(&request, "a", signed.now, SignedDuration::from_hours(1))
        .unwrap();
    let text = sign(&signed.key, &[host], &"run it").unwrap();
    assert!(matches!(
        verify(&signed, &text),
        Err(VerifyError::Role { .. })
    ));
}

#[test]
fn a_signer_of_another_authority_is_refused() {
    let signed = signed();
    let other = Authority::create(signed.now)
        .unwrap()
        .issue_signer(&signed.key, signed.now)
        .unwrap();
    let text = sign(&signed.key, &[other], &"run it").unwrap();
    assert!(matches!(
        verify(&signed, &text),
        Err(VerifyError::Untrusted)
    ));
}

#[test]
fn an_expired_signer_is_refused() {
    let mut signed = signed();
    signed.now = signed.now + SIGNER_LIFETIME + SignedDuration::from_secs(1);
    assert!(matches!(
        verify(&signed, &signed.text),
        Err(VerifyError::Validity { .. })
    ));
}

#[test]
fn a_certificate_without_its_key_proves_nothing() {
    let signed = signed();
    let certificate = signed
        .authority
        .issue_signer(&signed.key, signed.now)
        .unwrap();
    let text = sign(&KeyPair::generate().unwrap(), &[certificate], &"run it").unwrap();
    assert!(matches!(
        verify(&signed, &text),
        Err(VerifyError::Signature)
    ));
}

#[test]
fn a_changed_document_is_refused() {
    let signed = signed();
    let (header, rest) = signed.text.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let other = URL_SAFE_NO_PAD.encode(br#""run more""#);
    let text = format!("{header}.{other}.{signature}");
    assert!(matches!(
        verify(&signed, &text),
        Err(VerifyError::Signature)
    ));
}

#[test]
fn other_algorithms_are_refused() {
    let signed = signed();
    for alg in ["none", "HS256"] {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}"}}"#));
        let text = format!("{header}.e30.");
        assert!(matches!(
            verify(&signed, &text),
            Err(VerifyError::Algorithm(_))
        ));
    }
    assert!(matches!(verify(&signed, "hello"), Err(VerifyError::Form)));
    assert!(matches!(verify(&signed, "a.b.c"), Err(VerifyError::Form)));
    let bare = sign(&signed.key, &[], &"run it").unwrap();
    assert!(matches!(verify(&signed, &bare), Err(VerifyError::NoSigner)));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[A-Za-z0-9_.=-]{0,200}") {
        prop_assert!(verify_with_spki::<String>(&text, &[]).is_err());
    }
}
