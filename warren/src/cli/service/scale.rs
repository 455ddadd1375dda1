use crate::{
    cli::{Context, WaitArgs, output, progress},
    model::Service,
    proto::v1::ScaleServiceRequest,
};

/// Change the number of replicas and wait until they run.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Services and how many replicas each is to have.
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    services: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

fn parse(text: &str) -> anyhow::Result<ScaleServiceRequest> {
    let (service, replicas) = text.split_once('=').unwrap_or((text, ""));
    match replicas.parse() {
        Ok(replicas) if !service.is_empty() => {
            Ok(ScaleServiceRequest { service: service.to_owned(), replicas })
        }
        _ => anyhow::bail!("bad scale {text:?}: write it as SERVICE=REPLICAS, for example web=3"),
    }
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    // All of the line is understood before any of it is done.
    let requests = args.services.iter().map(|s| parse(s)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut control = context.control().await?;
    let mut scaled = Vec::new();
    for request in requests {
        scaled.push(Service::try_from(control.scale_service(request).await?.into_inner())?);
    }
    for service in &scaled {
        if !args.wait.detach {
            progress::until_running(context, service, progress::Failures::New, args.wait.timeout).await?;
        }
        output::print(&format!("{} scaled to {}\n", service.spec.name, service.spec.replicas))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let r = parse("web=3").unwrap();
        assert_eq!((r.service.as_str(), r.replicas), ("web", 3));
        for bad in ["web", "web=", "=3", "web=-1", "web=x", "web=3=4"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
