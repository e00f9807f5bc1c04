//! Where the marketplace is, whom to trust, with which key: flags before
//! environment before configuration file.
//!
//! What always holds: a secret never comes from the command line; a file that
//! holds one is read only if nobody else can; a token is never printed.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::SecretString;
use serde::Deserialize;

use crate::failure::Failure;

/// Flags that every command takes.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Flags {
    /// Where the marketplace is [env: SURPLUS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) marketplace: Option<String>,
    /// Whom to trust: a PEM file, or the CA's `sha256:…` [env: SURPLUS_CA]
    #[arg(long, global = true, value_name = "FILE|PIN")]
    pub(crate) ca: Option<String>,
    /// File that holds the API key [env: SURPLUS_TOKEN holds the key itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Configuration file [default: ~/.config/surplus/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What a configuration file may say.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Stored {
    url: Option<String>,
    ca: Option<String>,
    token: Option<SecretString>,
}

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CaSource {
    File(PathBuf),
    Pin(String),
}

/// What a connection needs.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) url: String,
    pub(crate) ca: CaSource,
    /// None: only what anyone may ask for.
    pub(crate) token: Option<SecretString>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("url", &self.url)
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("it is not said where the marketplace is")]
    NoUrl,
    #[error("it is not said whom to trust at {url}")]
    NoCa { url: String },
    #[error("{text:?} is not the address of a marketplace: it has to start with https://")]
    NotHttps { text: String },
    #[error("{text:?} is not a fingerprint: expected sha256: and 64 hexadecimal digits")]
    InvalidPin { text: String },
    #[error("{} holds an API key and can be read by others (mode {mode:o})", .path.display())]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not a configuration: {message}", .path.display())]
    Malformed { path: PathBuf, message: String },
    #[error("{from} holds no API key, or more than one word")]
    NoKey { from: String },
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let next = match &error {
            ConfigError::NoUrl => {
                "set SURPLUS_URL, or `url` in ~/.config/surplus/config.toml, or give --marketplace".to_owned()
            }
            ConfigError::NoCa { .. } => {
                "set SURPLUS_CA to the marketplace's ca.pem (a path) or to its sha256:… fingerprint".to_owned()
            }
            ConfigError::NotHttps { .. } => "write for instance https://market.example:8443".to_owned(),
            ConfigError::InvalidPin { .. } => "copy the fingerprint that the marketplace printed at its start".to_owned(),
            ConfigError::OpenToOthers { path, .. } => format!("chmod 600 {}", path.display()),
            ConfigError::Unreadable { .. } => "check the path and its permissions".to_owned(),
            ConfigError::Malformed { .. } => "it may say `url`, `ca` and `token`, each as a string".to_owned(),
            ConfigError::NoKey { .. } => {
                "an API key is one word: as `surplus key create` or the marketplace's admin.key gives it".to_owned()
            }
        };
        Self::new(error.to_string(), next)
    }
}

/// Settles flags, environment (`env`) and configuration file, in this order.
pub(crate) fn settle(
    flags: &Flags,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigError> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let stored = match &flags.config {
        Some(path) => stored(path)?.ok_or_else(|| ConfigError::Unreadable {
            path: path.clone(),
            source: std::io::ErrorKind::NotFound.into(),
        })?,
        None => match default_path(&env) {
            Some(path) => stored(&path)?.unwrap_or_default(),
            None => Stored::default(),
        },
    };
    let url = flags
        .marketplace
        .clone()
        .or_else(|| env("SURPLUS_URL"))
        .or(stored.url)
        .ok_or(ConfigError::NoUrl)?;
    let url = tidy_url(&url)?;
    let ca = flags.ca.clone().or_else(|| env("SURPLUS_CA")).or(stored.ca);
    let ca = ca_source(
        &ca.ok_or_else(|| ConfigError::NoCa { url: url.clone() })?,
        &env,
    )?;
    let token = match &flags.key_file {
        Some(path) => Some(one_word(&read(path)?, &path.display().to_string())?),
        None => match env("SURPLUS_TOKEN") {
            Some(word) => Some(one_word(&word, "SURPLUS_TOKEN")?),
            None => stored.token,
        },
    };
    Ok(Settings { url, ca, token })
}

fn default_path(env: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let base = env("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env("HOME")?).join(".config")))?;
    Some(base.join("surplus/config.toml"))
}

fn stored(path: &Path) -> Result<Option<Stored>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    // The opened file's mode: the path may name another one by now.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    let stored: Stored = toml::from_str(&text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        // Not the whole error: it quotes the line, which may hold the token.
        message: error.message().to_owned(),
    })?;
    if stored.token.is_some() && mode & 0o077 != 0 {
        return Err(ConfigError::OpenToOthers {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(Some(stored))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn one_word(text: &str, from: &str) -> Result<SecretString, ConfigError> {
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(word), None) if word.is_ascii() => Ok(SecretString::from(word.to_owned())),
        _ => Err(ConfigError::NoKey {
            from: from.to_owned(),
        }),
    }
}

/// The URL without a trailing slash; only `https://` will do.
pub(crate) fn tidy_url(text: &str) -> Result<String, ConfigError> {
    let not_https = || ConfigError::NotHttps {
        text: text.to_owned(),
    };
    let uri: http::Uri = text
        .trim()
        .trim_end_matches('/')
        .parse()
        .map_err(|_| not_https())?;
    let plain = uri.query().is_none()
        && matches!(uri.path(), "" | "/")
        && !uri.host().unwrap_or_default().is_empty();
    if uri.scheme_str() != Some("https") || !plain {
        return Err(not_https());
    }
    Ok(uri.to_string().trim_end_matches('/').to_owned())
}

fn ca_source(text: &str, env: &impl Fn(&str) -> Option<String>) -> Result<CaSource, ConfigError> {
    if text.starts_with("sha256:") {
        let pin = text.trim().to_ascii_lowercase();
        return match pin.parse::<surplus_protocol::Digest>() {
            Ok(_) => Ok(CaSource::Pin(pin)),
            Err(_) => Err(ConfigError::InvalidPin {
                text: text.to_owned(),
            }),
        };
    }
    // A configuration file has no shell that would replace the tilde.
    let path = match (text.strip_prefix("~/"), env("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(text),
    };
    Ok(CaSource::File(path))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use secrecy::ExposeSecret as _;

    use super::*;

    struct Home {
        dir: tempfile::TempDir,
        env: HashMap<&'static str, String>,
    }

    impl Home {
        fn with(config: &str, mode: u32) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(".config/surplus/config.toml");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, config).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let env = HashMap::from([("HOME", dir.path().display().to_string())]);
            Self { dir, env }
        }

        fn settle(&self, flags: &Flags) -> Result<Settings, ConfigError> {
            settle(flags, |name| self.env.get(name).cloned())
        }
    }

    const FULL: &str = "url = 'https://file.example'\nca = '~/ca.pem'\ntoken = 'from-file'\n";

    #[test]
    fn flags_win_over_environment_and_environment_over_file() {
        let mut home = Home::with(FULL, 0o600);
        let settings = home.settle(&Flags::default()).unwrap();
        assert_eq!(settings.url, "https://file.example");
        assert_eq!(settings.ca, CaSource::File(home.dir.path().join("ca.pem")));
        assert_eq!(settings.token.unwrap().expose_secret(), "from-file");

        home.env
            .insert("SURPLUS_URL", "https://env.example:8443/".into());
        home.env.insert("SURPLUS_TOKEN", "from-env\n".into());
        let settings = home.settle(&Flags::default()).unwrap();
        assert_eq!(settings.url, "https://env.example:8443");
        assert_eq!(settings.token.unwrap().expose_secret(), "from-env");

        let key = home.dir.path().join("admin.key");
        std::fs::write(&key, "from-flag\n").unwrap();
        let flags = Flags {
            marketplace: Some("https://flag.example".into()),
            ca: Some(format!("sha256:{}", "AB".repeat(32))),
            key_file: Some(key),
            ..Flags::default()
        };
        let settings = home.settle(&flags).unwrap();
        assert_eq!(settings.url, "https://flag.example");
        assert_eq!(
            settings.ca,
            CaSource::Pin(format!("sha256:{}", "ab".repeat(32)))
        );
        assert_eq!(settings.token.unwrap().expose_secret(), "from-flag");
    }

    #[test]
    fn a_file_with_a_token_that_others_can_read_is_refused() {
        let error = Home::with(FULL, 0o640)
            .settle(&Flags::default())
            .unwrap_err();
        assert!(Failure::from(error).text().contains("next: chmod 600 "));
        let harmless = Home::with("url = 'https://file.example'\nca = '/ca.pem'", 0o644);
        assert!(harmless.settle(&Flags::default()).unwrap().token.is_none());
    }

    #[test]
    fn a_broken_file_is_explained_without_its_token() {
        let error = Home::with("token = 'sec ret' x", 0o600)
            .settle(&Flags::default())
            .unwrap_err();
        assert!(!Failure::from(error).text().contains("sec ret"));
        let error = Home::with("tokn = 'secret'", 0o600)
            .settle(&Flags::default())
            .unwrap_err();
        assert!(Failure::from(error).text().contains("tokn"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let home = Home::with("", 0o600);
        assert!(matches!(
            home.settle(&Flags::default()),
            Err(ConfigError::NoUrl)
        ));
        let flags = Flags {
            marketplace: Some("https://x".into()),
            ..Flags::default()
        };
        assert!(matches!(home.settle(&flags), Err(ConfigError::NoCa { .. })));
        let flags = Flags {
            config: Some("/nowhere/config.toml".into()),
            ..Flags::default()
        };
        assert!(matches!(
            home.settle(&flags),
            Err(ConfigError::Unreadable { .. })
        ));
    }

    #[test]
    fn only_https_addresses_are_taken() {
        for text in [
            "http://x",
            "x:8443",
            "https://",
            "https://x/path",
            "https://x?y",
            "",
        ] {
            assert!(tidy_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_do_not_print_their_token() {
        let settings = Home::with(FULL, 0o600).settle(&Flags::default()).unwrap();
        assert!(!format!("{settings:?}").contains("from-file"));
    }
}
