//! What runs on every node: takes the node's [`crate::model::Assignment`], makes it so with a
//! container runtime and a network, and reports what became of each task.

pub mod executor;
pub mod runtime;
