//! Containers through containerd: images, life cycle, and an own containerd when none is given.
//!
//! Nothing here is shared with a Docker or with another node on the same kernel: each node has its
//! containerd namespace, its runc root and its cgroup parent. containerd may die and come back at
//! any time; containers belong to their shims and outlive both it and the agent.
//!
//! The snapshot of a task is the first thing made and its container record the last one removed,
//! so that [`Containerd`]'s list always names what is whole or half-made.

mod bundle;
mod client;
mod connect;
mod containerd;
pub mod copy;
mod ends;
pub mod exec;
mod failure;
mod files;
mod health;
mod host;
pub mod image;
mod preflight;
mod remains;
mod reset;
mod rootfs;
mod shim;
pub mod spec;
pub mod stats;
mod supervisor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use self::{
    connect::ConnectError,
    containerd::Containerd,
    ends::Ends,
    exec::RunOutput,
    image::{ImageError, ImageInfo, ImageStore, ResolvedImage},
    preflight::{Preflight, PreflightError, discover, preflight},
    reset::{ResetError, reset},
    supervisor::{Supervisor, SupervisorConfig, SupervisorError},
};
use crate::{
    model::{NodeId, TaskId},
    worker::logs::Logs,
};

/// The snapshotter images are unpacked into.
const SNAPSHOTTER: &str = "overlayfs";

/// Where one node keeps its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The node; its id is in every name that others on this kernel could also use.
    pub node: NodeId,
    /// containerd's gRPC socket.
    pub socket: PathBuf,
    /// containerd namespace, `warren-<node>`.
    pub namespace: String,
    /// What need not outlive a boot (on a tmpfs): runc's root.
    pub state_dir: PathBuf,
    /// What does: the files bound into each container, archives while they are imported.
    pub data_dir: PathBuf,
    /// Volumes: what is to outlive the containers.
    pub volumes_dir: PathBuf,
    /// Parent of the containers' cgroups in every hierarchy, `/warren/<node>`.
    pub cgroup_parent: String,
    /// Where what they write goes. It outlives them.
    pub logs: Logs,
}

impl RuntimeConfig {
    /// The configuration of `node`: names made from its id.
    #[must_use]
    pub fn new(node: NodeId, socket: PathBuf, state_dir: PathBuf, data_dir: PathBuf) -> Self {
        Self {
            node,
            socket,
            namespace: format!("warren-{node}"),
            volumes_dir: data_dir.join("volumes"),
            state_dir,
            logs: Logs::below(&data_dir),
            data_dir,
            cgroup_parent: format!("/warren/{node}"),
        }
    }

    /// runc's root; runc's shim puts a directory per namespace into it.
    fn runc_root(&self) -> PathBuf {
        self.state_dir.join("runc")
    }

    /// Files of one task.
    fn task_dir(&self, task: TaskId) -> PathBuf {
        self.data_dir.join("tasks").join(task.as_str())
    }

    /// Files of all tasks.
    fn tasks_dir(&self) -> PathBuf {
        self.data_dir.join("tasks")
    }

    /// Archives while they are read.
    fn import_dir(&self) -> PathBuf {
        self.data_dir.join("import")
    }

    /// Directories of programs run inside containers.
    fn exec_dir(&self) -> PathBuf {
        self.state_dir.join("exec")
    }

    /// A task's cgroup, as runc's spec names it.
    fn cgroup(&self, task: TaskId) -> String {
        format!("{}/{task}", self.cgroup_parent)
    }
}
