//! A node's network: containers' links, the datapath's maps and programs, and what the datapath
//! must know of the node's own devices, addresses and routes.
//!
//! The agent writes only what it wants to be so: it computes the full contents of every map from
//! an assignment and from what it finds on the node, compares them with what the maps hold, and
//! applies the difference. Programs, maps and links outlive the agent; one that starts finds them
//! and goes on.

pub mod attach;
pub mod datapath;
mod error;
pub mod netlink;

pub use error::NetError;
