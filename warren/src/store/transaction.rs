//! A transaction: reads that see its own writes, and the writes.

use std::{collections::BTreeMap, ops::Deref};

use super::View;
use crate::model::{Change, Cluster, Node, NodeId, Service, ServiceId, StoreAction, Task, TaskId};

/// One object of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Cluster,
    Node(NodeId),
    Service(ServiceId),
    Task(TaskId),
}

/// A transaction under way. Reads are those of [`View`]; they see what was put and removed.
pub struct Tx {
    base: View,
    now: View,
    changed: BTreeMap<Key, Change>,
}

impl Deref for Tx {
    type Target = View;

    fn deref(&self) -> &View {
        &self.now
    }
}

impl Tx {
    pub(super) fn new(base: View) -> Self {
        Self { now: base.clone(), base, changed: BTreeMap::new() }
    }

    /// The state the transaction began with.
    #[must_use]
    pub fn base(&self) -> &View {
        &self.base
    }

    /// Creates or replaces the cluster's record. Its `version` is ignored, as in every put.
    pub fn put_cluster(&mut self, cluster: Cluster) {
        self.record(Key::Cluster, Change::PutCluster(cluster));
    }

    /// Creates or replaces a node.
    pub fn put_node(&mut self, node: Node) {
        self.record(Key::Node(node.id), Change::PutNode(node));
    }

    /// Creates or replaces a service. Its name must be free: see [`View::service_by_name`].
    pub fn put_service(&mut self, service: Service) {
        self.record(Key::Service(service.id), Change::PutService(service));
    }

    /// Creates or replaces a task.
    pub fn put_task(&mut self, task: Task) {
        self.record(Key::Task(task.id), Change::PutTask(task));
    }

    /// Removes a node; no error when it is not there.
    pub fn remove_node(&mut self, id: NodeId) {
        self.record(Key::Node(id), Change::RemoveNode(id));
    }

    /// Removes a service; no error when it is not there.
    pub fn remove_service(&mut self, id: ServiceId) {
        self.record(Key::Service(id), Change::RemoveService(id));
    }

    /// Removes a task; no error when it is not there.
    pub fn remove_task(&mut self, id: TaskId) {
        self.record(Key::Task(id), Change::RemoveTask(id));
    }

    /// Makes a change that somebody decided on as data.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::PutCluster(c) => self.put_cluster(c),
            Change::PutNode(n) => self.put_node(n),
            Change::PutService(s) => self.put_service(s),
            Change::PutTask(t) => self.put_task(t),
            Change::RemoveNode(id) => self.remove_node(id),
            Change::RemoveService(id) => self.remove_service(id),
            Change::RemoveTask(id) => self.remove_task(id),
        }
    }

    fn record(&mut self, key: Key, change: Change) {
        // Until it is committed an object keeps the version it was read at.
        let version = self.base.version_of(&change);
        self.now.change(version, change.clone());
        self.changed.insert(key, change);
    }

    /// What differs from the state it began with: removals first (a name may pass from a service
    /// that goes to one that comes), each in the order of the objects.
    pub(super) fn into_actions(self) -> Vec<StoreAction> {
        let Self { base, now, changed } = self;
        let mut actions: Vec<_> = changed
            .into_iter()
            .filter(|(key, _)| match *key {
                Key::Cluster => base.cluster() != now.cluster(),
                Key::Node(id) => base.node(id) != now.node(id),
                Key::Service(id) => base.service(id) != now.service(id),
                Key::Task(id) => base.task(id) != now.task(id),
            })
            .map(|(_, change)| StoreAction { expected_version: base.version_of(&change), change })
            .collect();
        actions.sort_by_key(|a| {
            !matches!(a.change, Change::RemoveNode(_) | Change::RemoveService(_) | Change::RemoveTask(_))
        });
        actions
    }
}
