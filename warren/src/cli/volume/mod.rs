//! `warren volume …`

mod create;
mod inspect;
mod ls;
mod prune;
mod rm;

use clap::Subcommand;

use super::{Context, output};
use crate::proto::v1::Volume;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create a volume on this node.
    Create(create::CreateArgs),
    /// Show volumes of this node in full.
    Inspect(inspect::InspectArgs),
    /// List the volumes on this node.
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Remove the volumes that no service names and no task uses.
    Prune(prune::PruneArgs),
    /// Remove volumes from this node, and what is in them.
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
}

pub(super) async fn run(verb: Verb, context: &Context) -> anyhow::Result<()> {
    match verb {
        Verb::Create(args) => create::run(args, context).await,
        Verb::Inspect(args) => inspect::run(args, context).await,
        Verb::Ls(args) => ls::run(args, context).await,
        Verb::Prune(args) => prune::run(args, context).await,
        Verb::Rm(args) => rm::run(args, context).await,
    }
}

/// A volume as JSON.
fn json(v: &Volume) -> serde_json::Value {
    let labels: std::collections::BTreeMap<_, _> = v.labels.iter().collect();
    let mut json = serde_json::json!({
        "name": v.name,
        "labels": labels,
        "path": v.path,
        "created_at_ms": v.created_at_ms,
        "services": v.services,
    });
    if let Some(size) = v.size {
        json["size"] = size.into();
    }
    json
}
