use std::path::PathBuf;

use crate::{
    cli::{Context, output},
    node,
};

/// Remove every trace of a node: data, containers, network. The node must not be running.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The node's data directory.
    #[arg(long, default_value = node::DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

pub(in crate::cli) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    use std::io::{IsTerminal as _, Write as _};
    if !args.force && std::io::stdin().is_terminal() {
        eprint!(
            "Remove the node in {} with all of its services and containers? [y/N] ",
            args.data_dir.display()
        );
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            anyhow::bail!("nothing was removed");
        }
    }
    node::reset(&args.data_dir, &context.socket)?;
    output::print("nothing of the node is left\n")
}
