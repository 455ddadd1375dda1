use crate::{
    cli::{Context, WaitArgs, output, progress},
    model::Service,
    proto::v1::RollbackServiceRequest,
};

/// Return a service to its spec before the last update, and wait until all tasks run it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The service, by name or id.
    service: String,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    back(&args.service, args.wait, context).await
}

/// The same for `update --rollback`.
pub(super) async fn back(service: &str, wait: WaitArgs, context: &Context) -> anyhow::Result<()> {
    let request = RollbackServiceRequest { service: service.to_owned() };
    let answer = context.control().await?.rollback_service(request).await?;
    let service = Service::try_from(answer.into_inner())?;
    let before = service.previous.as_ref().map(|p| p.publish.as_slice());
    super::announce(context, &service, before.unwrap_or_default()).await?;
    if !wait.detach {
        progress::until_running(context, &service, progress::Failures::New, wait.timeout).await?;
    }
    output::print(&format!("{}\n", service.spec.name))
}
