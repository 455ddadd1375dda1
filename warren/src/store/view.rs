//! An immutable snapshot of everything, with its indexes.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::Outcome;
use crate::model::{
    Change, Cluster, Node, NodeId, Service, ServiceId, StoreAction, StoreSnapshot, Task, TaskId,
};

/// Everything the store holds at one version. Cloning it copies a few pointers; a clone never
/// changes.
#[derive(Clone, Default)]
pub struct View {
    version: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    services: OrdMap<ServiceId, Arc<Service>>,
    tasks: OrdMap<TaskId, Arc<Task>>,
    names: OrdMap<String, ServiceId>,
    by_service: OrdSet<(ServiceId, TaskId)>,
    by_node: OrdSet<(NodeId, TaskId)>,
}

impl View {
    /// Index of the last change; 0 for the empty store.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The cluster's record, once there is one.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_deref()
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id).map(Arc::as_ref)
    }

    /// All nodes, in the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// The service with this id.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(&id).map(Arc::as_ref)
    }

    /// The service with this name.
    #[must_use]
    pub fn service_by_name(&self, name: &str) -> Option<&Service> {
        self.service(*self.names.get(name)?)
    }

    /// All services, in the order of their ids.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(Arc::as_ref)
    }

    /// The task with this id.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id).map(Arc::as_ref)
    }

    /// All tasks, in the order of their ids.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().map(Arc::as_ref)
    }

    /// The tasks of a service, in the order of their ids.
    pub fn tasks_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Task> {
        self.by_service
            .range((id, TaskId::from_random(0))..)
            .take_while(move |(service, _)| *service == id)
            .filter_map(|(_, task)| self.task(*task))
    }

    /// The tasks given to a node, in the order of their ids.
    pub fn tasks_of_node(&self, id: NodeId) -> impl Iterator<Item = &Task> {
        self.by_node
            .range((id, TaskId::from_random(0))..)
            .take_while(move |(node, _)| *node == id)
            .filter_map(|(_, task)| self.task(*task))
    }

    /// Everything as lists, for a snapshot.
    #[must_use]
    pub fn to_snapshot(&self) -> StoreSnapshot {
        StoreSnapshot {
            version: self.version,
            cluster: self.cluster().cloned(),
            nodes: self.nodes().cloned().collect(),
            services: self.services().cloned().collect(),
            tasks: self.tasks().cloned().collect(),
        }
    }

    /// Applies a proposal whole, or leaves everything as it is.
    pub(super) fn apply(&mut self, index: u64, actions: &[StoreAction]) -> Outcome {
        let base = self.clone();
        for a in actions {
            let found = base.version_of(&a.change);
            // Removing what is not there is never what a writer saw.
            let fits = match &a.change {
                Change::PutService(s) => self.names.get(&s.spec.name).is_none_or(|id| *id == s.id),
                Change::RemoveNode(_) | Change::RemoveService(_) | Change::RemoveTask(_) => found != 0,
                Change::PutCluster(_) | Change::PutNode(_) | Change::PutTask(_) => true,
            };
            if !fits || found != a.expected_version {
                *self = base;
                return Outcome::Conflict;
            }
            self.change(index, a.change.clone());
        }
        self.version = index;
        Outcome::Applied { version: index }
    }

    /// The version of the object a change is of; 0 when there is none.
    pub(super) fn version_of(&self, change: &Change) -> u64 {
        match change {
            Change::PutCluster(_) => self.cluster().map(|c| c.version),
            Change::PutNode(n) => self.node(n.id).map(|n| n.version),
            Change::PutService(s) => self.service(s.id).map(|s| s.version),
            Change::PutTask(t) => self.task(t.id).map(|t| t.version),
            Change::RemoveNode(id) => self.node(*id).map(|n| n.version),
            Change::RemoveService(id) => self.service(*id).map(|s| s.version),
            Change::RemoveTask(id) => self.task(*id).map(|t| t.version),
        }
        .unwrap_or(0)
    }

    /// Makes one change; what is put gets `version`.
    pub(super) fn change(&mut self, version: u64, change: Change) {
        match change {
            Change::PutCluster(c) => self.cluster = Some(Arc::new(Cluster { version, ..c })),
            Change::PutNode(n) => {
                self.nodes.insert(n.id, Arc::new(Node { version, ..n }));
            }
            Change::PutService(s) => {
                self.drop_name(s.id);
                self.names.insert(s.spec.name.clone(), s.id);
                self.services.insert(s.id, Arc::new(Service { version, ..s }));
            }
            Change::PutTask(t) => {
                self.drop_task_indexes(t.id);
                self.by_service.insert((t.service, t.id));
                if let Some(node) = t.node {
                    self.by_node.insert((node, t.id));
                }
                self.tasks.insert(t.id, Arc::new(Task { version, ..t }));
            }
            Change::RemoveNode(id) => {
                self.nodes.remove(&id);
            }
            Change::RemoveService(id) => {
                self.drop_name(id);
                self.services.remove(&id);
            }
            Change::RemoveTask(id) => {
                self.drop_task_indexes(id);
                self.tasks.remove(&id);
            }
        }
    }

    fn drop_name(&mut self, id: ServiceId) {
        if let Some(old) = self.services.get(&id) {
            self.names.remove(&old.spec.name);
        }
    }

    fn drop_task_indexes(&mut self, id: TaskId) {
        if let Some(old) = self.tasks.get(&id) {
            self.by_service.remove(&(old.service, id));
            if let Some(node) = old.node {
                self.by_node.remove(&(node, id));
            }
        }
    }
}

impl From<StoreSnapshot> for View {
    fn from(s: StoreSnapshot) -> Self {
        let mut view = Self { version: s.version, ..Self::default() };
        let puts = (s.cluster.into_iter().map(|c| (c.version, Change::PutCluster(c))))
            .chain(s.nodes.into_iter().map(|n| (n.version, Change::PutNode(n))))
            .chain(s.services.into_iter().map(|s| (s.version, Change::PutService(s))))
            .chain(s.tasks.into_iter().map(|t| (t.version, Change::PutTask(t))));
        for (version, change) in puts {
            view.change(version, change);
        }
        view
    }
}
