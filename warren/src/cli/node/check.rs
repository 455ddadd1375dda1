use super::start;
use crate::{
    cli::{Context, output},
    node,
};

pub(in crate::cli) fn run(args: start::Args, context: &Context) -> anyhow::Result<()> {
    let problems = node::check(&args.config(context));
    if problems.is_empty() {
        return output::print("a node can start here\n");
    }
    for p in &problems {
        output::print(&format!("problem: {p}\n"))?;
    }
    anyhow::bail!("a node cannot start here: mend what is named above")
}
