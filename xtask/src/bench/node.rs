//! `cargo xtask bench node`.

use anyhow::{Result, ensure};

use crate::{
    build_ebpf, deps,
    process::{cargo, run as execute, say},
    test, workspace,
};

/// What may be said.
#[derive(clap::Args)]
pub struct Args {
    /// How often each timing is taken
    #[arg(long, default_value_t = 10)]
    rounds: u16,
}

/// Builds the release binary as it is shipped, and measures a node that runs it.
///
/// # Errors
/// The set-up fails, or a node does not work.
pub fn run(args: &Args) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    deps::run()?;
    build_ebpf::run(&build_ebpf::Args::default())?;
    say("the release binary, and what drives it");
    execute(&mut cargo(&["build", "--release", "-p", "warren", "--bin", "warren"]))?;
    let testbox = test::testbox()?;
    execute(
        cargo(&["run", "--quiet", "-p", "warren-tests", "--bin", "bench-node", "--"])
            .arg(args.rounds.to_string())
            .env("WARREN_BIN", workspace::target()?.join("release/warren"))
            .env("WARREN_TESTBOX", testbox),
    )
}
