use super::*;
use crate::signing::{SignError, make_keys};
use crate::testing::{kernel, line, program};
use crate::{Outcome, efi::EfiError, verify_efi};

struct Bench {
    place: tempfile::TempDir,
    input: std::path::PathBuf,
    output: std::path::PathBuf,
}

impl Bench {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let [input, output] = ["in.efi", "out.efi"].map(|name| place.path().join(name));
        fs::write(&input, kernel(&line(), efi::ROOM)).unwrap();
        fs::write(&output, "what was there").unwrap();
        Self {
            place,
            input,
            output,
        }
    }

    fn keys(&self, name: &str) -> Signer {
        make_keys(&self.place.path().join(name), name, &program)
            .expect("needs `apt install openssl`")
            .signer()
    }

    fn customize(&self, signer: Option<&Signer>) -> Result<CustomizedKernel, CustomizeError> {
        customize_kernel(&address(), signer, &self.input, &self.output, &program)
    }

    /// A customise that must fail, with the output as it was and nothing new.
    fn refused(&self, address: &SiteAddress, signer: Option<&Signer>) -> CustomizeError {
        let count = || fs::read_dir(self.place.path()).unwrap().count();
        let before = (fs::read(&self.output).ok(), count());
        let error = customize_kernel(address, signer, &self.input, &self.output, &program);
        assert_eq!((fs::read(&self.output).ok(), count()), before);
        error.unwrap_err()
    }
}

/// As the program prints it.
fn said(error: CustomizeError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn address() -> SiteAddress {
    SiteAddress {
        site: "https://boot.example.net:8444/site.toml".to_owned(),
        ca: format!("sha256:{}", "0a".repeat(32)),
        roots: vec!["http://boot.example.net:8080/root.img".to_owned()],
    }
}

#[test]
fn address_and_pin_are_on_the_command_line_of_the_copy_alone() {
    let bench = Bench::new();
    let before = fs::read(&bench.input).unwrap();
    let done = bench.customize(None).unwrap();
    let expected = format!(
        "{} surplus.site={} surplus.ca={} surplus.root={}",
        line(),
        address().site,
        address().ca,
        address().roots[0]
    );
    assert_eq!(done.command_line, expected);
    assert!(done.signers.is_empty() && !done.unsigned);
    let after = fs::read(&bench.output).unwrap();
    assert_eq!(efi::command_line(&after).unwrap(), expected);
    assert!(fs::read(&bench.input).unwrap() == before);
}

#[test]
fn a_signed_image_is_altered_only_to_be_signed_anew() {
    let bench = Bench::new();
    let (old, new) = (bench.keys("old"), bench.keys("new"));
    let signed = signing::sign(&fs::read(&bench.input).unwrap(), &old, &program)
        .expect("needs `apt install sbsigntool`");
    fs::write(&bench.input, signed).unwrap();
    assert!(matches!(
        bench.refused(&address(), None),
        CustomizeError::Kernel {
            source: EfiError::Signed,
            ..
        }
    ));
    let done = bench.customize(Some(&new)).unwrap();
    assert!(done.unsigned);
    assert_eq!(done.signers, ["CN=new boot key"]);

    let outcome = |certificate: Option<&Path>| {
        let mut checks = verify_efi(&bench.output, certificate, &program).unwrap();
        checks.pop().unwrap().outcome
    };
    assert!(matches!(outcome(Some(&new.certificate)), Outcome::Good(_)));
    assert!(matches!(outcome(Some(&old.certificate)), Outcome::Bad(_)));
    assert!(matches!(outcome(None), Outcome::Skipped(_)));
}

#[test]
fn a_key_without_its_certificate_leaves_the_output_as_it_was() {
    let bench = Bench::new();
    let mut signer = bench.keys("one");
    signer.certificate = bench.keys("two").certificate;
    assert!(matches!(
        bench.refused(&address(), Some(&signer)),
        CustomizeError::Sign(SignError::Mismatch { .. })
    ));
}

#[test]
fn addresses_that_a_host_could_not_use_or_that_hold_a_secret_are_refused() {
    let bench = Bench::new();
    let with = |change: fn(&mut SiteAddress)| {
        let mut address = address();
        change(&mut address);
        said(bench.refused(&address, None))
    };
    assert!(with(|a| a.site = "http://a/site.toml".into()).contains("https://"));
    let text = with(|a| a.site = "https://u:s3cret@a/site.toml".into());
    assert!(!text.contains("s3cret"), "{text}");
    assert!(with(|a| a.site = "https://a".into()).contains("no file on it"));
    assert!(with(|a| a.site = "https://a/b c".into()).contains("cannot stand"));
    assert!(with(|a| a.ca = "sha256:0a".into()).contains("64 hexadecimal"));
    for root in ["https://a/root.img", "http://a", "http://u:p@a/root.img"] {
        let mut wrong = address();
        wrong.roots = vec![root.to_owned()];
        let text = bench.refused(&wrong, None).to_string();
        assert!(text.contains("fetch the root image"), "{text}");
    }
}

#[test]
fn too_long_an_address_a_foreign_program_and_one_file_for_both_are_refused() {
    let bench = Bench::new();
    let mut long = address();
    long.roots[0].push_str(&"x".repeat(efi::ROOM));
    let text = said(bench.refused(&long, None));
    assert!(text.contains("has room for 1536"), "{text}");
    let same = customize_kernel(&address(), None, &bench.input, &bench.input, &program);
    assert!(matches!(same, Err(CustomizeError::SameFile { .. })));
    fs::write(&bench.input, kernel("root=/dev/sda1", 100)).unwrap();
    let text = said(bench.refused(&address(), None));
    assert!(text.contains("not one of Surplus"), "{text}");
}
