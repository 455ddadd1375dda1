//! `warren net deny …`

use clap::Subcommand;
use ipnet::IpNet;

use crate::{
    cli::{Context, ListArgs, output},
    model::parse,
    proto::v1::{ChangeDeniedRequest, ListDeniedRequest},
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Verb {
    /// Deny the clients of networks: from the next packet on, what they send to published ports of
    /// this node is dropped, on connections they have, too.
    Add(Networks),
    /// Let the clients of networks in again.
    #[command(visible_alias = "remove")]
    Rm(Networks),
    /// List the networks that are denied.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Networks {
    /// Networks, such as 192.0.2.0/24 or 2001:db8::/48, or single addresses.
    #[arg(required = true, value_name = "NETWORK", value_parser = parse::network)]
    networks: Vec<IpNet>,
}

/// List the networks that are denied.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct LsArgs {
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn run(verb: Verb, context: &Context) -> anyhow::Result<()> {
    let mut node = context.node_local().await?;
    let texts = |n: Networks| n.networks.iter().map(ToString::to_string).collect();
    let change = match verb {
        Verb::Add(networks) => ChangeDeniedRequest { add: texts(networks), remove: Vec::new() },
        Verb::Rm(networks) => ChangeDeniedRequest { add: Vec::new(), remove: texts(networks) },
        Verb::Ls(args) => {
            let answer = node.list_denied(ListDeniedRequest {}).await?.into_inner();
            let mut list = output::List::new(["NETWORK"]);
            for network in answer.networks {
                let json = serde_json::json!({ "network": network });
                list.row(network.clone(), vec![network], json);
            }
            return list.print(args.list);
        }
    };
    node.change_denied(change).await?;
    Ok(())
}
