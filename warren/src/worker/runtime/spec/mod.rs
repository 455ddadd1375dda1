//! A task and its image, made the specification that runc runs. Pure: what has to be looked up or
//! made on the node comes in as data. Defaults are Docker's.
//!
//! A file for each noun: `process`, `mounts`, `linux` (namespaces, kernel parameters, hidden
//! paths), `capabilities`, `seccomp`, `resources`, `devices`; `image` and `user` are what an image
//! says. What the node cannot give is refused by the name of its option, never left out. What could
//! be known without a node is `model::validate`'s.

pub(super) mod capabilities;
mod devices;
mod image;
mod linux;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod user;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use oci_spec::runtime as oci;

pub(super) use self::mounts::{clean, uses_node_files};
pub use self::{
    devices::HostDevice,
    image::{ImageConfig, ImageHealthcheck},
    mounts::{HostMount, HostSource},
    process::host_name,
    user::{User, UserError, resolve_user},
};
pub use super::{files::TaskFiles, rootfs::Accounts};
use crate::model::{Task, validate};

/// Where a container finds its small init, as Docker's do.
const INIT: &str = "/sbin/docker-init";

/// CAP_SYS_RESOURCE.
const SYS_RESOURCE: u32 = 24;

/// What the node is like, and what it may give its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its host name.
    pub name: String,
    /// Most open files a process may ask for by default.
    pub open_files: u64,
    /// Hard limits of this process, by setrlimit's names; those that are unlimited are not here.
    pub hard_limits: BTreeMap<String, u64>,
    /// `oom_score_adj` of this process.
    pub oom_score_adj: i32,
    /// Capabilities this process can give on, a bit each.
    pub capabilities: u64,
    /// The kernel's version.
    pub kernel: (u32, u32),
    /// Whether it has seccomp filters.
    pub seccomp: bool,
    /// Whether it runs AppArmor.
    pub apparmor: bool,
    /// Its cgroups.
    pub cgroups: Cgroups,
    /// A statically linked small init, if there is one.
    pub init: Option<PathBuf>,
}

impl Host {
    /// Whether it may set limits beyond its own.
    fn may_raise_limits(&self) -> bool {
        self.capabilities & (1 << SYS_RESOURCE) != 0
    }
}

/// The node's cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// Whether the only hierarchy is version 2.
    pub unified: bool,
    /// Controllers that containers can have.
    pub controllers: BTreeSet<String>,
    /// Whether swap is counted.
    pub swap: bool,
}

/// All that goes into a specification.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its image.
    pub image: &'a ImageConfig,
    /// The user, looked up.
    pub user: &'a User,
    /// The network namespace to join, when it is of the cluster's network.
    pub network: &'a Path,
    /// The container's cgroup.
    pub cgroup: &'a str,
    /// The files bound into /etc.
    pub files: &'a TaskFiles,
    /// What else is mounted.
    pub mounts: &'a [HostMount],
    /// Devices beyond those every container has.
    pub devices: &'a [HostDevice],
    /// The node.
    pub host: &'a Host,
}

/// No specification can be made of the task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// An option that no node could keep.
    #[error("cannot start: {0}")]
    Invalid(#[from] validate::Invalid),
    /// Neither task nor image say what to run.
    #[error(
        "cannot start: neither the service nor the image {0} names a command; add one after the options of service create"
    )]
    NoCommand(String),
    /// The node cannot give what an option asks for.
    #[error("cannot start: {0}")]
    Refused(String),
    /// The specification did not come together.
    #[error("cannot start: {0}")]
    Build(String),
}

impl From<oci_spec::OciSpecError> for SpecError {
    fn from(e: oci_spec::OciSpecError) -> Self {
        Self::Build(e.to_string())
    }
}

/// Makes the specification.
pub fn runtime_spec(input: &SpecInput<'_>) -> Result<oci::Spec, SpecError> {
    validate::task(&input.task.spec)?;
    let hostname = host_name(input.task, &input.host.name);
    let process = process::process(input, &hostname)?;
    let root = oci::RootBuilder::default().path("rootfs").readonly(input.task.spec.read_only).build()?;
    let linux = linux::linux(input, &process)?;
    let mut spec = oci::SpecBuilder::default()
        .version("1.0.2")
        .root(root)
        .process(process)
        .hostname(hostname)
        .mounts(mounts::mounts(input)?)
        .linux(linux)
        .build()?;
    spec.set_annotations(None);
    Ok(spec)
}

#[cfg(test)]
mod tests;
