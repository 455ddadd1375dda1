use std::io::{BufRead as _, IsTerminal as _, Write as _};

use super::{Context, json, output};
use crate::{cli::Format, proto::v1::PruneVolumesRequest};

/// Remove the volumes that no service names and no task uses, and what is in them.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PruneArgs {
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
    /// Only show what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

pub(super) async fn run(args: PruneArgs, context: &Context) -> anyhow::Result<()> {
    if !args.force && !args.dry_run && !confirmed()? {
        return Ok(());
    }
    let request = PruneVolumesRequest { dry_run: args.dry_run };
    let gone = context.volumes().await?.prune_volumes(request).await?.into_inner();
    let text = match args.format {
        Format::Json => {
            let volumes: Vec<_> = gone.volumes.iter().map(json).collect();
            format!("{:#}\n", serde_json::json!({ "volumes": volumes, "reclaimed": gone.reclaimed }))
        }
        Format::Table => {
            let names: String = gone.volumes.iter().map(|v| format!("{}\n", v.name)).collect();
            let freed = if args.dry_run { "would be freed" } else { "freed" };
            format!("{names}{} {freed}\n", indicatif::HumanBytes(gone.reclaimed))
        }
    };
    output::print(&text)
}

fn confirmed() -> anyhow::Result<bool> {
    let question = "This removes every volume that no service names and no task uses.";
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("{question} Say --force to do it without being asked");
    }
    eprint!("{question} Go on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
