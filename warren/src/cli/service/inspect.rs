use crate::{
    cli::{Context, output, service::show},
    model::{Service, Task},
    proto::v1::{GetServiceRequest, ListTasksRequest},
};

/// Show a service whole, as JSON.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The service, by name or id.
    service: String,
    /// How to print: only as JSON, so that lists and this are asked the same way.
    #[arg(long, value_parser = ["json"], default_value = "json", value_name = "FORMAT")]
    format: String,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    debug_assert_eq!(args.format, "json");
    let mut control = context.control().await?;
    let request = GetServiceRequest { service: args.service };
    let service = Service::try_from(control.get_service(request).await?.into_inner())?;
    let request = ListTasksRequest { service: service.id.to_string() };
    let mut tasks = Vec::new();
    for task in control.list_tasks(request).await?.into_inner().tasks {
        tasks.push(super::task_json(&Task::try_from(task)?));
    }
    let mut json = show::service(&service);
    json["previous"] = service.previous.as_ref().map(show::spec).into();
    json["tasks"] = tasks.into();
    output::print(&format!("{json:#}\n"))
}
