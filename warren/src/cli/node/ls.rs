use crate::{
    cli::{Context, ListArgs, output::List},
    model::Node,
    proto::v1::ListNodesRequest,
};

/// List the cluster's nodes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let answer = context.control().await?.list_nodes(ListNodesRequest {}).await?.into_inner();
    let mut list = List::new(["ID", "NAME", "STATE", "AVAILABILITY", "SUBNET", "VERSION"]);
    for node in answer.nodes {
        let n = Node::try_from(node)?;
        list.row(
            n.id.to_string(),
            vec![
                n.id.to_string(),
                n.description.name.clone(),
                super::state_name(n.state).to_owned(),
                super::availability_name(n.availability).to_owned(),
                n.subnet.map(|s| s.v4.to_string()).unwrap_or_default(),
                n.description.version.clone(),
            ],
            super::node_json(&n),
        );
    }
    list.print(args.list)
}
