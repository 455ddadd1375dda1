//! The lists of a new service.

use std::net::IpAddr;

use anyhow::Context as _;

use super::put;
use crate::model::{
    Device, Mount, ServiceSpec, Ulimit,
    parse::{self, Ports},
    validate,
};

/// Flags that may be given several times.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Lists (each flag may be given several times)")]
pub(in crate::cli::service) struct Lists {
    /// Publish a port of the service, or a range of them; without PUBLISHED on a free one of 30000
    /// to 32767. Or published=…,target=…,protocol=…,ip=…,from=CIDR,mode=ingress|host.
    #[arg(short, long, value_name = "[IP:]PUBLISHED[-END]:TARGET[-END][/tcp|udp]")]
    publish: Vec<Ports>,
    /// Set an environment variable; NAME alone takes the value it has here.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Set the environment variables of a file: NAME=VALUE or NAME, a line each.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Label the service.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Label the service's containers.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    container_label: Vec<(String, String)>,
    /// Mount something: type=bind|volume|tmpfs,source=…,target=…,….
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<Mount>,
    /// Make the process a member of another group, by name or number.
    #[arg(long, visible_alias = "group-add", value_name = "GROUP")]
    group: Vec<String>,
    /// Add a line to /etc/hosts.
    #[arg(long, visible_alias = "add-host", value_name = "NAME:IP", value_parser = parse::host_entry)]
    host: Vec<(String, IpAddr)>,
    /// Ask this name server instead of the node's.
    #[arg(long, value_name = "IP", value_parser = parse::address)]
    dns: Vec<IpAddr>,
    /// Search names in this domain instead of the node's; "." for none.
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Set an option of the resolver instead of the node's.
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Give a capability beyond Docker's default ones.
    #[arg(long, value_name = "CAPABILITY", value_parser = parse::capability)]
    cap_add: Vec<String>,
    /// Take away a capability of the default ones, or ALL.
    #[arg(long, value_name = "CAPABILITY", value_parser = parse::capability)]
    cap_drop: Vec<String>,
    /// Let it use a device of the node.
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]")]
    device: Vec<Device>,
    /// Set a kernel parameter of the container's own.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::sysctl)]
    sysctl: Vec<(String, String)>,
    /// Limit its processes: nofile, nproc, ….
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<Ulimit>,
}

fn label(text: &str) -> Result<(String, String), validate::Invalid> {
    parse::key_value("label", text)
}

impl Lists {
    /// Puts what was given into the spec. Reads the files that were named; `environment` knows the
    /// variables here.
    pub(in crate::cli::service) fn apply(
        self,
        spec: &mut ServiceSpec,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<()> {
        let task = &mut spec.task;
        for entry in environment_of(&self.env_file, &self.env, environment)? {
            put(&mut task.env, entry);
        }
        spec.publish.extend(self.publish.into_iter().flat_map(|p| p.0));
        spec.labels.extend(self.label);
        task.labels.extend(self.container_label);
        task.mounts.extend(self.mount);
        task.groups.extend(self.group);
        task.names.hosts.extend(self.host);
        task.names.dns.extend(self.dns);
        task.names.dns_search.extend(self.dns_search);
        task.names.dns_options.extend(self.dns_option);
        task.security.cap_add.extend(self.cap_add);
        task.security.cap_drop.extend(self.cap_drop);
        task.security.devices.extend(self.device);
        task.security.sysctls.extend(self.sysctl);
        task.ulimits.extend(self.ulimit);
        Ok(())
    }
}

/// Variables of files, then those of flags, which win.
pub(super) fn environment_of(
    files: &[String],
    flags: &[String],
    environment: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for file in files {
        let content = std::fs::read(file).with_context(|| format!("cannot read --env-file {file}"))?;
        found.extend(parse::env_file(file, &content, environment)?);
    }
    for entry in flags {
        if entry.contains('=') {
            found.push(validate::env_entry(entry)?);
        } else if let Some(value) = environment(entry) {
            // Docker's rule: a variable that is not set here is left out.
            found.push(validate::env_entry(&format!("{entry}={value}"))?);
        }
    }
    Ok(found)
}
