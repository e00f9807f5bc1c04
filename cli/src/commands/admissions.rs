//! `surplus admit` and `surplus admissions`: the rules that let hosts join
//! without a token, and the words that say which hosts are meant.
//!
//! What always holds: what is meant is checked here, before it is sent, by the
//! check that the marketplace makes too.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use surplus_protocol::admission::{Asker, SelectorError, Selectors};
use surplus_protocol::api::{AdmissionRule, CreateAdmissionRule, Host, HostState};

use super::tokens::after;
use super::{Session, inputs};
use crate::clock;
use crate::failure::Failure;
use crate::select::pick;
use crate::units::parse_duration;

/// Which hosts are meant: all kinds that are given must fit, each by any one
/// of its values.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct Means {
    /// Hosts that call from this network; several may be given
    #[arg(long = "from", value_name = "CIDR")]
    networks: Vec<String>,
    /// Hosts with a MAC address that begins so: 52:54:00; several may be given
    #[arg(long = "mac-prefix", value_name = "OCTETS")]
    mac_prefixes: Vec<String>,
    /// The host with this serial number; several may be given
    #[arg(long = "serial", value_name = "NUMBER")]
    serials: Vec<String>,
    /// Hosts whose serial numbers are in this file, one a line; `-` reads standard input
    #[arg(long = "serials", value_name = "FILE")]
    serial_files: Vec<PathBuf>,
    /// Hosts of this rack, as their site file names it; several may be given
    #[arg(long = "rack", value_name = "NAME")]
    racks: Vec<String>,
}

impl Means {
    /// As the marketplace takes them.
    pub(crate) fn selectors(&self) -> Result<Selectors, Failure> {
        let mut serials = self.serials.clone();
        for file in &self.serial_files {
            serials.extend(inputs::lines(file)?);
        }
        let selectors = Selectors {
            mac_prefixes: self.mac_prefixes.clone(),
            serials,
            racks: self.racks.clone(),
            networks: self.networks.clone(),
        };
        selectors.checked().map_err(|error| match error {
            SelectorError::Nobody => Failure::new(
                "a rule has to say whom it means",
                "add --from, --mac-prefix, --serial, --serials or --rack; \
                 everyone is `--from 0.0.0.0/0 --from ::/0`",
            ),
            error => Failure::new(error.to_string(), "correct it, and try again"),
        })
    }
}

/// The waiting hosts that are meant and that nobody has let in yet.
pub(crate) fn waiting<'a>(
    hosts: &'a [Host],
    selectors: &'a Selectors,
) -> impl Iterator<Item = &'a Host> {
    hosts.iter().filter(|host| {
        let asker = Asker {
            from: host.address,
            rack: &host.rack,
            identity: &host.identity,
        };
        host.state == HostState::Pending && host.admitted_by.is_none() && selectors.fit(&asker)
    })
}

#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    means: Means,
    /// How long the rule stands: 30m, 2h, 7d [default: until it is deleted]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, conflicts_with = "until")]
    duration: Option<u64>,
    /// Until when the rule stands: 2026-05-01T18:00 in local time, or with an offset
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// How many hosts may join by it [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct ListArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Withdraw a rule; hosts that joined by it stay
    #[command(visible_alias = "remove")]
    Delete {
        /// Its id
        id: String,
    },
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let wrong = || {
        format!("{text:?} is not a time: write for instance 2026-05-01T18:00 or 2026-05-01T18:00Z")
    };
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let local: DateTime = text.parse().map_err(|_| wrong())?;
    let zoned = local.to_zoned(TimeZone::system()).map_err(|_| wrong())?;
    Ok(zoned.timestamp())
}

/// Makes a rule, and says who waits for it.
pub(crate) async fn admit(session: &Session, args: Args) -> Result<(), Failure> {
    let lasts = args.duration.map(|seconds| after(clock::now(), seconds));
    let order = CreateAdmissionRule {
        selectors: args.means.selectors()?,
        uses: args.uses,
        expires_at: args.until.or(lasts.transpose()?),
    };
    let rule: AdmissionRule = session.api.post("/admission-rules", &order).await?;
    let hosts: Vec<Host> = session.api.get("/hosts").await?;
    match waiting(&hosts, &rule.selectors).count() {
        0 => {}
        1 => session
            .out
            .note("1 waiting host fits, and joins when it asks again (within a minute)"),
        many => session.out.note(&format!(
            "{many} waiting hosts fit, and join when they ask again (within a minute)"
        )),
    }
    let rules = [rule];
    let [rule] = &rules;
    session
        .out
        .result(rule, |view| view.admission_rules(&rules))
}

pub(crate) async fn run(session: &Session, args: ListArgs) -> Result<(), Failure> {
    let rules: Vec<AdmissionRule> = session.api.get("/admission-rules").await?;
    let Some(Command::Delete { id }) = args.command else {
        return session
            .out
            .result(&rules, |view| view.admission_rules(&rules));
    };
    let id = pick(&id, &rules)?.id;
    session
        .api
        .delete(&format!("/admission-rules/{id}"))
        .await?;
    let done = serde_json::json!({ "deleted": id });
    session
        .out
        .result(&done, |_| format!("admission rule {id} is withdrawn\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples::{host, pending};

    #[test]
    fn a_time_is_local_unless_it_says_where() {
        assert_eq!(
            parse_time("2026-05-01T18:00Z"),
            Ok("2026-05-01T18:00:00Z".parse().unwrap())
        );
        assert!(parse_time("2026-05-01 18:00").is_ok());
        for text in ["", "18:00", "tomorrow", "30m"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_those_that_wait_for_somebody_are_meant() {
        let mut elsewhere = pending(1);
        elsewhere.rack = "r8".into();
        let mut approved = pending(2);
        approved.admitted_by = host(0).admitted_by;
        let hosts = [host(0), elsewhere, approved, pending(3)];
        let racks = Selectors {
            racks: vec!["r7".into()],
            ..Selectors::default()
        };
        let meant: Vec<_> = waiting(&hosts, &racks).map(|host| host.id).collect();
        assert_eq!(meant, [hosts[3].id]);
    }
}
