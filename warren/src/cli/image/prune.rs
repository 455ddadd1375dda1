//! `warren image prune`.

use std::io::{BufRead as _, IsTerminal as _};

use indicatif::HumanBytes;

use super::{Context, output};
use crate::{model::ImageReference, proto::v1::PruneImagesRequest};

/// Remove every image that no service needs.
///
/// Images of running tasks, of services, and of what a service can be rolled back to stay.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let mut node = context.images().await?;
    if !args.dry_run && !args.force {
        let would = node.prune_images(PruneImagesRequest { dry_run: true }).await?.into_inner();
        if !confirmed(would.images.len(), would.reclaimed)? {
            anyhow::bail!("nothing was removed");
        }
    }
    let pruned = node.prune_images(PruneImagesRequest { dry_run: args.dry_run }).await?.into_inner();
    for image in &pruned.images {
        let name = image.reference.parse::<ImageReference>();
        let name = name.map_or_else(|_| image.reference.clone(), |r| r.familiar());
        output::print(&format!("{name}\n"))?;
    }
    let done = if args.dry_run { "would be reclaimed" } else { "reclaimed" };
    eprintln!("{} {done}", HumanBytes(pruned.reclaimed));
    Ok(())
}

fn confirmed(images: usize, bytes: u64) -> anyhow::Result<bool> {
    if images == 0 {
        return Ok(true);
    }
    anyhow::ensure!(
        std::io::stdin().is_terminal(),
        "this would remove {images} images ({}): say so with --force, or look first with --dry-run",
        HumanBytes(bytes)
    );
    eprint!("Remove {images} images that no service needs ({})? [y/N] ", HumanBytes(bytes));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
