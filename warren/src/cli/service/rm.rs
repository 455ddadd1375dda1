use crate::{
    cli::{Context, WaitArgs, output, progress},
    model::Service,
    proto::v1::RemoveServiceRequest,
};

/// Remove services and wait until nothing of them is left.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Services, by name or id.
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let mut control = context.control().await?;
    let mut removed = Vec::new();
    for service in args.services {
        let answer = control.remove_service(RemoveServiceRequest { service: service.clone() }).await?;
        removed.push((service, Service::try_from(answer.into_inner())?));
    }
    for (asked, service) in removed {
        if !args.wait.detach {
            progress::until_gone(context, &service, args.wait.timeout).await?;
        }
        output::print(&format!("{asked}\n"))?;
    }
    Ok(())
}
