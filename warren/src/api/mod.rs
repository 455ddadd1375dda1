//! The door for users: the `Control` service. Each handler converts, validates, updates the store
//! and converts back; it decides nothing.

mod control;
mod error;
#[cfg(test)]
mod tests;

pub use control::Control;

use async_trait::async_trait;

use crate::model::PortSpec;

/// Who of the host's own processes listens on a port. The API asks before it stores a service;
/// whoever wires the node together knows how to find out.
#[async_trait]
pub trait HostPorts: Send + Sync + 'static {
    /// The process that listens where `port` would be published ("sshd (pid 712)"), if any.
    async fn owner(&self, port: PortSpec) -> Option<String>;
}
