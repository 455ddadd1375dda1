//! Namespaces, kernel parameters, and what of /proc and /sys is hidden.

use std::collections::HashMap;

use oci_spec::runtime as oci;

use super::{SpecError, SpecInput, devices, mounts, resources::resources, seccomp};
use crate::model::{NetworkMode, TaskSpec};

/// Shown empty; Docker's list.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Can only be read; Docker's list.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn namespaces(input: &SpecInput<'_>) -> Result<Vec<oci::LinuxNamespace>, SpecError> {
    use oci::LinuxNamespaceType as N;
    let mut kinds = vec![N::Mount, N::Uts, N::Ipc, N::Pid];
    // With version 1 the container sees its own cgroup through bind mounts; with version 2 it
    // needs a namespace for that.
    if input.host.cgroups.unified {
        kinds.push(N::Cgroup);
    }
    // One of its own has nothing but a loopback device.
    if input.task.spec.network == NetworkMode::None {
        kinds.push(N::Network);
    }
    let mut namespaces = kinds
        .into_iter()
        .map(|kind| Ok(oci::LinuxNamespaceBuilder::default().typ(kind).build()?))
        .collect::<Result<Vec<_>, SpecError>>()?;
    if input.task.spec.network == NetworkMode::Cluster {
        namespaces.push(oci::LinuxNamespaceBuilder::default().typ(N::Network).path(input.network).build()?);
    }
    Ok(namespaces)
}

/// Kernel parameters of the container's own namespaces.
fn sysctls(spec: &TaskSpec) -> HashMap<String, String> {
    // In a container's own network namespace these two need no privilege: as with Docker.
    let free = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];
    let free = free.iter().filter(|_| spec.network != NetworkMode::Host);
    let free = free.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    free.chain(spec.security.sysctls.clone()).collect()
}

pub(super) fn linux(input: &SpecInput<'_>, process: &oci::Process) -> Result<oci::Linux, SpecError> {
    let spec = &input.task.spec;
    let security = &spec.security;
    let texts = |paths: &[&str]| {
        let shown = security.privileged || security.unmasked_paths;
        paths.iter().filter(|_| !shown).map(|&p| p.to_owned()).collect::<Vec<_>>()
    };
    let rules = devices::rules(input.devices, security.privileged)?;
    let mut linux = oci::LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .cgroups_path(input.cgroup)
        .resources(resources(&spec.resources, rules, input.host)?)
        .sysctl(sysctls(spec))
        .masked_paths(texts(&MASKED))
        .readonly_paths(texts(&READ_ONLY))
        .devices(devices::nodes(input.devices)?)
        .build()?;
    linux.set_seccomp(seccomp::filter(security, process, input.host)?);
    linux.set_rootfs_propagation(mounts::root_propagation(input.mounts).map(str::to_owned));
    Ok(linux)
}
