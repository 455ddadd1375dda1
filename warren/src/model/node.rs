//! Nodes.

use std::collections::BTreeMap;

use super::{NodeId, NodeSubnet, PublishDefault, Timestamp};

/// What a node says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeDescription {
    /// Host name, or what `--name` says.
    pub name: String,
    /// `--label` and what the node finds by itself.
    pub labels: BTreeMap<String, String>,
    /// `x86_64`, `aarch64`, ….
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// Usable processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Warren's version.
    pub version: String,
    /// Whom published ports answer there by default.
    pub publish_default: PublishDefault,
}

/// Whether a node takes tasks, as its operator wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Keeps its tasks and takes no new ones.
    Pause,
    /// Gives its tasks up.
    Drain,
}

/// What the dispatcher knows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeState {
    /// Not heard of since this manager leads.
    #[default]
    Unknown,
    /// Its session is alive.
    Ready,
    /// Its session has ended.
    Down,
}

/// A node as the cluster stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Identity; never its address.
    pub id: NodeId,
    /// Store index of the last change.
    pub version: u64,
    /// What it said of itself.
    pub description: NodeDescription,
    /// What its operator wants.
    pub availability: Availability,
    /// What the dispatcher knows.
    pub state: NodeState,
    /// Its slice of the cluster's pools, once allocated.
    pub subnet: Option<NodeSubnet>,
    /// When it first registered.
    pub created_at: Timestamp,
}
