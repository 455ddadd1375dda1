use crate::{
    cli::{Context, ListArgs, output::List},
    model::{Service, parse},
    proto::v1::ListServicesRequest,
};

/// List services.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let answer = context.control().await?.list_services(ListServicesRequest {}).await?.into_inner();
    let mut list = List::new(["ID", "NAME", "REPLICAS", "IMAGE", "PORTS"]);
    for row in answer.rows {
        let service = Service::try_from(row.service.unwrap_or_default())?;
        let mut json = super::show::service(&service);
        json["running"] = row.running.into();
        let removing = if service.removing { " (removing)" } else { "" };
        list.row(
            service.id.to_string(),
            vec![
                service.id.to_string(),
                service.spec.name.clone(),
                format!("{}/{}{removing}", row.running, service.spec.replicas),
                service.spec.task.image.familiar(),
                parse::written(&service.spec.publish),
            ],
            json,
        );
    }
    list.print(args.list)
}
