use super::{Context, json, output};
use crate::proto::v1::GetVolumeRequest;

/// Show volumes of this node in full, as a JSON array.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct InspectArgs {
    /// Volumes, by name.
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
    /// How to print: only as JSON, so that lists and this are asked the same way.
    #[arg(long, value_parser = ["json"], default_value = "json", value_name = "FORMAT")]
    format: String,
}

pub(super) async fn run(args: InspectArgs, context: &Context) -> anyhow::Result<()> {
    debug_assert_eq!(args.format, "json");
    let mut node = context.volumes().await?;
    let mut all = Vec::new();
    for name in args.names {
        all.push(json(&node.get_volume(GetVolumeRequest { name }).await?.into_inner()));
    }
    output::print(&format!("{:#}\n", serde_json::Value::Array(all)))
}
