//! What shells and manual readers need: completion scripts, the manual page.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn completions(out: &Output, args: &CompletionArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "surplus", &mut script);
    out.bytes(&script)
}

/// The manual page of the program, followed by one of each command.
pub(crate) fn manual(out: &Output) -> Result<(), Failure> {
    let mut root = Cli::command();
    root.build();
    let mut pages = Vec::new();
    render(&root, &mut pages)
        .map_err(|error| Failure::new(format!("the manual page cannot be written: {error}"), ""))?;
    out.bytes(&pages)
}

fn render(command: &clap::Command, pages: &mut Vec<u8>) -> std::io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(pages)?;
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help" && !inner.is_hide_set())
    {
        render(inner, pages)?;
    }
    Ok(())
}
