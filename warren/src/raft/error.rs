//! What stops the consensus.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use crate::model::NodeId;

/// Why the consensus cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The operating system refused a file.
    #[error("cannot {action} {}: {source}; free space or repair the disk, then start again", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what was written to it.
    #[error("{} is damaged: {why}; restore the data directory from a backup", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The log is another node's.
    #[error("{} belongs to node {owner} and this is node {node}: use that node's data directory", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who we are.
        node: NodeId,
    },
    /// Someone else has the log open.
    #[error("{} is in use by another process: stop that one first", path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// The consensus itself gave up.
    #[error("the consensus has stopped: {0}")]
    Stopped(String),
}

impl RaftError {
    pub(super) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { action, path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, why: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.to_string() }
    }
}

/// The first error of the storage: openraft reports it wrapped in its own words; people get this.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<OnceLock<String>>);

impl Fault {
    pub(super) fn set(&self, error: &RaftError) {
        if self.0.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the consensus stops");
        }
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.get().cloned()
    }
}
