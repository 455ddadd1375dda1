//! The replicated state: every object of the cluster, in memory, copy-on-write.
//!
//! - [`View`]: an immutable snapshot; taking one costs a few reference counts.
//! - [`Store::update`]: a transaction. The closure reads and writes a [`Tx`]; its changes are
//!   proposed as one list of [`crate::model::StoreAction`]s, which is applied whole or not at all
//!   on every manager.
//! - [`Store::watch`]: the version applied here. Level-triggered: whoever wakes takes a new view
//!   and looks at all of it; versions in between may be skipped.
//!
//! Transactions of one store run one after another, from their first read to their local apply, so
//! a closure may check a rule over many objects (a name is unique, a port is free) and rely on it.
//! This costs nothing: the log takes one append at a time anyway. Across a change of leader the
//! versions in the actions protect; the new leader catches up before its first transaction.
//!
//! The state is rebuilt from a snapshot and the log: [`Replica::apply`] has no clock, no
//! randomness and no other input. Who agrees on the order of proposals is behind [`Proposer`].

mod proposer;
mod replica;
#[cfg(test)]
mod tests;
mod transaction;
mod view;

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

#[cfg(any(test, feature = "testing"))]
pub use proposer::LocalProposer;
pub use proposer::Proposer;
pub use replica::{Outcome, Replica};
pub use transaction::Tx;
pub use view::View;

use crate::model::NodeId;

/// How often a transaction is run again when others changed what it changes. More than one round
/// happens only around a change of leader.
const ATTEMPTS: usize = 16;

/// Why the store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another manager decides.
    #[error("this node does not lead the cluster: {}", hint(*leader))]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// The store cannot go on; the text says why and which file.
    #[error("the cluster's store has stopped: {0}")]
    Stopped(String),
    /// Too many others change the same objects.
    #[error("the same objects are being changed by others all the time: try again")]
    Busy,
}

fn hint(leader: Option<NodeId>) -> String {
    match leader {
        Some(id) => format!("ask node {id}"),
        None => "no leader is known, wait until enough managers are up".into(),
    }
}

/// Why a transaction did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError<E> {
    /// The closure said no.
    #[error(transparent)]
    Refused(E),
    /// The store said no.
    #[error(transparent)]
    Store(StoreError),
}

impl<E> From<StoreError> for UpdateError<E> {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// A handle on the replicated state; clones are the same store.
#[derive(Clone)]
pub struct Store {
    replica: Arc<Replica>,
    proposer: Arc<dyn Proposer>,
    /// Held from a transaction's first read to its apply.
    writing: Arc<Mutex<()>>,
}

impl Store {
    /// A store over the state `replica` to which `proposer` gets changes applied.
    #[must_use]
    pub fn new(replica: Arc<Replica>, proposer: Arc<dyn Proposer>) -> Self {
        Self { replica, proposer, writing: Arc::default() }
    }

    /// An empty store that agrees with itself.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn local() -> Self {
        let replica = Arc::new(Replica::default());
        Self::new(replica.clone(), Arc::new(LocalProposer::new(replica)))
    }

    /// What is applied here now; may be behind the leader.
    #[must_use]
    pub fn view(&self) -> View {
        self.replica.view()
    }

    /// A view with everything that was committed before the call.
    ///
    /// # Errors
    /// When this node does not lead or the store has stopped.
    pub async fn read(&self) -> Result<View, StoreError> {
        self.proposer.barrier().await?;
        Ok(self.view())
    }

    /// The version applied here, now and after each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.replica.watch()
    }

    /// Runs a transaction and returns what `f` did once its changes are committed and applied
    /// here. `f` may run several times and must not have effects of its own. An `Err` of `f`
    /// changes nothing; without changes nothing is proposed.
    ///
    /// Dropping the future does not undo a proposal that is under way.
    ///
    /// # Errors
    /// What `f` refused, or why the store could not agree.
    pub async fn update<T, E>(
        &self,
        mut f: impl FnMut(&mut Tx) -> Result<T, E>,
    ) -> Result<T, UpdateError<E>> {
        let mut guard = self.writing.clone().lock_owned().await;
        self.proposer.ready().await?;
        for _ in 0..ATTEMPTS {
            let mut tx = Tx::new(self.view());
            let value = f(&mut tx).map_err(UpdateError::Refused)?;
            let actions = tx.into_actions();
            if actions.is_empty() {
                return Ok(value);
            }
            let proposer = self.proposer.clone();
            // In a task of its own: were it dropped with our caller, the next transaction would
            // begin while this one's changes are still on their way.
            let proposed = tokio::spawn(async move { (proposer.propose(actions).await, guard) });
            let (outcome, returned) =
                proposed.await.map_err(|e| StoreError::Stopped(format!("a proposal was cut off ({e})")))?;
            guard = returned;
            match outcome? {
                Outcome::Applied { .. } => return Ok(value),
                Outcome::Conflict => {}
            }
        }
        Err(StoreError::Busy.into())
    }
}
