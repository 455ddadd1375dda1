//! Warren: a container orchestrator for small and edge clusters, with its network in eBPF.
//!
//! Rooms are laid out in floors; an arrow may only point to a lower floor and rooms on one floor
//! never see each other (`cargo xtask check` holds us to it). See `docs/architecture.md`.

pub mod api;
pub mod cli;
pub mod clock;
pub mod ipam;
pub mod manager;
pub mod model;
pub mod net;
pub mod node;
pub mod observability;
pub mod proto;
pub mod raft;
pub mod rpc;
pub mod seal;
pub mod store;
pub mod worker;
