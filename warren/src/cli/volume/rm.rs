use super::{Context, output};
use crate::proto::v1::RemoveVolumeRequest;

/// Remove volumes from this node, and what is in them.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RmArgs {
    /// Do not mind volumes that are not there.
    #[arg(short, long)]
    force: bool,
    /// Volumes, by name.
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

pub(super) async fn run(args: RmArgs, context: &Context) -> anyhow::Result<()> {
    let mut node = context.volumes().await?;
    for name in args.names {
        match node.remove_volume(RemoveVolumeRequest { name: name.clone() }).await {
            Err(e) if args.force && e.code() == tonic::Code::NotFound => {}
            removed => _ = removed?,
        }
        output::print(&format!("{name}\n"))?;
    }
    Ok(())
}
