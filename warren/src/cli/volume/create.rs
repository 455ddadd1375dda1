use super::{Context, output};
use crate::proto::v1::CreateVolumeRequest;

/// Create a volume on this node.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CreateArgs {
    /// Its name; one is made up when absent.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Label it.
    #[arg(short, long = "label", value_name = "KEY[=VALUE]")]
    labels: Vec<String>,
}

pub(super) async fn run(args: CreateArgs, context: &Context) -> anyhow::Result<()> {
    let label = |text: String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (text, String::new()),
    };
    let labels = args.labels.into_iter().map(label).collect();
    let name = args.name.unwrap_or_else(|| hex::encode(rand::random::<[u8; 32]>()));
    let made = context.volumes().await?.create_volume(CreateVolumeRequest { name, labels }).await?;
    output::print(&format!("{}\n", made.into_inner().name))
}
