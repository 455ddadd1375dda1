use std::collections::BTreeMap;

use crate::{
    cli::{Context, WaitArgs, credentials, output, progress, service::flags},
    model::{ImageReference, Service, ServiceSpec, TaskSpec, validate},
    proto::v1::CreateServiceRequest,
};

/// Create a service and wait until it runs.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The service's name: lower-case letters, digits and dashes.
    name: String,
    /// The image to run.
    #[arg(long)]
    image: String,
    /// How many tasks to run.
    #[arg(long, default_value_t = 1, value_name = "N", allow_negative_numbers = true)]
    replicas: u32,
    #[command(flatten)]
    lists: flags::Lists,
    #[command(flatten)]
    options: flags::Options,
    #[command(flatten)]
    wait: WaitArgs,
    /// Replaces the image's command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG", conflicts_with = "arg")]
    args: Vec<String>,
}

impl Args {
    /// What was typed, as a spec. Looks at nothing but its arguments, the files they name and, for
    /// variables without a value, at `environment`.
    fn spec(self, environment: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<ServiceSpec> {
        let mut spec = ServiceSpec {
            name: self.name,
            labels: BTreeMap::new(),
            replicas: self.replicas,
            task: TaskSpec::new(self.image.parse::<ImageReference>()?),
            publish: Vec::new(),
            limits: Default::default(),
        };
        self.options.apply(&mut spec)?;
        self.lists.apply(&mut spec, environment)?;
        if !self.args.is_empty() {
            spec.task.args = self.args;
        }
        validate::service(&spec)?;
        Ok(spec)
    }
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let wait = args.wait;
    let spec = args.spec(&|name| std::env::var(name).ok())?;
    let registry_auth = credentials::registry_auth(&spec.task.image).map(|a| (&a).into());
    let request = CreateServiceRequest { spec: Some(spec.into()), registry_auth };
    let created = context.control().await?.create_service(request).await?.into_inner();
    let service = Service::try_from(created)?;
    super::announce(context, &service, &[]).await?;
    if !wait.detach {
        progress::until_running(context, &service, progress::Failures::All, wait.timeout).await?;
    }
    output::print(&format!("{}\n", service.id))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn spec(line: &str) -> anyhow::Result<ServiceSpec> {
        let words = shlex::split(line).unwrap();
        let line = Line::try_parse_from(std::iter::once("create".to_owned()).chain(words))
            .map_err(|e| anyhow::anyhow!(crate::cli::usage(&e.to_string())))?;
        line.args.spec(&|n| (n == "HERE").then(|| "yes".to_owned()))
    }

    #[test]
    fn everything_typed_is_in_the_spec() {
        let s = spec(
            "web --image nginx --replicas 3 -p 8080:80 -e A=1 -e B=x=y -e HERE -e GONE --entrypoint '/bin/sh -c' echo -n hi --image",
        )
        .unwrap();
        assert_eq!(s.name, "web");
        assert_eq!(s.replicas, 3);
        assert_eq!(s.task.image.to_string(), "docker.io/library/nginx:latest");
        assert_eq!(s.publish[0].to_string(), "8080:80/tcp");
        let env: Vec<_> = s.task.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(env, ["A=1", "B=x=y", "HERE=yes"]);
        assert_eq!(s.task.entrypoint, Some(vec!["/bin/sh".into(), "-c".into()]));
        assert_eq!(s.task.args, ["echo", "-n", "hi", "--image"]);
    }

    #[test]
    fn an_empty_entrypoint_clears() {
        assert_eq!(spec("web --image x --entrypoint ''").unwrap().task.entrypoint, Some(vec![]));
        assert_eq!(spec("web --image x").unwrap().task.entrypoint, None);
    }

    #[test]
    fn bad_values_are_one_sentence() {
        for (line, needle) in [
            ("Web --image x", "service name"),
            ("web --image X", "image reference"),
            ("web --image x -p 80:", "bad port"),
            ("web --image x -p 80-81:80", "same length"),
            ("web --image x -p 80:80 -p 80:81", "already published"),
            ("web --image x -e =x", "environment"),
            ("web --image x --entrypoint \"'\"", "quote"),
        ] {
            let e = spec(line).unwrap_err().to_string();
            assert!(e.contains(needle) && !e.contains('\n'), "{line}: {e}");
        }
    }
}
