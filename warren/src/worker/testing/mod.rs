//! Fakes of what is outside a worker, and builders of what comes in. The world of a
//! [`FakeWorld`] outlives the agents that work in it, as containers and networks do.

mod dispatcher;
mod process;
mod runtime;
mod world;

pub use dispatcher::{FakeDispatcher, channel};
pub use process::Process;
pub use runtime::FakeOutside;
pub use world::{Crash, FakeWorld, Fault, Op};

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::Timing;
use crate::model::{
    Assignment, Attachment, ImageReference, NodeId, ServiceId, Task, TaskId, TaskSpec, TaskState, TaskStatus,
    Timestamp,
};

/// The node everything here is for.
#[must_use]
pub fn a_node() -> NodeId {
    NodeId::from_random(1)
}

/// A task that was just assigned, its identifier made from `n`, with an address of its own.
#[must_use]
pub fn a_task(n: u8) -> Task {
    let image: ImageReference = "localhost/testbox:1".parse().expect("it is a reference");
    Task {
        id: TaskId::from_random(n.into()),
        version: 1,
        service: ServiceId::from_random(1),
        service_name: "web".into(),
        slot: n.into(),
        spec: TaskSpec { stop_grace: Duration::from_millis(20), ..TaskSpec::new(image) },
        spec_version: 1,
        node: Some(a_node()),
        attachment: Some(Attachment {
            address: Ipv4Addr::new(10, 0, 0, n),
            address6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()),
            backend: n.into(),
            generation: 1,
        }),
        desired: TaskState::Running,
        status: TaskStatus {
            state: TaskState::Assigned,
            at: Timestamp(1),
            message: String::new(),
            container: None,
            health: Default::default(),
        },
        created_at: Timestamp(1),
        start_at: Timestamp(0),
        restarts: Vec::new(),
    }
}

/// An assignment of these tasks and nothing else.
#[must_use]
pub fn an_assignment(generation: u64, tasks: impl IntoIterator<Item = Task>) -> Assignment {
    Assignment {
        generation,
        node: a_node(),
        subnet: None,
        ended: Vec::new(),
        tasks: tasks.into_iter().collect(),
        services: Vec::new(),
    }
}

/// Waits of a few milliseconds.
#[must_use]
pub fn quick() -> Timing {
    Timing {
        retry_min: Duration::from_millis(2),
        retry_max: Duration::from_millis(20),
        kill_wait: Duration::from_millis(200),
        removal_patience: Duration::from_secs(2),
        full_pass: Duration::from_millis(100),
        list_timeout: Duration::from_secs(2),
        reconnect_min: Duration::from_millis(2),
        reconnect_max: Duration::from_millis(20),
    }
}
