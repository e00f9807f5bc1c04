use super::*;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn machine() -> HardwareIdentity {
    HardwareIdentity {
        system_serial: Some("B5RJ12".to_owned()),
        board_serial: Some("CN-77".to_owned()),
        macs: strings(&["e4:43:4b:00:11:22", "52:54:00:12:34:56"]),
        ..HardwareIdentity::default()
    }
}

fn fits(selectors: Selectors, from: &str, rack: &str) -> bool {
    selectors.checked().unwrap().fit(&Asker {
        from: Some(from.parse().unwrap()),
        rack,
        identity: &machine(),
    })
}

#[test]
fn any_value_of_a_kind_is_enough() {
    for (macs, serials, good) in [
        (&["52-54-00"][..], &[][..], true),
        (&["aa", "E4434B001122"], &[], true),
        (&["54:00"], &[], false),
        (&[], &["other", " b5rj12 "], true),
        (&[], &["cn-77"], true),
        (&[], &["B5RJ1"], false),
    ] {
        let selectors = Selectors {
            mac_prefixes: strings(macs),
            serials: strings(serials),
            ..Selectors::default()
        };
        assert_eq!(
            fits(selectors, "192.0.2.1", ""),
            good,
            "{macs:?} {serials:?}"
        );
    }
}

#[test]
fn every_kind_that_is_given_must_fit() {
    let whole = Selectors {
        mac_prefixes: strings(&["52:54:00"]),
        serials: strings(&["B5RJ12"]),
        racks: strings(&["r7"]),
        networks: strings(&["10.0.0.0/8", "192.0.2.0/24"]),
    };
    assert!(fits(whole.clone(), "192.0.2.1", "r7"));
    assert!(fits(whole.clone(), "::ffff:192.0.2.1", "r7"));
    assert!(!fits(whole.clone(), "192.0.3.1", "r7"));
    assert!(!fits(whole.clone(), "192.0.2.1", "r8"));
    let other = strings(&["X"]);
    assert!(!fits(
        Selectors {
            serials: other,
            ..whole.clone()
        },
        "192.0.2.1",
        "r7"
    ));
    let other = strings(&["ff"]);
    assert!(!fits(
        Selectors {
            mac_prefixes: other,
            ..whole
        },
        "192.0.2.1",
        "r7"
    ));
}

#[test]
fn selectors_that_name_nothing_mean_nobody() {
    let identity = machine();
    let asker = Asker {
        from: Some("192.0.2.1".parse().unwrap()),
        rack: "r7",
        identity: &identity,
    };
    assert!(!Selectors::default().fit(&asker));
    let refused = Selectors::default().checked().unwrap_err();
    assert_eq!(refused, SelectorError::Nobody);
    assert!(refused.to_string().contains("0.0.0.0/0"));
}

#[test]
fn everyone_can_be_said() {
    let networks = strings(&["0.0.0.0/0", "::/0"]);
    let everyone = Selectors {
        networks,
        ..Selectors::default()
    };
    for from in ["203.0.113.9", "2001:db8::9", "::ffff:10.0.0.1"] {
        assert!(fits(everyone.clone(), from, ""), "{from}");
    }
}

#[test]
fn values_have_one_form_and_nonsense_is_named() {
    let written = Selectors {
        mac_prefixes: strings(&["52-54-00", "52:54:00", "5254"]),
        serials: strings(&[" A ", "A"]),
        racks: strings(&["b", "a"]),
        networks: strings(&["10.1.2.3/8", "::ffff:192.0.2.7/120"]),
    };
    let checked = written.checked().unwrap();
    assert_eq!(checked.mac_prefixes, ["52:54", "52:54:00"]);
    assert_eq!(checked.serials, ["A"]);
    assert_eq!(checked.racks, ["a", "b"]);
    assert_eq!(checked.networks, ["10.0.0.0/8", "192.0.2.0/24"]);
    assert_eq!(
        checked.to_string(),
        "from 10.0.0.0/8 or 192.0.2.0/24, MAC 52:54 or 52:54:00, rack a or b, serial A"
    );
    for text in [
        "",
        "5",
        "525",
        "5:2:5",
        "zz",
        "52:54:00:12:34:56:78",
        "52::54",
    ] {
        let mac_prefixes = strings(&[text]);
        let wrong = Selectors {
            mac_prefixes,
            ..Selectors::default()
        };
        assert!(
            matches!(wrong.checked(), Err(SelectorError::MacPrefix { .. })),
            "{text}"
        );
    }
    for text in ["10.0.0.1", "10.0.0.0/33", "everywhere", ""] {
        assert!(network(text).is_err(), "{text}");
    }
    for text in ["", "  ", "a\nb", &"x".repeat(129)] {
        let serials = strings(&[text]);
        let wrong = Selectors {
            serials,
            ..Selectors::default()
        };
        assert!(wrong.checked().is_err(), "{text:?}");
    }
}

#[test]
fn a_misspelt_selector_does_not_widen_a_rule() {
    for text in [
        r#"{"selectors":{"networks":["10.0.0.0/8"],"serial":["A"]}}"#,
        r#"{"selectors":{"networks":["10.0.0.0/8"]},"use":1}"#,
    ] {
        assert!(serde_json::from_str::<CreateAdmissionRule>(text).is_err());
    }
}
