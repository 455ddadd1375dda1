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

use std::net::IpAddr;

use async_trait::async_trait;

use crate::model::PortSpec;

/// What the node knows of its own addresses and listeners. The API asks before it stores a service;
/// whoever wires the node together knows how to find out.
#[async_trait]
pub trait HostPorts: Send + Sync + 'static {
    /// The process that listens where `port` would be published ("sshd (pid 712)"), if any.
    async fn owner(&self, port: PortSpec) -> Option<String>;

    /// Whether the node has this address.
    fn has_address(&self, address: IpAddr) -> bool;
}
