//! Changes of the store, as they are agreed upon.

use super::{Cluster, Node, NodeId, Service, ServiceId, Task, TaskId};

/// One change of one object, with the version its writer read. A list of them is applied whole
/// or, when one version does not fit, not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAction {
    /// The version of the object the writer read; 0 for an object that must not exist yet.
    pub expected_version: u64,
    /// What to change.
    pub change: Change,
}

/// What to change. The `version` inside a put object is ignored: applying sets it.
// A change lives in one list for the time of one proposal: a box each would cost more.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Creates or replaces the cluster's record.
    PutCluster(Cluster),
    /// Creates or replaces a node.
    PutNode(Node),
    /// Creates or replaces a service.
    PutService(Service),
    /// Creates or replaces a task.
    PutTask(Task),
    /// Removes a node.
    RemoveNode(NodeId),
    /// Removes a service.
    RemoveService(ServiceId),
    /// Removes a task.
    RemoveTask(TaskId),
}

/// Everything the store holds, at one version. Lists are in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreSnapshot {
    /// Index of the last change; 0 for the empty store.
    pub version: u64,
    /// The cluster's record, once there is one.
    pub cluster: Option<Cluster>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All services.
    pub services: Vec<Service>,
    /// All tasks.
    pub tasks: Vec<Task>,
}
