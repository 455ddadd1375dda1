//! `cargo xtask demo`: set-up, then the main job on this machine.

use anyhow::{Result, bail};

use crate::{
    build_ebpf, deps,
    process::{cargo, is_root, run as execute, say},
    test,
};

/// What may be said.
#[derive(clap::Args)]
pub struct Args {
    /// Leave the node running, to look around
    #[arg(long)]
    keep: bool,
}

/// Builds everything and runs the demo.
///
/// # Errors
/// Not root, the set-up fails, or what is shown does not work.
pub fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!("needs root (network namespaces, BPF, containerd): run `sudo -E cargo xtask demo`");
    }
    deps::run()?;
    build_ebpf::run(&build_ebpf::Args::default())?;
    say("warren, and the binary of the demo's image");
    let built = test::binaries()?;
    let mut demo = cargo(&["run", "--quiet", "-p", "warren-tests", "--bin", "demo", "--"]);
    demo.env("WARREN_BIN", &built.warren).env("WARREN_TESTBOX", &built.testbox);
    if args.keep {
        demo.arg("--keep");
    }
    execute(&mut demo)
}
