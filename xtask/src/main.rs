//! The project's own commands: build the image, test, demonstrate, measure.

mod bench;
mod demo;
mod image;
mod initrd;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tests, demonstrates and measures Surplus.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds the boot artefacts into target/image.
    Image(image::Args),
    /// Runs every test, or one part.
    Test(test::Args),
    /// Boots a host, rents a guest on it, shows its console and its bill.
    Demo(demo::Args),
    /// Measures what the budgets promise.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Image(args) => image::run(&workspace_root(), &args),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The directory of the workspace's `Cargo.toml`.
fn workspace_root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or(xtask.clone(), PathBuf::from)
}
