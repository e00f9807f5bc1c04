//! `surplus token`: the secrets that let new hosts join.

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use surplus_protocol::admission::SelectorError;
use surplus_protocol::api::{CreateToken, CreatedToken, Token};

use super::Session;
use crate::api::path_segment;
use crate::clock;
use crate::failure::Failure;
use crate::units::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a join token; its secret is shown this once
    Create {
        /// What to call it
        name: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// The join tokens and what is left of them
    List,
    /// Withdraw a join token; hosts that joined with it stay
    Delete {
        /// Its name
        name: String,
    },
}

/// What a new token is good for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Terms {
    /// How many hosts may join with it [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: Option<u32>,
    /// How long it is good for: 24h, 7d [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) expires: Option<u64>,
    /// Network that it may be used from; several may be given [default: any]
    #[arg(long = "network", value_name = "CIDR", value_parser = network)]
    pub(crate) networks: Vec<String>,
}

impl Terms {
    pub(crate) fn any(&self) -> bool {
        self.uses.is_some() || self.expires.is_some() || !self.networks.is_empty()
    }
}

fn network(text: &str) -> Result<String, SelectorError> {
    surplus_protocol::admission::network(text).map(|net| net.to_string())
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { name, terms } => {
            let created = create(session, name, &terms).await?;
            if session.out.json() {
                return session.out.document(&created);
            }
            session
                .out
                .note(&session.out.view().token_terms(&created.token));
            session.out.note("its secret, shown this once (`surplus site-file --token-file` takes it from a file):");
            session
                .out
                .bytes(format!("{}\n", created.secret).as_bytes())
        }
        Command::List => {
            let tokens: Vec<Token> = session.api.get("/tokens").await?;
            session.out.result(&tokens, |view| view.tokens(&tokens))
        }
        Command::Delete { name } => {
            session
                .api
                .delete(&format!("/tokens/{}", path_segment(&name)))
                .await?;
            let done = serde_json::json!({ "deleted": name });
            session
                .out
                .result(&done, |_| format!("token {name} is withdrawn\n"))
        }
    }
}

/// Asks the marketplace for a new token.
pub(crate) async fn create(
    session: &Session,
    name: String,
    terms: &Terms,
) -> Result<CreatedToken, Failure> {
    let request = CreateToken {
        name,
        uses: terms.uses,
        expires_at: terms
            .expires
            .map(|seconds| after(clock::now(), seconds))
            .transpose()?,
        networks: terms.networks.clone(),
    };
    Ok(session.api.post("/tokens", &request).await?)
}

/// The time `seconds` from `now`.
pub(crate) fn after(now: Timestamp, seconds: u64) -> Result<Timestamp, Failure> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok())
        .ok_or_else(|| {
            Failure::new(
                "that would expire after the end of time",
                "give a shorter time, or none",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_without_host_bits() {
        assert_eq!(network("192.0.2.77/24").unwrap(), "192.0.2.0/24");
        assert_eq!(network("2001:db8::1/32").unwrap(), "2001:db8::/32");
        assert_eq!(network("::ffff:192.0.2.7/120").unwrap(), "192.0.2.0/24");
        assert!(network("192.0.2.1").is_err());
    }
}
