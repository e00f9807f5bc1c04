//! `surplus-image show`.

use std::path::Path;

use surplus_image::{Kind, ShownSite};

pub(crate) fn run(file: &Path) -> anyhow::Result<()> {
    match super::kind(file)? {
        Kind::Efi => efi(file),
        Kind::Medium => iso(file),
    }
}

fn iso(iso: &Path) -> anyhow::Result<()> {
    let shown = surplus_image::show(iso)?;
    println!("volume     {}", shown.volume_id);
    match &shown.root_hash {
        Ok(hash) => println!("root hash  {hash}"),
        Err(why) => println!("root hash  unknown: {why}"),
    }
    if let Some(made) = &shown.made {
        println!("made       {made}");
    }
    println!("size       {} bytes", shown.size);
    println!("files");
    for (path, size) in &shown.files {
        println!("  {size:>11}  {path}");
    }
    match &shown.site {
        ShownSite::Empty => println!("site file  none; write one with `surplus-image customize`"),
        ShownSite::Refused(why) => println!("site file  a host would refuse it: {why}"),
        ShownSite::Site(text) => {
            println!("site file");
            text.lines().for_each(|line| println!("  {line}"));
        }
    }
    Ok(())
}

fn efi(file: &Path) -> anyhow::Result<()> {
    let shown = surplus_image::show_efi(file)?;
    match &shown.command_line {
        Ok(_) => {
            for (title, word) in [
                ("root hash", "surplus.roothash="),
                ("root from", "surplus.root="),
                ("site file", "surplus.site="),
                ("its CA", "surplus.ca="),
            ] {
                shown
                    .values(word)
                    .for_each(|value| println!("{title:<11}{value}"));
            }
            if shown.values("surplus.site=").next().is_none() {
                println!(
                    "site file  none; name one with `surplus-image customize --site https://…`"
                );
            }
        }
        Err(why) => println!("kernel     none of Surplus: {why}"),
    }
    println!("size       {} bytes", shown.size);
    if shown.signers.is_empty() {
        println!("signed by  nobody; firmware with Secure Boot on refuses it");
    }
    for signer in &shown.signers {
        println!("signed by  {signer} (it says; `surplus-image verify --cert` checks)");
    }
    if let Ok(line) = &shown.command_line {
        println!("command line");
        println!("  {line}");
    }
    Ok(())
}
