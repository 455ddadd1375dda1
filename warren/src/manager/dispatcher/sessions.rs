//! Which session of a node counts: the latest.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::NodeId;

/// The open sessions of this manager.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    count: u64,
    open: BTreeMap<NodeId, u64>,
}

impl Sessions {
    /// Opens a session; an earlier one of the node no longer counts.
    pub(super) fn open(&self, node: NodeId) -> u64 {
        let mut s = self.lock();
        s.count += 1;
        let number = s.count;
        s.open.insert(node, number);
        number
    }

    /// Whether this is the node's latest session.
    pub(super) fn is_current(&self, node: NodeId, session: u64) -> bool {
        self.lock().open.get(&node) == Some(&session)
    }

    /// Whether the node has a session at all.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.lock().open.contains_key(&node)
    }

    /// Closes a session, unless a later one has taken its place.
    pub(super) fn close(&self, node: NodeId, session: u64) {
        let mut s = self.lock();
        if s.open.get(&node) == Some(&session) {
            s.open.remove(&node);
        }
    }

    // Held only for map operations that do not panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
