//! The composition root: makes a node of its parts, and takes it apart again.
//!
//! The only room that names the four engines together. What they need of each other goes through
//! the adapters here.

mod adapters;
mod config;
mod describe;
mod housekeeping;
mod identity;
mod local;
mod preflight;
mod reset;
mod run;

pub use config::{Containerd, DEFAULT_DATA_DIR, LogFormat, NodeConfig};
pub use preflight::check;
pub use reset::reset;
pub use run::start;

use std::path::PathBuf;

/// Why a node could not start, run or be reset. One sentence each, with the cure.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The pre-flight found something in the way; the first of it.
    #[error("{0}")]
    Preflight(String),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {1}: give another with --data-dir", path = .0.display())]
    DataDir(PathBuf, std::io::Error),
    /// Another process has the data directory.
    #[error(
        "the data directory {path} is in use by another node (pid {1}): stop it, or give this one its own with --data-dir",
        path = .0.display()
    )]
    InUse(PathBuf, String),
    /// A file of ours does not read as we wrote it.
    #[error("{path} is damaged ({1}): restore it from a backup, or start anew with `warren node reset`", path = .0.display())]
    Damaged(PathBuf, String),
    /// A reset that cannot know what to remove.
    #[error(
        "{1}; nothing here says which node {path} is of: restart the machine, which ends its containers and its network, and remove the directory",
        path = .0.display()
    )]
    Nameless(PathBuf, String),
    /// The cluster has other pools than asked for.
    #[error("{0}")]
    Pool(String),
    /// The log could not be set up.
    #[error("bad log level \"{0}\": write error, warn, info, debug or trace")]
    LogLevel(String),
    /// The socket.
    #[error(transparent)]
    Listen(#[from] crate::rpc::ListenError),
    /// Raft.
    #[error(transparent)]
    Raft(#[from] crate::raft::RaftError),
    /// The store.
    #[error("the cluster's state cannot be read or written: {0}")]
    Store(#[from] crate::store::StoreError),
    /// The network.
    #[error(transparent)]
    Net(#[from] crate::net::NetError),
    /// The container runtime.
    #[error("{0}")]
    Runtime(String),
    /// The cluster's key.
    #[error(transparent)]
    Seal(#[from] crate::seal::SealError),
    /// What was said of registries.
    #[error("{0}")]
    Registries(String),
    /// The worker's saved state.
    #[error(transparent)]
    Saved(#[from] crate::worker::saved::SavedError),
    /// The process itself (threads, signals, memory).
    #[error("the system refused what a node needs: {0}")]
    System(#[from] std::io::Error),
}
