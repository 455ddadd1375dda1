//! This manager's copy of the state: what the replicated log is applied to.

use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use super::View;
use crate::model::{StoreAction, StoreSnapshot};

/// What became of a proposal. The same on every manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is applied.
    Applied {
        /// The store's version since.
        version: u64,
    },
    /// None of it is: an object is not at the version the writer read, or a name is taken.
    Conflict,
}

/// The applied state.
#[derive(Default)]
pub struct Replica {
    state: RwLock<View>,
    version: watch::Sender<u64>,
}

impl Replica {
    /// What is applied now.
    #[must_use]
    pub fn view(&self) -> View {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The version, now and after each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Applies the proposal at `index` of the log, whole or not at all. Depends on nothing but the
    /// state and its arguments. Calls come one at a time and in order.
    pub fn apply(&self, index: u64, actions: &[StoreAction]) -> Outcome {
        let mut next = self.view();
        let outcome = next.apply(index, actions);
        if matches!(outcome, Outcome::Applied { .. }) {
            self.set(next);
        }
        outcome
    }

    /// Replaces the state by that of a snapshot.
    pub fn install(&self, snapshot: StoreSnapshot) {
        self.set(View::from(snapshot));
    }

    fn set(&self, view: View) {
        let version = view.version();
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = view;
        self.version.send_replace(version);
    }
}
