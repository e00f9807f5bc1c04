//! What goes beside the boot files: the iPXE script, checksums, the bill of
//! materials and the report of sizes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::boot::Boot;
use super::loaders::Loaders;
use super::root::Root;
use super::stamp::{Inputs, up_to_date_or};
use super::{Build, Progress, run, size};

/// The files that SHA256SUMS names.
const SUMMED: &[&str] = &[
    "boot.ipxe",
    "initrd",
    "root.img",
    "snponly.efi",
    "surplus.cdx.json",
    "surplus.efi",
    "surplus.iso",
    "undionly.kpxe",
    "vmlinuz",
];

/// Packages of the tools tree of which a part goes into the artefacts, by their
/// SPDX licences.
const FROM_TOOLS: &[(&str, &str)] = &[
    // snponly.efi, undionly.kpxe.
    ("ipxe", "GPL-2.0-only"),
    // The stub of surplus.efi.
    ("systemd-boot-efi", "LGPL-2.1-or-later"),
    // The ISO's loader for BIOS.
    ("grub-pc-bin", "GPL-3.0-or-later"),
];

/// Writes all records of this build.
pub(crate) fn write(
    build: &Build,
    root: &Root,
    boot: &Boot,
    loaders: &Loaders,
    progress: &Progress,
) -> anyhow::Result<()> {
    let stage = progress.stage("records");
    let template = build.workspace.join("pxe/boot.ipxe");
    let lock = build.workspace.join("Cargo.lock");
    let key = Inputs::new("records 2")
        .text(root.key.as_str())
        .text(loaders.key.as_str())
        .path(&template)?
        .path(&lock)?
        .key();
    let mut outputs: Vec<_> = SUMMED.iter().map(|name| build.out.join(name)).collect();
    outputs.extend(["SHA256SUMS", "surplus.size.txt"].map(|name| build.out.join(name)));
    let ran = up_to_date_or(&build.work, "records", &key, &outputs, || {
        stage.say("weighing what fills the ISO");
        write_sizes(build, root)?;
        let script = fs::read_to_string(&template).context("reading pxe/boot.ipxe")?;
        fs::write(
            build.out.join("boot.ipxe"),
            script.replace("@COMMAND_LINE@", &boot.command_line),
        )?;
        write_bill(build, &lock)?;
        write_sums(build)
    })?;
    stage.done(if ran {
        "checksums, bill of materials and sizes written"
    } else {
        "records unchanged"
    });
    Ok(())
}

fn write_sums(build: &Build) -> anyhow::Result<()> {
    let mut command = Command::new("sha256sum");
    let sums = run::output(command.current_dir(&build.out).args(SUMMED), "sha256sum")?;
    fs::write(build.out.join("SHA256SUMS"), sums).context("writing SHA256SUMS")
}

fn write_sizes(build: &Build, root: &Root) -> anyhow::Result<()> {
    let bytes = |name: &Path| -> anyhow::Result<f64> {
        let entry = name
            .metadata()
            .with_context(|| format!("looking at {}", name.display()))?;
        Ok(entry.len() as f64)
    };
    let squash = bytes(&build.work.join("base.squashfs"))?;
    let verity = bytes(&root.path)? - root.conf.hash_offset as f64;
    let microcode = bytes(&build.work.join("base/microcode.cpio"))?;
    let mut parts: Vec<(String, f64)> = size::shares(&build.work.join("tree"))?
        .into_iter()
        .map(|(name, share)| (name.to_owned(), share * squash))
        .collect();
    parts.push(("agent".into(), root.conf.hash_offset as f64 - squash));
    parts.push(("verity tree".into(), verity));
    parts.push(("kernel".into(), bytes(&build.out.join("vmlinuz"))?));
    parts.push((
        "initramfs".into(),
        bytes(&build.out.join("initrd"))? - microcode,
    ));
    parts.push(("CPU microcode".into(), microcode));
    let report = size::report(&parts, bytes(&build.out.join("surplus.iso"))?);
    fs::write(build.out.join("surplus.size.txt"), report).context("writing surplus.size.txt")
}

/// The bill of materials: Debian's packages and the crates of our programs.
/// Format: CycloneDX 1.6.
fn write_bill(build: &Build, lock: &Path) -> anyhow::Result<()> {
    let packages = build.work.join("base/packages.tsv");
    let packages = fs::read_to_string(&packages).context("reading the list of packages")?;
    let lock = fs::read_to_string(lock).context("reading Cargo.lock")?;
    let mut components: Vec<Value> = packages.lines().filter_map(debian).collect();
    for (package, licence) in FROM_TOOLS {
        components.push(tool(build, package, licence)?);
    }
    components.extend(crates(&lock).into_iter().map(crate_component));
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": {
            "type": "operating-system",
            "name": "surplus",
            "version": env!("CARGO_PKG_VERSION"),
        }},
        "components": components,
    });
    let text = serde_json::to_string_pretty(&bill)?;
    fs::write(build.out.join("surplus.cdx.json"), text + "\n").context("writing surplus.cdx.json")
}

/// A line of dpkg's list: package, version, source package, its version.
fn debian(line: &str) -> Option<Value> {
    let [name, version, source, source_version] = line.split('\t').collect::<Vec<_>>()[..] else {
        return None;
    };
    let name = name.split(':').next().unwrap_or(name);
    let purl = format!(
        "pkg:deb/debian/{name}@{}?arch=amd64&distro=trixie",
        version.replace('+', "%2B")
    );
    Some(json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "properties": [
            { "name": "debian:source", "value": source },
            { "name": "debian:source-version", "value": source_version },
        ],
    }))
}

/// A package of the tools tree.
fn tool(build: &Build, package: &str, licence: &str) -> anyhow::Result<Value> {
    let mut query = build.tools.command("dpkg-query");
    let format = r"${Package}\t${Version}\t${source:Package}\t${source:Version}\n";
    query.args(["--show", "--showformat", format, package]);
    let line = run::output(&mut query, "dpkg-query")?;
    let mut component = debian(line.trim_end())
        .with_context(|| format!("dpkg-query says {line:?} about {package}"))?;
    component["licenses"] = json!([{ "license": { "id": licence } }]);
    Ok(component)
}

fn crate_component((name, version, checksum): (String, String, Option<String>)) -> Value {
    let purl = format!("pkg:cargo/{name}@{version}");
    let hashes: Vec<Value> = checksum
        .into_iter()
        .map(|content| json!({ "alg": "SHA-256", "content": content }))
        .collect();
    json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": hashes,
    })
}

/// Name, version and checksum of each package in a Cargo.lock.
fn crates(lock: &str) -> Vec<(String, String, Option<String>)> {
    let mut found = Vec::new();
    for stanza in lock.split("[[package]]").skip(1) {
        let fields: BTreeMap<&str, &str> = stanza
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(key, value)| (key, value.trim_matches('"')))
            .collect();
        if let (Some(name), Some(version)) = (fields.get("name"), fields.get("version")) {
            let checksum = fields.get("checksum").map(|sum| (*sum).to_owned());
            found.push(((*name).to_owned(), (*version).to_owned(), checksum));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_listed_with_their_checksums_where_they_have_one() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
                    checksum = \"ff\"\ndependencies = [\n \"b\",\n]\n\n\
                    [[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";
        let expected = [
            ("a".into(), "1.0.0".into(), Some("ff".into())),
            ("b".into(), "0.1.0".into(), None),
        ];
        assert_eq!(crates(lock), expected);
    }

    #[test]
    fn a_debian_package_names_its_source() {
        let component = debian("libc6:amd64\t2.41-12+deb13u1\tglibc\t2.41-12+deb13u1").unwrap();
        assert_eq!(component["name"], "libc6");
        assert_eq!(component["properties"][0]["value"], "glibc");
        assert!(component["purl"].as_str().unwrap().contains("%2Bdeb13u1"));
    }
}
