//! Addresses and the numbers the datapath knows things by.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The numeric name of a task in the datapath: its row in the backend table. Unique among live
/// tasks of the cluster; 1–65535 (0 means "none"). Reused only after every other free one
/// (next-fit), and always with a new generation.
pub type BackendId = u32;

/// A task's place in the network, chosen with its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// IPv4 address, of the node's subnet.
    pub address: Ipv4Addr,
    /// IPv6 address, of the node's subnet.
    pub address6: Ipv6Addr,
    /// Row in the backend table.
    pub backend: BackendId,
    /// Tells this use of the row from earlier ones: flows name both. Never 0.
    pub generation: u32,
}

/// The addresses of the cluster's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterNetwork {
    /// Pool that node subnets are cut from.
    pub pool: Ipv4Net,
    /// The same for IPv6.
    pub pool6: Ipv6Net,
}

impl ClusterNetwork {
    /// Both pools.
    #[must_use]
    pub fn pools(&self) -> [IpNet; 2] {
        [self.pool.into(), self.pool6.into()]
    }
}

/// A node's slice of the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeSubnet {
    /// IPv4 slice.
    pub v4: Ipv4Net,
    /// IPv6 slice.
    pub v6: Ipv6Net,
}
