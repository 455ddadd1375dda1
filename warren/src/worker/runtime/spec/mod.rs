//! A task and its image, made the specification that runc runs. Pure; defaults are Docker's.

mod image;
mod user;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use oci_spec::runtime as oci;

pub use self::{
    image::{ImageConfig, ImageHealthcheck},
    user::{User, UserError, resolve_user},
};
pub use super::{files::TaskFiles, rootfs::Accounts};
use crate::model::Task;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the host lets its containers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// Most open files a process may ask for.
    pub open_files: u64,
    /// `oom_score_adj` of containers: 0, or more where this process may not lower it to that.
    pub oom_score_adj: i32,
    /// Whether the only cgroup hierarchy is version 2.
    pub unified_cgroup: bool,
}

/// All that goes into a specification.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its image.
    pub image: &'a ImageConfig,
    /// The image's user, looked up.
    pub user: &'a User,
    /// The network namespace to join.
    pub network: &'a Path,
    /// The container's cgroup.
    pub cgroup: &'a str,
    /// The files bound into /etc.
    pub files: &'a TaskFiles,
    /// The host.
    pub host: HostLimits,
}

/// No specification can be made of the task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither task nor image say what to run.
    #[error(
        "cannot start: neither the service nor the image {0} names a command; add one after the options of service create"
    )]
    NoCommand(String),
    /// The specification did not come together.
    #[error("cannot start: {0}")]
    Build(String),
}

impl From<oci_spec::OciSpecError> for SpecError {
    fn from(e: oci_spec::OciSpecError) -> Self {
        Self::Build(e.to_string())
    }
}

/// The host name in a container: service and slot, within the 64 bytes the kernel allows.
#[must_use]
pub fn host_name(task: &Task) -> String {
    let slot = format!("-{}", task.slot);
    let mut name = task.service_name.clone();
    name.truncate(63 - slot.len().min(63));
    format!("{}{slot}", name.trim_end_matches('-'))
}

/// What is executed. Naming an entrypoint also drops the image's command, as with Docker.
fn command(task: &Task, image: &ImageConfig) -> Vec<String> {
    let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    let (mut argv, cmd) = match &task.spec.entrypoint {
        Some(own) => (own.iter().filter(|_| own != &[""]).cloned().collect(), Vec::new()),
        None => (list(&image.entrypoint), list(&image.cmd)),
    };
    if task.spec.args.is_empty() {
        argv.extend(cmd);
    } else {
        argv.extend(task.spec.args.iter().cloned());
    }
    argv
}

/// PATH and HOSTNAME, the image's variables, the service's; the later of a name wins.
fn environment(task: &Task, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<(String, String)> =
        vec![("PATH".to_owned(), PATH.to_owned()), ("HOSTNAME".to_owned(), hostname.to_owned())];
    let own = image.env.iter().flatten().map(|v| {
        let (name, value) = v.split_once('=').unwrap_or((v, ""));
        (name.to_owned(), value.to_owned())
    });
    for (name, value) in own.chain(task.spec.env.iter().cloned()) {
        match env.iter_mut().find(|(n, _)| *n == name) {
            Some(known) => known.1 = value,
            None => env.push((name, value)),
        }
    }
    env.into_iter().map(|(n, v)| format!("{n}={v}")).collect()
}

/// Makes the specification.
pub fn runtime_spec(input: &SpecInput<'_>) -> Result<oci::Spec, SpecError> {
    let args = command(input.task, input.image);
    if args.is_empty() {
        return Err(SpecError::NoCommand(input.task.spec.image.familiar()));
    }
    let hostname = host_name(input.task);
    let cwd = match input.image.working_dir.as_deref() {
        None | Some("") => "/".to_owned(),
        Some(dir) if dir.starts_with('/') => dir.to_owned(),
        Some(dir) => format!("/{dir}"),
    };
    let user = oci::UserBuilder::default()
        .uid(input.user.uid)
        .gid(input.user.gid)
        .additional_gids(input.user.groups.clone())
        .build()?;
    let files = oci::PosixRlimitBuilder::default()
        .typ(oci::PosixRlimitType::RlimitNofile)
        .soft(input.host.open_files.min(1024))
        .hard(input.host.open_files)
        .build()?;
    let process = oci::ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(args)
        .env(environment(input.task, input.image, &hostname))
        .cwd(cwd)
        .capabilities(capabilities(input.user.uid)?)
        .rlimits([files])
        .oom_score_adj(input.host.oom_score_adj)
        .no_new_privileges(false)
        .build()?;
    let root = oci::RootBuilder::default().path("rootfs").readonly(false).build()?;
    let mut spec = oci::SpecBuilder::default()
        .version("1.0.2")
        .root(root)
        .process(process)
        .hostname(hostname)
        .mounts(mounts(input.files)?)
        .linux(linux(input)?)
        .build()?;
    spec.set_annotations(None);
    Ok(spec)
}

/// Docker's default set. A user other than root has it in its bounding set only, as after any
/// other execve.
fn capabilities(uid: u32) -> Result<oci::LinuxCapabilities, SpecError> {
    use oci::Capability as C;
    let set: HashSet<C> = HashSet::from([
        C::AuditWrite,
        C::Chown,
        C::DacOverride,
        C::Fowner,
        C::Fsetid,
        C::Kill,
        C::Mknod,
        C::NetBindService,
        C::NetRaw,
        C::Setfcap,
        C::Setgid,
        C::Setpcap,
        C::Setuid,
        C::SysChroot,
    ]);
    let own = if uid == 0 { set.clone() } else { HashSet::new() };
    Ok(oci::LinuxCapabilitiesBuilder::default()
        .bounding(set)
        .effective(own.clone())
        .permitted(own)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?)
}

fn mounts(files: &TaskFiles) -> Result<Vec<oci::Mount>, SpecError> {
    let made = [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
    ]
    .map(|(to, kind, from, options)| (to, kind, PathBuf::from(from), options));
    let bound = [
        ("/etc/hosts", &files.hosts),
        ("/etc/hostname", &files.hostname),
        ("/etc/resolv.conf", &files.resolv_conf),
    ]
    .map(|(to, from)| (to, "bind", from.clone(), "rbind,rprivate"));
    made.into_iter()
        .chain(bound)
        .map(|(to, kind, from, options)| {
            Ok(oci::MountBuilder::default()
                .destination(to)
                .typ(kind)
                .source(from)
                .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
                .build()?)
        })
        .collect()
}

fn linux(input: &SpecInput<'_>) -> Result<oci::Linux, SpecError> {
    use oci::LinuxNamespaceType as N;
    let mut kinds = vec![N::Mount, N::Uts, N::Ipc, N::Pid];
    // With version 1 the container sees its own cgroup through bind mounts; with version 2 it
    // needs a namespace for that.
    if input.host.unified_cgroup {
        kinds.push(N::Cgroup);
    }
    let mut namespaces = kinds
        .into_iter()
        .map(|kind| Ok(oci::LinuxNamespaceBuilder::default().typ(kind).build()?))
        .collect::<Result<Vec<_>, SpecError>>()?;
    namespaces.push(oci::LinuxNamespaceBuilder::default().typ(N::Network).path(input.network).build()?);
    // runc adds the devices every container may use (null, zero, tty, …).
    let deny = oci::LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?;
    let resources = oci::LinuxResourcesBuilder::default().devices([deny]).build()?;
    // In a container's own network namespace these two need no privilege: as with Docker.
    let sysctl = HashMap::from([
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
        ("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned()),
    ]);
    let masked = [
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
    let readonly = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    let texts = |paths: &[&str]| paths.iter().map(|&p| p.to_owned()).collect::<Vec<_>>();
    Ok(oci::LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(input.cgroup)
        .resources(resources)
        .sysctl(sysctl)
        .masked_paths(texts(&masked))
        .readonly_paths(texts(&readonly))
        .devices(Vec::new())
        .build()?)
}

#[cfg(test)]
mod tests;
