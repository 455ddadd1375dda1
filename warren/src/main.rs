//! The `warren` command.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    warren::cli::run(warren::cli::Cli::parse())
}
