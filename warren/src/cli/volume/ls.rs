use super::{Context, json, output};
use crate::{cli::ListArgs, proto::v1::ListVolumesRequest};

/// List the volumes on this node.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct LsArgs {
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn run(args: LsArgs, context: &Context) -> anyhow::Result<()> {
    let answer = context.volumes().await?.list_volumes(ListVolumesRequest {}).await?.into_inner();
    let mut list = output::List::new(["NAME", "SERVICES", "PATH"]);
    for v in answer.volumes {
        let cells = vec![v.name.clone(), v.services.join(","), v.path.clone()];
        list.row(v.name.clone(), cells, json(&v));
    }
    list.print(args.list)
}
