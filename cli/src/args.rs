//! The tree of commands. Each command's own arguments stand with it.

use clap::{Parser, Subcommand};

use crate::commands::{
    admissions, console, end, hosts, image, keys, leases, rent, shell, site_file, tokens,
};
use crate::config::Flags;

const AFTER: &str = "Flags win over the environment (SURPLUS_URL, SURPLUS_TOKEN, SURPLUS_CA), which wins over \
~/.config/surplus/config.toml (url, token, ca; mode 0600). Ids may be shortened to any unique beginning. \
Exit codes: 0 done, 1 refused or failed, 2 wrong usage.";

/// Rents servers' spare capacity, and runs the marketplace that sells it.
#[derive(Debug, Parser)]
#[command(name = "surplus", version, after_help = AFTER, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) flags: Flags,
    /// One JSON document on standard output, for programs
    #[arg(long, global = true, help_heading = "Options")]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What can be rented now, and for how much
    Offers,
    /// The price list
    Prices,
    /// Guest images: bring one, list them
    #[command(subcommand)]
    Image(image::Command),
    /// Rent a guest: a quote is asked for, shown and taken
    Rent(rent::Args),
    /// Leases, or one of them
    Leases(leases::Args),
    /// A guest's serial console
    Console(console::Args),
    /// End a lease now
    End(end::Args),
    /// What a lease costs
    Bill(leases::BillArgs),
    /// The hosts of the marketplace; approve or reject some (operators)
    Hosts(hosts::Args),
    /// Make a rule that lets hosts join without a token (operators)
    Admit(admissions::Args),
    /// The rules that let hosts join without a token (operators)
    Admissions(admissions::ListArgs),
    /// Join tokens for new hosts (operators)
    #[command(subcommand)]
    Token(tokens::Command),
    /// Write the site file that a host needs to join (operators)
    SiteFile(site_file::Args),
    /// API keys of buyers and operators (operators)
    #[command(subcommand)]
    Key(keys::Command),
    /// Completion script for a shell
    Completions(shell::CompletionArgs),
    /// Manual page in roff format
    Man,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_flag_takes_a_secret() {
        fn walk(command: &clap::Command) {
            for arg in command.get_arguments() {
                let name = arg.get_id().as_str();
                assert!(
                    !["token", "secret", "password", "key", "api_key"].contains(&name),
                    "{name}"
                );
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }

    #[test]
    fn the_commands_of_the_manual_are_understood() {
        for line in [
            "surplus token create rack1 --uses 3 --expires 7d --network 10.0.0.0/8 --network fd00::/8",
            "surplus key create carol --role buyer",
            "surplus site-file --token-name rack1 --site leipzig --rack r2 --url https://m:8443 --pin-only -o x.toml",
            "surplus hosts --json",
            "surplus hosts 0193a",
            "surplus hosts approve 0193a",
            "surplus hosts confirm-off 0193a",
            "surplus hosts --pending",
            "surplus hosts approve --from 10.0.0.0/24 --mac-prefix 52:54:00 --rack r7 --yes",
            "surplus admit --from 10.0.0.0/24 --for 30m",
            "surplus admit --serials new-rack.txt --serial B5RJ12 --uses 40 --until 2026-05-01T18:00",
            "surplus admit --rack r7 --mac-prefix e4:43:4b",
            "surplus admissions",
            "surplus admissions delete 0193a",
            "surplus admissions remove 0193a",
            "surplus image delete hello",
            "surplus image add x.qcow2 --name hello --format qcow2",
            "surplus image add appliance.ova --name appliance",
            "surplus image add x.vmdk --format vmdk",
            "surplus rent --image hello --vcpus 1 --memory 512MiB --disk 1GB --for 2h --on-lost-link fence:5m \
             --firmware uefi --max-price 1.50 --ssh-key a.pub --ssh-key b.pub --user-data u.yaml --wait",
            "surplus console hello --no-follow",
            "surplus console hello -f",
            "surplus end hello --wait",
            "surplus --json bill hello",
        ] {
            assert!(
                Cli::try_parse_from(line.split_whitespace()).is_ok(),
                "{line}"
            );
        }
        for line in [
            "surplus hosts approve",
            "surplus hosts approve 0193a --rack r7",
            "surplus hosts approve --yes",
            "surplus admit --rack r7 --for 30m --until 2026-05-01T18:00",
            "surplus admit --rack r7 --uses 0",
        ] {
            assert!(
                Cli::try_parse_from(line.split_whitespace()).is_err(),
                "{line}"
            );
        }
    }
}
