//! `cargo xtask bench`: what Warren costs, on this machine.

mod node;

use anyhow::{Result, bail};

use crate::process::is_root;

/// What may be said.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A node: start, service to first byte, memory, processor, size; beside Docker's engine where
    /// that is installed
    Node(node::Args),
}

/// Builds what is measured and measures it.
///
/// # Errors
/// Not root, the set-up fails, or what is measured does not work.
pub fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!("needs root (network namespaces, BPF, containerd): run `sudo -E cargo xtask bench …`");
    }
    match &args.what {
        What::Node(args) => node::run(args),
    }
}
