use super::*;
use crate::efi;
use crate::testing::{kernel, line, program};

struct Bench {
    place: tempfile::TempDir,
    ours: Signer,
}

impl Bench {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let ours = make_keys(&place.path().join("ours"), "Test", &program)
            .expect("needs `apt install openssl`")
            .signer();
        Self { place, ours }
    }

    fn foreign(&self) -> Signer {
        make_keys(&self.place.path().join("foreign"), "Stranger", &program)
            .unwrap()
            .signer()
    }

    fn checked(&self, bytes: &[u8], signer: &Signer) -> Result<(), String> {
        let image = self.place.path().join("image.efi");
        fs::write(&image, bytes).unwrap();
        check(&image, &signer.certificate, &program).unwrap()
    }
}

fn image() -> Vec<u8> {
    kernel(&line(), efi::ROOM)
}

#[test]
fn a_signed_image_names_its_signer_and_an_altered_or_foreign_one_is_found_out() {
    let bench = Bench::new();
    let signed = sign(&image(), &bench.ours, &program).expect("needs `apt install sbsigntool`");
    assert_eq!(efi::signers(&signed).unwrap(), ["CN=Test boot key"]);
    assert_eq!(efi::command_line(&signed).unwrap(), line());
    bench.checked(&signed, &bench.ours).unwrap();

    bench.checked(&signed, &bench.foreign()).unwrap_err();
    bench.checked(&image(), &bench.ours).unwrap_err();
    for name in [".cmdline", ".linux"] {
        let mut altered = signed.clone();
        altered[efi::section(&signed, name).unwrap().start + 5] ^= 1;
        bench.checked(&altered, &bench.ours).unwrap_err();
    }
    let back = efi::unsigned(signed).unwrap();
    bench
        .checked(&sign(&back, &bench.ours, &program).unwrap(), &bench.ours)
        .unwrap();
}

#[test]
fn a_key_of_another_certificate_and_files_that_are_none_are_named() {
    let bench = Bench::new();
    let refused = |key: &Path, certificate: &Path| {
        let signer = Signer {
            key: key.to_owned(),
            certificate: certificate.to_owned(),
        };
        sign(&image(), &signer, &program).unwrap_err()
    };
    let (ours, foreign) = (&bench.ours, bench.foreign());
    assert!(matches!(
        refused(&foreign.key, &ours.certificate),
        SignError::Mismatch { .. }
    ));
    assert!(matches!(
        refused(&ours.certificate, &ours.certificate),
        SignError::Key { .. }
    ));
    assert!(matches!(
        refused(&ours.key, &ours.key),
        SignError::Certificate { .. }
    ));
    assert!(matches!(
        refused(Path::new("/nonexistent"), &ours.certificate),
        SignError::Read { .. }
    ));
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let bench = Bench::new();
    let missing = |_: &str| Command::new("/nonexistent/sbsign");
    let error = sign(&image(), &bench.ours, &missing).unwrap_err();
    assert!(
        error.to_string().contains("apt install sbsigntool"),
        "{error}"
    );
}

#[test]
fn made_keys_are_for_their_owner_alone_and_never_written_over() {
    use std::os::unix::fs::PermissionsExt as _;

    let bench = Bench::new();
    let mode = fs::metadata(&bench.ours.key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = fs::read(&bench.ours.key).unwrap();
    let again = make_keys(&bench.place.path().join("ours"), "Test", &program);
    assert!(matches!(again, Err(KeyError::Exists { .. })));
    assert_eq!(fs::read(&bench.ours.key).unwrap(), before);
}
