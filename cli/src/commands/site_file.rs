//! `surplus site-file`: all that a host needs to join this marketplace, in
//! one file.
//!
//! What always holds: the file is complete and readable by its owner alone, or
//! it is not there; a token that was made for it is withdrawn when the file
//! cannot be written; an existing file, which may hold the only copy of a
//! token, is replaced only on demand.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use secrecy::SecretString;
use serde::Serialize;
use surplus_protocol::Digest;
use surplus_protocol::api::{Token, Trust};
use surplus_site::{Guests, Marketplace, Network, Place, Reserve, Site, Storage, Testing, Time};
use tempfile::NamedTempFile;

use super::{Session, inputs, tokens};
use crate::api::path_segment;
use crate::config::tidy_url;
use crate::failure::Failure;

#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    /// Make a join token of this name for the file
    #[arg(long, value_name = "NEW", conflicts_with = "token_file")]
    token_name: Option<String>,
    #[command(flatten)]
    terms: tokens::Terms,
    /// Use the join token in this file; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The place that the hosts stand in
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// The rack that the hosts stand in
    #[arg(long)]
    rack: Option<String>,
    /// Something else to know the hosts by; several may be given
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Where hosts reach the marketplace; several may be given [default: as it says itself]
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// Name the CA by its fingerprint alone; hosts fetch the certificate
    #[arg(long)]
    pin_only: bool,
    /// Let hosts offer emulated guests: slow and insecure, for tests alone
    #[arg(long)]
    allow_emulation: bool,
    /// Where to write it; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "site.toml")]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// What programs get.
#[derive(Serialize)]
struct Document<'a> {
    /// None: the file is in `site_file`.
    path: Option<&'a Path>,
    site_file: Option<String>,
    urls: &'a [String],
    ca_fingerprint: &'a str,
    /// The token that was made, without its secret.
    token: Option<&'a Token>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

pub(crate) async fn run(session: &Session, args: Args) -> Result<(), Failure> {
    if args.token_name.is_none() && args.terms.any() {
        return Err(Failure::new(
            "--uses, --expires and --network are about a token that is made, and none is",
            "add --token-name NAME, or leave them away",
        ));
    }
    let given = args.token_file.as_deref().map(inputs::secret).transpose()?;
    let target = Target::prepare(&args.output, args.force)?;
    let trust: Trust = session.api.get("/trust").await?;
    let mut site = site(session, &args, &trust)?;
    // All else is checked before a token is made.
    check(&site)?;

    let created = match &args.token_name {
        Some(name) => Some(tokens::create(session, name.clone(), &args.terms).await?),
        None => None,
    };
    site.marketplace.token = created
        .as_ref()
        .map(|token| SecretString::from(token.secret.clone()))
        .or(given);
    let written = check(&site).and_then(|()| target.write(&site.to_toml()));
    if let (Err(_), Some(created)) = (&written, &created) {
        // Nobody knows its secret. If this fails too, the first failure is
        // what has to be told.
        let _ = session
            .api
            .delete(&format!("/tokens/{}", path_segment(&created.token.name)))
            .await;
    }
    let path = written?;

    let made = created.as_ref().map(|created| &created.token);
    tell(session, &site, path.as_deref(), made);
    if session.out.json() {
        return session.out.document(&Document {
            path: path.as_deref(),
            site_file: path.is_none().then(|| site.to_toml()),
            urls: &site.marketplace.urls,
            ca_fingerprint: &trust.ca_fingerprint,
            token: made,
        });
    }
    match path {
        Some(path) => session
            .out
            .bytes(format!("{}\n", path.display()).as_bytes()),
        None => session.out.bytes(site.to_toml().as_bytes()),
    }
}

fn site(session: &Session, args: &Args, trust: &Trust) -> Result<Site, Failure> {
    let mut urls = args
        .urls
        .iter()
        .map(|url| tidy_url(url))
        .collect::<Result<Vec<_>, _>>()?;
    if urls.is_empty() {
        urls.clone_from(&trust.urls);
    }
    if urls.is_empty() {
        urls.push(session.api.url().to_owned());
    }
    let fingerprint: Digest = trust.ca_fingerprint.parse().map_err(|_| {
        Failure::new(
            format!(
                "the marketplace gave {:?} as its CA's fingerprint",
                trust.ca_fingerprint
            ),
            "check that `surplus --version` fits the marketplace's version",
        )
    })?;
    Ok(Site {
        marketplace: Marketplace {
            urls,
            trust: if args.pin_only {
                surplus_site::Trust::CaSha256(*fingerprint.as_bytes())
            } else {
                surplus_site::Trust::Ca(format!("{}\n", trust.ca_pem.trim()))
            },
            token: None,
            proxy: None,
        },
        place: Place {
            name: args.site.clone(),
            rack: args.rack.clone(),
            labels: args.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        },
        network: Network::default(),
        storage: Storage::default(),
        guests: Guests::default(),
        reserve: Reserve::default(),
        time: Time::default(),
        testing: Testing {
            allow_emulation: args.allow_emulation,
        },
    })
}

/// A host will read the file by the same rules.
fn check(site: &Site) -> Result<(), Failure> {
    Site::parse(&site.to_toml()).map(drop).map_err(|error| {
        Failure::new(
            format!("no host would take this site file: {}", error.problem()),
            error.next(),
        )
    })
}

fn tell(session: &Session, site: &Site, path: Option<&Path>, made: Option<&Token>) {
    if let Some(token) = made {
        session.out.note(&session.out.view().token_terms(token));
    }
    if let Some(url) = site.marketplace.urls.iter().find(|url| only_here(url)) {
        session.out.note(&format!(
            "warning: other machines cannot reach {url}: give the address that they know by --url"
        ));
    }
    if site.marketplace.token.is_none() {
        session
            .out
            .note("there is no token in it: each host waits for `surplus admit` or `surplus hosts approve`");
    }
    if let Some(path) = path {
        session.out.note(&format!(
            "next: surplus-image customize --site {path} surplus.iso OUT.iso, and boot OUT.iso; \
             or over the network, surplus-netboot serve --site {path} --interface IF --artefacts DIR",
            path = path.display()
        ));
    }
}

/// The URL names this machine for everybody who reads it.
fn only_here(url: &str) -> bool {
    let host = url
        .parse::<http::Uri>()
        .ok()
        .and_then(|uri| uri.host().map(str::to_owned))
        .unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost"
        || address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

/// Where the file goes.
enum Target {
    Stdout,
    /// Written beside its place (mode 0600), then moved there whole.
    File {
        draft: NamedTempFile,
        path: PathBuf,
        force: bool,
    },
}

impl Target {
    fn prepare(path: &Path, force: bool) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        if !force && path.symlink_metadata().is_ok() {
            return Err(occupied(path));
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let draft = tempfile::Builder::new()
            .prefix(".surplus-site")
            .tempfile_in(folder)
            .map_err(|error| unwritable(path, &error))?;
        Ok(Self::File {
            draft,
            path: path.to_owned(),
            force,
        })
    }

    fn write(self, text: &str) -> Result<Option<PathBuf>, Failure> {
        let Self::File {
            mut draft,
            path,
            force,
        } = self
        else {
            return Ok(None);
        };
        draft
            .write_all(text.as_bytes())
            .and_then(|()| draft.as_file().sync_all())
            .map_err(|error| unwritable(&path, &error))?;
        let moved = if force {
            draft.persist(&path)
        } else {
            draft.persist_noclobber(&path)
        };
        match moved {
            Ok(_) => Ok(Some(path)),
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(occupied(&path))
            }
            Err(error) => Err(unwritable(&path, &error.error)),
        }
    }
}

fn occupied(path: &Path) -> Failure {
    Failure::new(
        format!(
            "{} exists already, and may hold the only copy of a token",
            path.display()
        ),
        "choose another place by -o, or replace it by --force",
    )
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        format!("{} cannot be written: {error}", path.display()),
        "choose another place by -o",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mean_this_machine_are_noticed() {
        for url in [
            "https://127.0.0.1:8443",
            "https://localhost",
            "https://[::1]:8443",
            "https://0.0.0.0:1",
        ] {
            assert!(only_here(url), "{url}");
        }
        for url in [
            "https://10.0.2.2:8443",
            "https://market.example",
            "https://[2001:db8::1]",
        ] {
            assert!(!only_here(url), "{url}");
        }
    }

    #[test]
    fn a_site_file_is_private_and_never_replaced_unasked() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.toml");
        assert!(
            Target::prepare(&path, false)
                .unwrap()
                .write("a = 1\n")
                .is_ok()
        );
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Target::prepare(&path, false).is_err());
        assert!(
            Target::prepare(&path, true)
                .unwrap()
                .write("a = 2\n")
                .is_ok()
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a = 2\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
