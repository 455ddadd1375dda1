//! The cluster's own record.

use super::{ClusterId, ClusterNetwork, Timestamp};

/// The cluster as it stores itself; there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Made once, at the first start of the first node.
    pub id: ClusterId,
    /// Store index of the last change.
    pub version: u64,
    /// Where containers get their addresses from.
    pub network: ClusterNetwork,
    /// When it was made.
    pub created_at: Timestamp,
}
