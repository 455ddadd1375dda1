//! What `update` adds to the lists of a service, and takes from them.

use std::{net::IpAddr, path::PathBuf};

use super::{lists::environment_of, put};
use crate::model::{
    Device, Mount, PortSpec, Security, ServiceSpec, Ulimit,
    parse::{self, Ports},
    validate::Invalid,
};

/// Additions and removals. What is not there is removed without a word, as Docker does; what is
/// added replaces an entry of the same name or place. Removals come first.
#[derive(Debug, Default, Clone, clap::Args)]
#[command(next_help_heading = "Changes of lists (each flag may be given several times)")]
pub(in crate::cli::service) struct Changes {
    /// Publish a port, or a range of them, as `create --publish` does; one that is published already
    /// is published as it says here.
    #[arg(
        short,
        long,
        visible_alias = "publish",
        value_name = "[IP:]PUBLISHED[-END]:TARGET[-END][/tcp|udp]"
    )]
    publish_add: Vec<Ports>,
    /// Publish a port of the container no longer; or one of the node's, as in 8080:80.
    #[arg(long, value_name = "TARGET[-END][/tcp|udp]")]
    publish_rm: Vec<Ports>,
    /// Set an environment variable; NAME alone takes the value it has here.
    #[arg(short, long, visible_alias = "env", value_name = "NAME=VALUE")]
    env_add: Vec<String>,
    /// Set the environment variables of a file.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Remove an environment variable.
    #[arg(long, value_name = "NAME")]
    env_rm: Vec<String>,
    /// Label the service.
    #[arg(short, long, visible_alias = "label", value_name = "NAME=VALUE", value_parser = label)]
    label_add: Vec<(String, String)>,
    /// Remove a label of the service.
    #[arg(long, value_name = "NAME")]
    label_rm: Vec<String>,
    /// Label the containers.
    #[arg(long, visible_alias = "container-label", value_name = "NAME=VALUE", value_parser = label)]
    container_label_add: Vec<(String, String)>,
    /// Remove a label of the containers.
    #[arg(long, value_name = "NAME")]
    container_label_rm: Vec<String>,
    /// Mount something.
    #[arg(long, visible_alias = "mount", value_name = "MOUNT")]
    mount_add: Vec<Mount>,
    /// Remove a mount, by its place in the container.
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<PathBuf>,
    /// Add a group.
    #[arg(long, visible_alias = "group", value_name = "GROUP")]
    group_add: Vec<String>,
    /// Remove a group.
    #[arg(long, value_name = "GROUP")]
    group_rm: Vec<String>,
    /// Add a line to /etc/hosts.
    #[arg(long, visible_alias = "host", value_name = "NAME:IP", value_parser = parse::host_entry)]
    host_add: Vec<(String, IpAddr)>,
    /// Remove the lines of a name from /etc/hosts, or one of them.
    #[arg(long, value_name = "NAME[:IP]")]
    host_rm: Vec<String>,
    /// Add a name server.
    #[arg(long, visible_alias = "dns", value_name = "IP", value_parser = parse::address)]
    dns_add: Vec<IpAddr>,
    /// Remove a name server.
    #[arg(long, value_name = "IP", value_parser = parse::address)]
    dns_rm: Vec<IpAddr>,
    /// Add a search domain.
    #[arg(long, visible_alias = "dns-search", value_name = "DOMAIN")]
    dns_search_add: Vec<String>,
    /// Remove a search domain.
    #[arg(long, value_name = "DOMAIN")]
    dns_search_rm: Vec<String>,
    /// Add an option of the resolver.
    #[arg(long, visible_alias = "dns-option", value_name = "OPTION")]
    dns_option_add: Vec<String>,
    /// Remove an option of the resolver.
    #[arg(long, value_name = "OPTION")]
    dns_option_rm: Vec<String>,
    /// Give a capability, and no longer drop it; RESET first forgets all that were added.
    #[arg(long, value_name = "CAPABILITY", value_parser = parse::capability)]
    cap_add: Vec<String>,
    /// Drop a capability, and no longer add it; RESET first forgets all that were dropped.
    #[arg(long, value_name = "CAPABILITY", value_parser = parse::capability)]
    cap_drop: Vec<String>,
    /// Let it use a device.
    #[arg(long, visible_alias = "device", value_name = "HOST[:CONTAINER[:rwm]]")]
    device_add: Vec<Device>,
    /// Remove a device, by its place in the container.
    #[arg(long, value_name = "CONTAINER", value_parser = parse::device_target)]
    device_rm: Vec<PathBuf>,
    /// Set a kernel parameter.
    #[arg(long, visible_alias = "sysctl", value_name = "NAME=VALUE", value_parser = parse::sysctl)]
    sysctl_add: Vec<(String, String)>,
    /// Leave a kernel parameter at its default.
    #[arg(long, value_name = "NAME")]
    sysctl_rm: Vec<String>,
    /// Limit its processes.
    #[arg(long, visible_alias = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimit_add: Vec<Ulimit>,
    /// Leave a limit at its default.
    #[arg(long, value_name = "NAME")]
    ulimit_rm: Vec<String>,
}

fn label(text: &str) -> Result<(String, String), Invalid> {
    parse::key_value("label", text)
}

impl Changes {
    /// Makes the changes. Reads the files that were named; `environment` knows the variables here.
    pub(in crate::cli::service) fn apply(
        self,
        spec: &mut ServiceSpec,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<()> {
        let task = &mut spec.task;
        task.env.retain(|(name, _)| !self.env_rm.contains(name));
        for entry in environment_of(&self.env_file, &self.env_add, environment)? {
            put(&mut task.env, entry);
        }

        let going: Vec<PortSpec> = self.publish_rm.into_iter().flat_map(|p| p.0).collect();
        spec.publish.retain(|p| !going.iter().any(|gone| is_meant(gone, p)));
        for port in self.publish_add.into_iter().flat_map(|p| p.0) {
            publish(&mut spec.publish, port);
        }

        spec.labels.retain(|name, _| !self.label_rm.contains(name));
        spec.labels.extend(self.label_add);
        task.labels.retain(|name, _| !self.container_label_rm.contains(name));
        task.labels.extend(self.container_label_add);

        let place = |p: &PathBuf| p.components().collect::<PathBuf>();
        let leaving: Vec<_> =
            self.mount_rm.iter().chain(self.mount_add.iter().map(|m| &m.target)).map(place).collect();
        task.mounts.retain(|m| !leaving.contains(&place(&m.target)));
        task.mounts.extend(self.mount_add);

        task.groups.retain(|g| !self.group_rm.contains(g));
        add(&mut task.groups, self.group_add);

        let names = &mut task.names;
        names.hosts.retain(|(name, ip)| {
            !self.host_rm.iter().any(|gone| match parse::host_entry(gone) {
                Ok((n, i)) => n == *name && i == *ip,
                Err(_) => gone == name,
            })
        });
        add(&mut names.hosts, self.host_add);
        names.dns.retain(|a| !self.dns_rm.contains(a));
        add(&mut names.dns, self.dns_add);
        names.dns_search.retain(|d| !self.dns_search_rm.contains(d));
        add(&mut names.dns_search, self.dns_search_add);
        names.dns_options.retain(|o| !self.dns_option_rm.contains(o));
        add(&mut names.dns_options, self.dns_option_add);

        let security = &mut task.security;
        capabilities(security, self.cap_add, self.cap_drop);
        let leaving = |d: &Device| {
            self.device_rm.contains(&d.container)
                || self.device_add.iter().any(|new| new.container == d.container)
        };
        security.devices.retain(|d| !leaving(d));
        security.devices.extend(self.device_add);
        security.sysctls.retain(|name, _| !self.sysctl_rm.contains(name));
        security.sysctls.extend(self.sysctl_add);

        let leaving = |u: &Ulimit| {
            self.ulimit_rm.contains(&u.name) || self.ulimit_add.iter().any(|new| new.name == u.name)
        };
        task.ulimits.retain(|u| !leaving(u));
        task.ulimits.extend(self.ulimit_add);
        Ok(())
    }
}

/// Adds what is not there yet.
fn add<T: PartialEq>(list: &mut Vec<T>, more: Vec<T>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// Whether to take `gone` away means `port`: all that lead to a port of the container where nothing
/// is said of the node, else the one of the node.
fn is_meant(gone: &PortSpec, port: &PortSpec) -> bool {
    let same_end = (gone.target, gone.protocol) == (port.target, port.protocol);
    match (gone.published, gone.host_ip) {
        (0, None) => same_end,
        (0, _) => gone.same_target(port),
        _ => same_end && gone.same_place(port),
    }
}

/// Publishes a port, in place of what is published at the same place. Left open, it is in the place
/// of one that was chosen for the same target: to say the same twice is no change.
fn publish(ports: &mut Vec<PortSpec>, new: PortSpec) {
    let is_it = |old: &PortSpec| match new.published {
        0 => old.same_target(&new) && (old.published == 0 || PortSpec::FREE.contains(&old.published)),
        _ => old.same_place(&new),
    };
    match ports.iter_mut().find(|old| is_it(old)) {
        Some(old) if new.published == 0 => *old = PortSpec { published: old.published, ..new },
        Some(old) => *old = new,
        None => ports.push(new),
    }
}

/// Docker's rules: to add one is to drop it no longer, and the other way round; of both in one
/// command, adding wins.
fn capabilities(security: &mut Security, mut to_add: Vec<String>, mut to_drop: Vec<String>) {
    for (list, change) in [(&mut security.cap_add, &mut to_add), (&mut security.cap_drop, &mut to_drop)] {
        if change.iter().any(|c| c == "RESET") {
            list.clear();
            change.retain(|c| c != "RESET");
        }
    }
    to_drop.retain(|c| !to_add.contains(c));
    security.cap_add.retain(|c| !to_drop.contains(c));
    security.cap_drop.retain(|c| !to_add.contains(c));
    add(&mut security.cap_add, to_add);
    add(&mut security.cap_drop, to_drop);
}
