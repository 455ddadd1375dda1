//! What runs on every node: takes the node's [`Assignment`], makes it so with a container runtime
//! and a network, and reports what became of each task.
//!
//! ```text
//! managers ─▶ session ─▶ assignment (watch) ─▶ agent: plan ─▶ one runner per task: machine ─▶ runtime, network
//!    ▲                                                            │
//!    └──────────── session ◀─ reports ◀──────────────────────────┘ ─▶ status log (disk)
//! ```
//!
//! - `session`: the wire to the managers; the last assignment on disk.
//! - `agent`, `plan`: the node as a whole; what is assigned against what is held.
//! - `task`: one task, from ACCEPTED to its end; a pure machine and its driver.
//! - `status_log`, `saved`: what must survive the agent. `reports`: what is still to be told.
//! - `health`: whether containers work, and when that is tried.
//! - `volumes`: what outlives the containers it is mounted in.
//! - `executor`: the outside, as traits. `runtime`: containers by containerd. `testing`: fakes.
//! - `logs`: what containers write.
//!
//! The agent may die at any step. What it finds when it starts again is taken up where it is.

pub mod agent;
pub mod executor;
pub mod health;
pub mod logs;
pub mod plan;
pub mod reports;
pub mod runtime;
pub mod saved;
pub mod session;
pub mod status_log;
pub mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod volumes;

use std::{fs, path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use self::{
    agent::Agent,
    executor::{Network, Runtime},
    health::{Board, Prober},
    logs::Logs,
    reports::Reports,
    saved::SavedError,
    session::Session,
    status_log::StatusLog,
    task::runner::Outside,
};
pub use self::{reports::Statuses, task::Timing};
use crate::{
    clock,
    model::{Assignment, NodeDescription, NodeId},
};

/// What a worker needs to know.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Who it is.
    pub node: NodeId,
    /// What it says of itself when it registers.
    pub description: NodeDescription,
    /// Its own directory: `assignment` and `tasks/` are made there.
    pub data_dir: PathBuf,
    /// How long it waits for things.
    pub timing: Timing,
    /// Where it keeps what came of the last tries of its tasks' health checks.
    pub probes: Board,
}

/// A running worker.
#[derive(Debug)]
pub struct WorkerHandle {
    /// What the node is to do: the saved assignment at first, then each that arrives. `None` until
    /// there was one.
    pub assignment: watch::Receiver<Option<Arc<Assignment>>>,
    /// What became of the node's tasks, as the node itself knows.
    pub statuses: watch::Receiver<Statuses>,
    /// Ends, soon, after the worker was cancelled.
    pub join: JoinHandle<()>,
}

/// Starts a worker on the current tokio runtime. `channel` leads to the managers and reconnects by
/// itself; nobody needs to answer there yet. When cancelled, containers and networks stay as they
/// are, for the next worker to take up.
///
/// # Errors
/// When `data_dir` cannot be used.
pub fn start(
    config: WorkerConfig,
    channel: Channel,
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn Network>,
    cancel: CancellationToken,
) -> Result<WorkerHandle, SavedError> {
    let WorkerConfig { node, description, data_dir, timing, probes: board } = config;
    let log = StatusLog::open(&data_dir)?;
    let reports = Arc::new(Reports::default());
    let session = Session::new(node, description, channel, &data_dir, timing, reports.clone());
    let assignment = session.assignment();
    let statuses = reports.watch();
    let prober = Arc::new(Prober::new(runtime.clone(), clock::now));
    let outside = Outside { runtime, network, log, reports, prober, board, boot: boot(), timing };
    let agent = Agent::new(outside, Logs::below(&data_dir), assignment.clone());
    let join = tokio::spawn(async move {
        tokio::join!(session.run(cancel.clone()), agent.run(cancel));
    });
    Ok(WorkerHandle { assignment, statuses, join })
}

/// The kernel's name for this boot; empty where there is none, which then never changes.
fn boot() -> Arc<str> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

#[cfg(test)]
mod crash_test;
