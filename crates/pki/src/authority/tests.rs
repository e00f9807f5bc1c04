use super::*;
use crate::Role;

const HOST: &str = "3b0c5a52-0f50-4a8a-9d0e-0d1f0e0f7a11";

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

#[test]
fn a_saved_authority_is_read_back_and_only_its_owner_can_read_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(now()).unwrap();
    assert!(!Authority::exists(dir.path()));
    authority.save(dir.path()).unwrap();
    let again = Authority::load(dir.path()).unwrap();
    assert_eq!(again.certificate(), authority.certificate());
    let mode = fs::metadata(dir.path().join("ca.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(
        authority.save(dir.path()),
        Err(SaveError::Exists { .. })
    ));
}

#[test]
fn a_foreign_key_beside_the_certificate_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    Authority::create(now()).unwrap().save(dir.path()).unwrap();
    let other = KeyPair::generate().unwrap();
    fs::write(dir.path().join("ca.key"), other.to_pem().expose_secret()).unwrap();
    assert!(matches!(
        Authority::load(dir.path()),
        Err(LoadError::Mismatch { .. })
    ));
}

#[test]
fn a_host_certificate_takes_only_the_key_from_the_request() {
    let authority = Authority::create(now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let asked = ["evil.example".to_owned()];
    let request = CertificateRequest::create(&key, "marketplace", &asked).unwrap();
    let certificate = authority
        .issue_host(&request, HOST, now(), HOST_LIFETIME)
        .unwrap();
    assert_eq!(certificate.common_name(), Some(HOST));
    assert_eq!(certificate.dns_names(), [crate::host_dns_name(HOST)]);
    assert_eq!(certificate.key_fingerprint(), key.fingerprint());
    assert_eq!(certificate.role(), Some(Role::Host));
    assert!(!certificate.is_authority());
    assert_eq!(certificate.not_after(), now() + HOST_LIFETIME);
}

#[test]
fn two_certificates_for_one_key_have_different_serials() {
    let authority = Authority::create(now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let first = authority.issue_signer(&key, now()).unwrap();
    let second = authority.issue_signer(&key, now()).unwrap();
    assert_ne!(first.serial_hex(), second.serial_hex());
    assert_eq!(first.role(), Some(Role::TicketSigner));
}

#[test]
fn issuers_are_told_apart() {
    let authority = Authority::create(now()).unwrap();
    let other = Authority::create(now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = authority.issue_server(&names, &key, now()).unwrap();
    assert!(server.is_issued_by(authority.certificate()));
    assert!(!server.is_issued_by(other.certificate()));
    assert!(!server.is_issued_by(&server));
    assert_eq!(server.role(), Some(Role::Server));
    let bad = ["not a name".to_owned()];
    assert!(matches!(
        authority.issue_server(&bad, &key, now()),
        Err(IssueError::Name { .. })
    ));
}

#[test]
fn a_renewal_has_the_same_identity_and_any_other_name_has_not() {
    let authority = Authority::create(now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateRequest::create(&key, "first", &[]).unwrap();
    let certificate = authority
        .issue_host(&request, HOST, now(), HOST_LIFETIME)
        .unwrap();
    let new_key = KeyPair::generate().unwrap();
    assert!(
        CertificateRequest::renew(&new_key, &certificate)
            .unwrap()
            .same_identity(&certificate)
    );
    let dns = vec![crate::host_dns_name(HOST)];
    let twice = vec![dns[0].clone(), "b.example".to_owned()];
    for (name, dns) in [("other", &dns), (HOST, &vec![]), (HOST, &twice)] {
        let request = CertificateRequest::create(&key, name, dns).unwrap();
        assert!(!request.same_identity(&certificate), "{name} {dns:?}");
    }
}
