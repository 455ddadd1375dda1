//! The vocabulary of Warren: what users write, what the cluster stores, what a node is told.
//!
//! Floor 0. No I/O, no tokio, no protobuf, no clock, no randomness: values and rules over values.
//! Everything above speaks in these types; wire formats are converted at the doors (`proto`).

mod action;
mod assignment;
mod cluster;
mod container;
mod credentials;
mod id;
mod image;
mod limit;
mod network;
mod node;
pub mod parse;
mod port;
mod service;
mod task;
mod time;
pub mod validate;

pub use action::{Change, StoreAction, StoreSnapshot};
pub use assignment::{Assignment, PublishedPort, ServiceEndpoint};
pub use cluster::Cluster;
pub use container::{
    Device, HealthCheck, HttpProbe, LogLimits, Mount, MountSource, Names, NetworkMode, Probe, Propagation,
    PullPolicy, Resources, Sealed, Seccomp, Security, Ulimit,
};
pub use credentials::RegistryAuth;
pub use id::{ClusterId, Id, IdError, NodeId, ServiceId, TaskId};
pub use image::{ImageReference, ImageReferenceError};
pub use limit::{ClientLimits, Rate};
pub use network::{Attachment, BackendId, ClusterNetwork, NodeSubnet};
pub use node::{Availability, Node, NodeDescription, NodeState};
pub use port::{PortSpec, Protocol, PublishDefault, PublishMode};
pub use service::{RestartCondition, RestartPolicy, Service, ServiceSpec, TaskSpec};
pub use task::{ContainerStatus, Health, Task, TaskState, TaskStatus, Writer};
pub use time::Timestamp;
