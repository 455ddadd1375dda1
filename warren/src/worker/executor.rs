//! The outside of a worker: what it needs of a container runtime and of a network. Each trait is
//! what the worker asks for, no more; the real ones live in `worker::runtime` and, through an
//! adapter of `node`, in `net`; the fakes in `worker::testing`.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::model::{Attachment, HealthCheck, Task, TaskId};

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit status; 128 + n after signal n.
    pub code: i32,
    /// Whether the kernel killed one of its processes because memory ran out.
    pub oom_killed: bool,
}

impl Exit {
    /// Nobody was there to see how it ended: the machine or what watched the container went first.
    /// No real exit status is negative.
    pub const UNSEEN: Self = Self::with(-1);

    /// An end with this status that memory had no part in.
    #[must_use]
    pub const fn with(code: i32) -> Self {
        Self { code, oom_killed: false }
    }
}

/// A container as the runtime has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made (record, file system, and perhaps a task that was never started), nothing runs.
    Created,
    /// Its process runs.
    Running {
        /// The process, as this host's namespace numbers it.
        pid: u32,
    },
    /// Its process has ended and the remains are still there.
    Stopped(Exit),
}

/// Why the runtime could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// Trying again will not help: the task is to be rejected. One sentence for the user.
    #[error("{0}")]
    Fatal(String),
    /// The runtime is away or busy: try again later.
    #[error("{0}")]
    Temporary(String),
}

/// What the container is joined to at its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkNamespace {
    /// A bind-mounted network namespace; empty for a task that has no place in the cluster's
    /// network (its own [`NetworkMode`](crate::model::NetworkMode) then says what it gets).
    pub path: PathBuf,
}

/// A container runtime. Every call may be repeated: what is already so is no error, and a call
/// that was cut off half-way (the agent died) is completed by the same call later.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Everything of this node's that the runtime holds, whole or half-made.
    async fn list(&self) -> Result<Vec<(TaskId, ContainerState)>, RuntimeError>;

    /// Brings what `prepare` needs from elsewhere: the image. May take long; `tell` gets one line
    /// on how far it is, whenever that changes. May be given up at any moment.
    async fn fetch(&self, task: &Task, tell: watch::Sender<String>) -> Result<(), RuntimeError> {
        let _ = (task, tell);
        Ok(())
    }

    /// Makes file system and container of a task, so that only `start` is missing. What `fetch`
    /// brings must be here.
    async fn prepare(&self, task: &Task, network: &NetworkNamespace) -> Result<(), RuntimeError>;

    /// Starts a prepared container and returns its process. Starting a running one returns its
    /// process; one that ended is an error.
    async fn start(&self, task: TaskId) -> Result<u32, RuntimeError>;

    /// Waits for the end of a started container; returns at once when it has ended. Survives a
    /// restart of the runtime.
    async fn wait(&self, task: TaskId) -> Result<Exit, RuntimeError>;

    /// Asks the container's first process to end: with the signal that the service names, or the
    /// image, or SIGTERM. A container that is not running is no error.
    async fn stop(&self, task: TaskId) -> Result<(), RuntimeError>;

    /// Sends a signal to the container's first process. A container that is not running is no
    /// error.
    async fn kill(&self, task: TaskId, signal: i32) -> Result<(), RuntimeError>;

    /// Removes every trace: process (killed if need be), container, snapshot, files. Nothing there
    /// is no error.
    async fn remove(&self, task: TaskId) -> Result<(), RuntimeError>;

    /// The health check of the image that a prepared container was made from; it may not be
    /// named or present any more.
    async fn image_health(&self, task: TaskId) -> Result<Option<HealthCheck>, RuntimeError>;

    /// Runs a program beside the container's own, as its user, and ends it after `limit`. The first
    /// `max_output` bytes of what it prints are kept. One that cannot be run is a result, too:
    /// status 126 or 127. Fatal: the container does not run.
    async fn run_in(
        &self,
        task: TaskId,
        words: &[String],
        limit: Duration,
        max_output: usize,
    ) -> Result<RunOutput, RuntimeError>;
}

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunOutput {
    /// Exit status; 128 + n after signal n.
    pub code: i32,
    /// What it printed, standard output and standard error as they came; or why it could not be run.
    pub output: Vec<u8>,
    /// Whether it was ended because its time was over.
    pub timed_out: bool,
}

/// What a task takes of the traffic of published ports. Established connections go on in all of
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// New connections.
    Open,
    /// No new ones, except while no other task takes any. One that never was open stays shut.
    Draining,
    /// No new ones, whatever others do.
    Held,
}

/// Why the network could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(pub String);

/// The node's network, as a worker sees it. Repeatable as [`Runtime`] is.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Everything attached, whole or half-made.
    async fn list(&self) -> Result<Vec<TaskId>, NetworkError>;

    /// Makes the task's network namespace, link, addresses and routes. It gets no traffic from
    /// published ports before `serve`.
    async fn attach(&self, task: TaskId, attachment: &Attachment) -> Result<NetworkNamespace, NetworkError>;

    /// Opens or closes the task to new connections of published ports, from the next packet on.
    /// Established ones are left alone.
    async fn serve(&self, task: TaskId, attachment: &Attachment, gate: Gate) -> Result<(), NetworkError>;

    /// Removes every trace, flows included.
    async fn detach(&self, task: TaskId) -> Result<(), NetworkError>;
}
