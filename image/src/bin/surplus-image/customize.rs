//! `surplus-image customize`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use surplus_image::signing::Signer;
use surplus_image::{Kind, SiteAddress};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For an ISO: the site file (`surplus site-file` writes one). For
    /// surplus.efi: its address, https://…
    #[arg(long, value_name = "FILE|URL")]
    site: String,
    /// For surplus.efi: SHA-256 of the CA certificate (DER) that the site
    /// file's server must have its certificate from.
    #[arg(long, value_name = "sha256:HEX")]
    ca: Option<String>,
    /// For surplus.efi: where to fetch the root image, http://…; several are
    /// tried in turn. Without it the boot server's DHCP answer says so.
    #[arg(long, value_name = "URL")]
    root: Vec<String>,
    /// Sign the output for Secure Boot with this RSA key (PEM).
    #[arg(long, value_name = "KEY.pem", requires = "sign_cert")]
    sign_key: Option<PathBuf>,
    /// The signing key's certificate (PEM).
    #[arg(long, value_name = "CERT.pem", requires = "sign_key")]
    sign_cert: Option<PathBuf>,
    /// The ISO or surplus.efi to copy; it stays as it is.
    input: PathBuf,
    /// The copy to write; replaced as a whole if it is there.
    output: PathBuf,
}

impl Args {
    fn signer(&self) -> Option<Signer> {
        Some(Signer {
            key: self.sign_key.clone()?,
            certificate: self.sign_cert.clone()?,
        })
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let is_address = args.site.contains("://");
    match super::kind(&args.input)? {
        Kind::Efi if !is_address => bail!(
            "{} goes over the network in clear, so a site file, with a token in it, must not be \
             written into it; put {} on an HTTPS server (`surplus-netboot serve` is one) and give \
             --site https://HOST/site.toml --ca sha256:… instead",
            args.input.display(),
            args.site
        ),
        Kind::Efi => kernel(args).context("nothing was written"),
        Kind::Medium if is_address => bail!(
            "an ISO takes the site file itself: give --site FILE; addresses are for surplus.efi, \
             which is booted over the network"
        ),
        Kind::Medium if args.ca.is_some() || !args.root.is_empty() || args.sign_key.is_some() => {
            bail!(
                "--ca, --root, --sign-key and --sign-cert are for surplus.efi; an ISO's site area \
                 lies outside of what is signed, so a signed ISO stays signed (`cargo xtask image \
                 --secure-boot-key` makes one)"
            )
        }
        Kind::Medium => iso(Path::new(&args.site), &args.input, &args.output),
    }
}

fn iso(site: &Path, input: &Path, output: &Path) -> anyhow::Result<()> {
    let done = surplus_image::customize(site, input, output).context("nothing was written")?;
    let replaced = if done.replaced {
        ", in place of the site file that was in it"
    } else {
        ""
    };
    println!(
        "{}: site file of {} bytes written{replaced}",
        output.display(),
        done.site_size
    );
    if done.has_token {
        println!(
            "It holds the join token: keep the ISO as secret as that, and the token short-lived."
        );
    }
    Ok(())
}

fn kernel(args: &Args) -> anyhow::Result<()> {
    let address = SiteAddress {
        site: args.site.clone(),
        ca: args.ca.clone().context(
            "--ca sha256:… is missing: without it the host could not tell who gives it its site \
             file (`surplus-netboot serve` prints it)",
        )?,
        roots: args.root.clone(),
    };
    let signer = args.signer();
    let done = surplus_image::customize_kernel(
        &address,
        signer.as_ref(),
        &args.input,
        &args.output,
        &super::program,
    )?;
    println!(
        "{}: kernel command line is now\n  {}",
        args.output.display(),
        done.command_line
    );
    match done.signers.as_slice() {
        [] => println!("It is not signed; firmware with Secure Boot on refuses it (--sign-key)."),
        signers => println!("Signed by {}.", signers.join(", ")),
    }
    if done.unsigned {
        println!("The signature that the input had was taken off.");
    }
    Ok(())
}
