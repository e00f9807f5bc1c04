use super::*;
use crate::customize;
use crate::testing::{Bench, IN_AREA, IN_KERNEL, IN_ROOT, flip};

/// `SHA256SUMS` as `sha256sum` writes it, for the ISO as it was built.
fn with_sums() -> Bench {
    let bench = Bench::new();
    let sum = sums::of_file(&bench.iso).unwrap();
    fs::write(bench.path(SUMS), format!("{sum}  surplus.iso\n")).unwrap();
    bench
}

fn bad(checks: &[Check]) -> Vec<&str> {
    let bad = checks
        .iter()
        .filter(|check| matches!(check.outcome, Outcome::Bad(_)));
    bad.map(|check| &*check.what).collect()
}

#[test]
fn a_customised_iso_is_as_good_as_the_one_it_was_made_from() {
    let bench = with_sums();
    let out = bench.path("customised.iso");
    customize(&bench.site, &bench.iso, &out).unwrap();
    for iso in [&bench.iso, &out] {
        let checks = verify(iso).unwrap();
        assert!(
            checks
                .iter()
                .all(|check| matches!(check.outcome, Outcome::Good(_))),
            "{checks:?}"
        );
        assert_eq!(checks.len(), 2);
    }
    // In the directory too, under the name that the list has.
    fs::rename(&out, &bench.iso).unwrap();
    assert!(bad(&verify(bench.directory.path()).unwrap()).is_empty());
}

#[test]
fn a_flipped_byte_in_the_root_fails_both_checks() {
    let bench = with_sums();
    flip(&bench.iso, IN_ROOT);
    let checks = verify(&bench.iso).unwrap();
    assert_eq!(bad(&checks), ["surplus.iso", "root image in surplus.iso"]);
    assert!(
        format!("{checks:?}").contains("block 1 of the root image"),
        "{checks:?}"
    );
}

#[test]
fn a_flipped_byte_in_the_kernel_fails_the_checksum() {
    let bench = with_sums();
    flip(&bench.iso, IN_KERNEL);
    assert_eq!(bad(&verify(&bench.iso).unwrap()), ["surplus.iso"]);
    assert_eq!(
        bad(&verify(bench.directory.path()).unwrap()),
        ["surplus.iso"]
    );
}

#[test]
fn a_damaged_site_area_is_no_good_iso() {
    let bench = with_sums();
    flip(&bench.iso, IN_AREA);
    // An empty area's padding is not covered by its own checksum, and the hole
    // hides it from the list: nothing reads it.
    assert!(bad(&verify(&bench.iso).unwrap()).is_empty());
    flip(&bench.iso, IN_AREA - 50);
    assert!(matches!(
        verify(&bench.iso),
        Err(VerifyError::Open(OpenError::Area { .. }))
    ));
}

#[test]
fn without_a_list_the_root_is_checked_and_the_rest_is_said_not_to_be() {
    let bench = Bench::new();
    let checks = verify(&bench.iso).unwrap();
    assert!(matches!(checks[0].outcome, Outcome::Skipped(_)));
    assert!(matches!(checks[1].outcome, Outcome::Good(_)));
}

#[test]
fn a_bare_root_is_checked_against_the_kernel_image_beside_it() {
    let bench = Bench::new();
    let (root, hash) = crate::verity::tests::image(5);
    fs::write(bench.path("root.img"), &root).unwrap();
    fs::write(
        bench.path("surplus.efi"),
        format!("MZ surplus.roothash={hash} quiet"),
    )
    .unwrap();
    let sum = sums::of_file(&bench.path("root.img")).unwrap();
    fs::write(bench.path(SUMS), format!("{sum}  root.img\n")).unwrap();
    assert!(bad(&verify(bench.directory.path()).unwrap()).is_empty());
    flip(&bench.path("root.img"), 4096 * 4);
    assert_eq!(
        bad(&verify(bench.directory.path()).unwrap()),
        ["root.img", "hash tree of root.img"]
    );
}

#[test]
fn a_missing_file_and_a_broken_list_are_told() {
    let bench = with_sums();
    fs::remove_file(&bench.iso).unwrap();
    assert_eq!(
        bad(&verify(bench.directory.path()).unwrap()),
        ["surplus.iso"]
    );
    fs::write(bench.path(SUMS), "nonsense\n").unwrap();
    assert!(matches!(
        verify(bench.directory.path()),
        Err(VerifyError::Sums { .. })
    ));
}
