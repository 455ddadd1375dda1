use crate::{
    cli::{Context, output},
    model::Node,
    proto::v1::{GetNodeRequest, InfoRequest},
};

/// Show a node whole, as JSON.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The node, by name, id or the start of its id; this one when left away.
    node: Option<String>,
    /// How to print: only as JSON, so that lists and this are asked the same way.
    #[arg(long, value_parser = ["json"], default_value = "json", value_name = "FORMAT")]
    format: String,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    debug_assert_eq!(args.format, "json");
    let info = context.node_local().await?.info(InfoRequest {}).await?.into_inner();
    let asked = args.node.unwrap_or_else(|| info.node_id.clone());
    let answer = context.control().await?.get_node(GetNodeRequest { node: asked }).await?.into_inner();
    let node = Node::try_from(answer)?;
    let mut json = super::node_json(&node);
    if node.id.to_string() == info.node_id {
        json["local"] = serde_json::json!({
            "pid": info.pid,
            "data_dir": info.data_dir,
            "containerd_socket": info.containerd_socket,
            "containerd_pid": (info.containerd_pid != 0).then_some(info.containerd_pid),
            "pins": info.pins,
        });
    }
    output::print(&format!("{json:#}\n"))
}
