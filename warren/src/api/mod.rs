//! The door for users: the `Control` service. Each handler converts, validates, updates the store
//! and converts back; it decides nothing.

mod control;
mod credentials;
mod error;
mod events;
mod services;
#[cfg(test)]
mod tests;

pub use control::Control;

use std::{collections::BTreeSet, net::IpAddr};

use async_trait::async_trait;

use crate::model::{PortSpec, Protocol};

/// What the node knows of its own addresses and listeners. The API asks before it stores a service;
/// whoever wires the node together knows how to find out.
#[async_trait]
pub trait HostPorts: Send + Sync + 'static {
    /// The first of `ports` where a process listens already, and that process ("sshd (pid 712)").
    async fn owner(&self, ports: Vec<PortSpec>) -> Option<(PortSpec, String)>;

    /// Where processes listen, on whatever address.
    async fn listening(&self) -> BTreeSet<(Protocol, u16)>;

    /// Whether the node has this address.
    fn has_address(&self, address: IpAddr) -> bool;
}
