//! The one snapshot a node receives.

use super::{Attachment, ClientLimits, NodeId, NodeSubnet, PortSpec, ServiceId, Task, TaskId};

/// Everything one node has to do, at one moment. A node that has this needs nothing else to
/// reach its desired state; a later generation replaces it whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The store version it was made from. Only ever grows.
    pub generation: u64,
    /// For whom.
    pub node: NodeId,
    /// The node's addresses; `None` until allocated.
    pub subnet: Option<NodeSubnet>,
    /// The node's tasks that have not ended, or whose end is not yet recorded.
    pub tasks: Vec<Task>,
    /// Tasks of the node that have ended and are still listed: their output is kept.
    pub ended: Vec<TaskId>,
    /// Services with published ports, with all of their backends in the cluster.
    pub services: Vec<ServiceEndpoint>,
}

/// A service as the datapath sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEndpoint {
    /// The service.
    pub id: ServiceId,
    /// Its name, for `net ls`.
    pub name: String,
    /// Its number in the datapath.
    pub datapath_id: u32,
    /// What it publishes.
    pub ports: Vec<PublishedPort>,
    /// What one client gets of each of them.
    pub limits: ClientLimits,
    /// Tasks that may serve: desired RUNNING and assigned, or on their way out (the node knows
    /// which of its own are up).
    pub backends: Vec<(TaskId, NodeId, Attachment)>,
}

/// A published port, as asked for.
pub type PublishedPort = PortSpec;
