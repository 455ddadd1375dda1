use tonic::Code;

use crate::{
    cli::{Context, WaitArgs, credentials, output, progress, service::flags},
    model::{ImageReference, Service, ServiceSpec, validate},
    proto::v1::{GetServiceRequest, UpdateServiceRequest},
};

/// Change a service, replace its tasks one by one where they must be, and wait until all run.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The service, by name or id.
    service: String,
    /// The image to run.
    #[arg(long)]
    image: Option<ImageReference>,
    /// How many tasks to run.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    replicas: Option<u32>,
    /// Replace the image's command; words as a shell splits them; "" for the image's own.
    #[arg(long, value_name = "COMMAND", conflicts_with = "arg", allow_hyphen_values = true)]
    args: Option<flags::Words>,
    /// Replace the tasks though nothing changed.
    #[arg(long)]
    force: bool,
    /// Return to the spec before the last update: `warren service rollback`.
    #[arg(long)]
    rollback: bool,
    #[command(flatten)]
    changes: flags::Changes,
    #[command(flatten)]
    options: flags::Options,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Args {
    /// What `before` becomes. Looks at nothing but its arguments, the files they name and, for
    /// variables without a value, at `environment`.
    fn spec(
        &self,
        before: &ServiceSpec,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<ServiceSpec> {
        let mut spec = before.clone();
        if let Some(image) = &self.image {
            spec.task.image = image.clone();
        }
        spec.replicas = self.replicas.unwrap_or(spec.replicas);
        if let Some(flags::Words(words)) = &self.args {
            spec.task.args.clone_from(words);
        }
        self.options.apply(&mut spec)?;
        self.changes.clone().apply(&mut spec, environment)?;
        if self.force {
            spec.task.force_update = spec.task.force_update.wrapping_add(1);
        }
        validate::service(&spec)?;
        Ok(spec)
    }
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let environment = |name: &str| std::env::var(name).ok();
    let mut control = context.control().await?;
    let mut tries = 0;
    let (before, service) = loop {
        tries += 1;
        let request = GetServiceRequest { service: args.service.clone() };
        let before = Service::try_from(control.get_service(request).await?.into_inner())?;
        let spec = args.spec(&before.spec, &environment)?;
        if args.rollback {
            anyhow::ensure!(
                spec == before.spec,
                "--rollback returns to what was: leave the other flags away"
            );
            return super::rollback::back(&args.service, args.wait, context).await;
        }
        let registry_auth = credentials::registry_auth(&spec.task.image).map(|a| (&a).into());
        let request = UpdateServiceRequest {
            service: before.id.to_string(),
            version: before.version,
            spec: Some(spec.into()),
            registry_auth,
        };
        match control.update_service(request).await {
            // Someone else was faster: what was asked for is meant for what is there now.
            Err(status) if status.code() == Code::Aborted && tries == 1 => {}
            answer => break (before, Service::try_from(answer?.into_inner())?),
        }
    };
    super::announce(context, &service, &before.spec.publish).await?;
    if !args.wait.detach {
        progress::until_running(context, &service, progress::Failures::New, args.wait.timeout).await?;
    }
    output::print(&format!("{}\n", service.spec.name))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::model::TaskSpec;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn before() -> ServiceSpec {
        let mut task = TaskSpec::new("web:1".parse().unwrap());
        task.args = vec!["a".into()];
        ServiceSpec {
            name: "web".into(),
            labels: Default::default(),
            replicas: 2,
            task,
            publish: vec![],
            limits: Default::default(),
        }
    }

    fn after(line: &str) -> anyhow::Result<ServiceSpec> {
        let words = shlex::split(line).unwrap();
        let line = Line::try_parse_from(["update", "web"].map(str::to_owned).into_iter().chain(words))
            .map_err(|e| anyhow::anyhow!(crate::cli::usage(&e.to_string())))?;
        line.args.spec(&before(), &|_| None)
    }

    #[test]
    fn what_is_not_named_stays() {
        assert_eq!(after("").unwrap(), before());
        let changed = after("--image web:2 --replicas 5 --args 'b \"c d\"' --env-add A=1").unwrap();
        let mut expected = before();
        expected.replicas = 5;
        expected.task.image = "web:2".parse().unwrap();
        expected.task.args = vec!["b".into(), "c d".into()];
        expected.task.env = vec![("A".into(), "1".into())];
        assert_eq!(changed, expected);
        assert!(after("--args ''").unwrap().task.args.is_empty());
        let forced = after("--force").unwrap();
        assert!(!forced.task.same_container(&before().task));
    }

    #[test]
    fn an_update_keeps_the_rules() {
        for (line, needle) in [
            ("--image X", "image reference"),
            ("--args \"'\"", "quote"),
            ("--args a --arg b", "cannot be used with"),
            ("--memory 1m", "--memory"),
            ("--publish-rm x", "bad port"),
            ("--health-status 200", "--health-http"),
            ("--health-tcp 1 --health-cmd true", "cannot be used with"),
        ] {
            let e = after(line).unwrap_err().to_string();
            assert!(e.contains(needle) && !e.contains('\n'), "{line}: {e}");
        }
    }
}
