//! How changes get agreed upon, seen from the store.

use async_trait::async_trait;

use super::{Outcome, StoreError};
use crate::model::StoreAction;

/// Brings changes to every manager in one order. Implemented by `raft`.
#[async_trait]
pub trait Proposer: Send + Sync + 'static {
    /// Proposes a change; returns once it is committed and applied (or refused) here.
    async fn propose(&self, actions: Vec<StoreAction>) -> Result<Outcome, StoreError>;

    /// Returns once everything that was committed before the call is applied here.
    async fn barrier(&self) -> Result<(), StoreError>;

    /// Returns once this node may propose from its own view: it leads, and has applied what
    /// earlier leaders committed. Cheap after the first time in a term.
    async fn ready(&self) -> Result<(), StoreError> {
        self.barrier().await
    }
}

/// Agrees with itself at once. For tests.
#[cfg(any(test, feature = "testing"))]
pub struct LocalProposer {
    replica: std::sync::Arc<super::Replica>,
    log: std::sync::Mutex<u64>,
}

#[cfg(any(test, feature = "testing"))]
impl LocalProposer {
    /// Applies what is proposed to `replica`.
    #[must_use]
    pub fn new(replica: std::sync::Arc<super::Replica>) -> Self {
        let log = std::sync::Mutex::new(replica.view().version());
        Self { replica, log }
    }
}

#[cfg(any(test, feature = "testing"))]
#[async_trait]
impl Proposer for LocalProposer {
    async fn propose(&self, actions: Vec<StoreAction>) -> Result<Outcome, StoreError> {
        let mut index = self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *index += 1;
        Ok(self.replica.apply(*index, &actions))
    }

    async fn barrier(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
