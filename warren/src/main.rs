//! The `warren` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    warren::cli::main()
}
