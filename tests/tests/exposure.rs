//! How much of the host each of our units could reach, as `systemd-analyze security`
//! counts it, against what docs/threat-model.md says that it may.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use surplus_tests::Lab;
use surplus_tests::lab::run;

const UNITS: &str = "usr/lib/systemd/system";

/// What the threat model's table allows each unit.
fn allowed(lab: &Lab) -> Result<BTreeMap<String, f64>> {
    let text = fs::read_to_string(lab.root().join("docs/threat-model.md"))?;
    let (_, ours) = text
        .split_once("## Our own programs")
        .context("the threat model has no part on our own programs")?;
    let mut allowed = BTreeMap::new();
    for row in ours.lines().take_while(|line| !line.starts_with("## ")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let ["", units, exposure, ..] = cells[..] else {
            continue;
        };
        let Ok(exposure) = exposure.parse() else {
            continue;
        };
        let units = units
            .split(", ")
            .map(|unit| unit.trim_matches('`').to_owned());
        allowed.extend(units.map(|unit| (unit, exposure)));
    }
    Ok(allowed)
}

fn exposure(lab: &Lab, unit: &str) -> Result<f64> {
    let mut analyze = lab.tools().command("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--root"]);
    let said = run(analyze.arg(lab.root().join("systemd")).arg(unit))?;
    let said = String::from_utf8_lossy(&said);
    let (_, rest) = said
        .split_once("Overall exposure level for ")
        .with_context(|| format!("no exposure was said of {unit}: {said}"))?;
    let word = rest
        .split(": ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    Ok(word.context("no figure")?.parse()?)
}

#[test]
fn no_unit_is_more_exposed_than_the_threat_model_says() -> Result<()> {
    surplus_tests::test("exposure", |lab| {
        let allowed = allowed(lab)?;
        let mut wrong = Vec::new();
        for entry in fs::read_dir(lab.root().join("systemd").join(UNITS))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(unit) = name.strip_suffix(".service") else {
                continue;
            };
            // Links that switch a unit of Debian's off.
            if entry.file_type()?.is_symlink() {
                continue;
            }
            let (now, most) = (exposure(lab, &name)?, allowed.get(unit).copied());
            println!("{unit}: {now}, {most:?} allowed");
            if most != Some(now) {
                wrong.push(format!(
                    "{unit} is at {now}, and the threat model says {most:?}"
                ));
            }
        }
        ensure!(
            wrong.is_empty(),
            "docs/threat-model.md, \"Our own programs\": {}",
            wrong.join("; ")
        );
        Ok(())
    })
}
