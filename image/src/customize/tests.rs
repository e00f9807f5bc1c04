use super::*;
use crate::testing::{Bench, IN_AREA, SITE, flip};
use crate::{ShownSite, show};

#[test]
fn a_site_file_is_written_in_place_and_the_input_stays_as_it_was() {
    let bench = Bench::new();
    let before = fs::read(&bench.iso).unwrap();
    let out = bench.path("out.iso");
    let done = customize(&bench.site, &bench.iso, &out).unwrap();
    assert_eq!(
        done,
        Customized {
            replaced: false,
            site_size: SITE.len(),
            has_token: true
        }
    );
    assert!(fs::read(&bench.iso).unwrap() == before);
    let after = fs::read(&out).unwrap();
    let differ = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert!(after.len() == before.len() && differ > 0 && differ < SITE.len() + 64);
    assert_eq!(Iso::open(&out).unwrap().site.unwrap(), SITE.as_bytes());
    assert_eq!(fs::metadata(&out).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_second_customise_replaces_the_first_and_says_so() {
    let bench = Bench::new();
    let [one, two] = ["one.iso", "two.iso"].map(|name| bench.path(name));
    customize(&bench.site, &bench.iso, &one).unwrap();
    let other = SITE
        .replace("hub", "other-hub")
        .replace("token = \"s3cret\"\n", "");
    fs::write(&bench.site, &other).unwrap();
    let done = customize(&bench.site, &one, &two).unwrap();
    assert!(done.replaced && !done.has_token);
    assert_eq!(Iso::open(&two).unwrap().site.unwrap(), other.as_bytes());
}

#[test]
fn what_is_shown_holds_no_secret() {
    let bench = Bench::new();
    let out = bench.path("out.iso");
    customize(&bench.site, &bench.iso, &out).unwrap();
    let shown = show(&out).unwrap();
    let ShownSite::Site(text) = &shown.site else {
        panic!("{shown:?}")
    };
    assert!(text.contains("https://hub:8443") && text.contains("(hidden)"));
    assert!(!format!("{shown:?}").contains("s3cret"));
    assert_eq!(shown.root_hash.as_deref(), Ok(&*bench.hash));
    assert_eq!(shown.made.as_deref(), Some("2025-08-09 00:00:00"));
    assert_eq!(shown.files.len(), 3);
    assert_eq!(show(&bench.iso).unwrap().site, ShownSite::Empty);
}

/// Runs a customise that must fail, with all files as before and none new.
fn refused(bench: &Bench, input: &Path, output: &Path) -> String {
    let names = bench.names();
    let before = fs::read(input).ok();
    let error = customize(&bench.site, input, output).unwrap_err();
    assert_eq!(bench.names(), names);
    assert!(fs::read(input).ok() == before);
    error.to_string()
}

#[test]
fn a_site_file_too_large_is_refused_with_both_sizes() {
    let bench = Bench::new();
    fs::write(
        &bench.site,
        format!("{SITE}# {}\n", "x".repeat(area::CAPACITY)),
    )
    .unwrap();
    let text = refused(&bench, &bench.iso, &bench.path("out.iso"));
    assert!(
        text.contains("holds at most 65472") && text.contains("shorten"),
        "{text}"
    );
}

#[test]
fn a_wrong_site_file_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    fs::write(&bench.site, SITE.replace("token", "tokn")).unwrap();
    let text = refused(&bench, &bench.iso, &bench.path("out.iso"));
    assert!(
        text.contains("marketplace.tokn") && text.contains("did you mean"),
        "{text}"
    );
    assert!(!text.contains("s3cret"));
}

#[test]
fn a_foreign_iso_and_what_is_none_are_told_apart() {
    let bench = Bench::new();
    let foreign = bench.path("foreign.iso");
    let mut bytes = fs::read(&bench.iso).unwrap();
    bytes[16 * 2048 + 40..16 * 2048 + 56].copy_from_slice(b"Debian 13.0 amd6");
    fs::write(&foreign, bytes).unwrap();
    let text = refused(&bench, &foreign, &bench.path("out.iso"));
    assert!(
        text.contains("not one of Surplus") && text.contains("Debian 13.0"),
        "{text}"
    );
    let text = refused(&bench, &bench.site.clone(), &bench.path("out.iso"));
    assert!(text.ends_with("is no ISO image"), "{text}");
}

#[test]
fn a_truncated_iso_is_refused_wherever_it_ends() {
    let bench = Bench::new();
    let whole = fs::read(&bench.iso).unwrap();
    for length in [whole.len() - 1, 60 * 2048, 30 * 2048, 21 * 2048] {
        let cut = bench.path("cut.iso");
        fs::write(&cut, &whole[..length]).unwrap();
        let text = refused(&bench, &cut, &bench.path("out.iso"));
        assert!(
            text.contains("truncated") && text.contains(&length.to_string()),
            "{text}"
        );
    }
}

#[test]
fn a_damaged_area_is_not_written_over() {
    let bench = Bench::new();
    let out = bench.path("out.iso");
    customize(&bench.site, &bench.iso, &out).unwrap();
    flip(&out, IN_AREA);
    let text = refused(&bench, &out, &bench.path("again.iso"));
    assert!(text.contains("checksum is wrong"), "{text}");
    flip(&bench.iso, IN_AREA - 70);
    let text = refused(&bench, &bench.iso, &bench.path("again.iso"));
    assert!(text.contains("no site area"), "{text}");
}

#[test]
fn input_and_output_must_differ_also_by_another_name() {
    let bench = Bench::new();
    let link = bench.path("link.iso");
    std::os::unix::fs::symlink(&bench.iso, &link).unwrap();
    for output in [&bench.iso, &link] {
        let text = refused(&bench, &bench.iso, output);
        assert!(text.contains("input and output at once"), "{text}");
    }
}

#[test]
fn an_output_that_cannot_be_written_leaves_nothing_behind() {
    let bench = Bench::new();
    let text = refused(&bench, &bench.iso, &bench.path("missing/out.iso"));
    assert!(text.starts_with("writing "), "{text}");
    // A directory cannot be replaced by a file: the rename itself fails.
    fs::create_dir(bench.path("taken")).unwrap();
    refused(&bench, &bench.iso, &bench.path("taken"));
}
