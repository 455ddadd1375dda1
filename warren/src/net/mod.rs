//! A node's network: containers' links, the datapath's maps and programs, and what the datapath
//! must know of the node's own devices, addresses and routes.
//!
//! The agent writes only what it wants to be so: it computes the full contents of every map from
//! an assignment and from what it finds on the node, compares them with what the maps hold, and
//! applies the difference. Programs, maps and links outlive the agent; one that starts finds them
//! and goes on.
//!
//! [`start`] runs it; [`Handle`] is how the rest of the node speaks to it. [`preflight()`],
//! [`Listeners`] and [`reset()`] need no running agent.

pub mod attach;
mod controller;
pub mod datapath;
mod deny;
mod drops;
mod engine;
mod error;
mod events;
mod flows;
mod handle;
mod home;
mod machine;
pub mod netlink;
mod owner;
mod preflight;
mod purge;
mod report;
mod reserved;
mod reset;
mod sockets;
#[cfg(test)]
mod tests;
mod trace;
mod traffic;

use std::{path::PathBuf, sync::Arc};

use ipnet::IpNet;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::model::{Assignment, NodeId, PublishDefault};

pub use deny::DenyList;
pub use drops::{Dropped, Told};
pub use engine::Guard;
pub use error::NetError;
pub use flows::{Flow, Replica};
pub use handle::{Gate, Handle};
pub use home::check as check_home;
pub use owner::Listeners;
pub use preflight::{Problem, misnamed_interfaces, pool_conflict, preflight};
pub use report::{Check, MapUse, ProgramUse, Published, PublishedBackend};
pub use reset::reset;
pub use trace::{End, LARGEST as LARGEST_TRACED, Protocol as TracedProtocol, Question, Step, Trace};
pub use traffic::{Asked, ClientTraffic, Meter, Outgoing, PortTraffic, Rates, Sort, Traffic};

/// Where a node's network lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node.
    pub node: NodeId,
    /// Where maps and links are pinned: `/sys/fs/bpf/warren/<node>/v<schema>`, see [`pin_root`].
    pub pin_root: PathBuf,
    /// Where containers' network namespaces are mounted; below `/run`, since they do not survive a
    /// restart of the machine.
    pub netns_dir: PathBuf,
    /// Where the node's deny list is kept.
    pub deny_file: PathBuf,
    /// Devices that take part; empty: every device that is not ours.
    pub interfaces: Vec<String>,
    /// Whom ports answer that were published without an address and sources.
    pub publish_default: PublishDefault,
    /// Where what limits and deny lists refuse is dropped.
    pub guard: Guard,
    /// The cluster's pools of addresses: what is sent to an address of one that no container has
    /// does not leave the node.
    pub pools: Vec<IpNet>,
}

/// The usual place for a node's pins.
#[must_use]
pub fn pin_root(node: NodeId) -> PathBuf {
    PathBuf::from(datapath::bpffs::USUAL)
        .join("warren")
        .join(node.as_str())
        .join(format!("v{}", warren_ebpf::abi::SCHEMA_VERSION))
}

/// Starts the node's network in the calling thread's network namespace: takes over or loads the
/// datapath, then follows `assignment` and the node's devices until `cancel`. Containers, programs
/// and flows are left as they are when it ends.
///
/// # Errors
/// [`NetError`] when the datapath cannot be brought up; nothing that served before was harmed.
pub async fn start(
    config: Config,
    assignment: watch::Receiver<Option<Arc<Assignment>>>,
    cancel: CancellationToken,
) -> Result<(Handle, JoinHandle<()>), NetError> {
    let shapes = datapath::shape::shapes(machine::memory(), machine::cpus());
    let hook = datapath::links::Hook::of_this_kernel();
    start_with(config, assignment, cancel, shapes, hook).await
}

/// [`start`], with maps and hooks of other builds and kernels.
async fn start_with(
    config: Config,
    assignment: watch::Receiver<Option<Arc<Assignment>>>,
    cancel: CancellationToken,
    shapes: Vec<datapath::shape::Shape>,
    hook: datapath::links::Hook,
) -> Result<(Handle, JoinHandle<()>), NetError> {
    let engine = engine::Engine::start(config, assignment, shapes, hook).await?;
    let events = engine.state().loaded.take_events();
    let last_drops = drops::LastDrops::default();
    if let Some(events) = events {
        tokio::spawn(events::follow(events, last_drops.clone(), cancel.clone()));
    }
    let task = tokio::spawn(controller::run(Arc::clone(&engine), cancel));
    Ok((Handle::new(engine, last_drops), task))
}
