//! The `Containers` service: a look into what runs on this node, a file per verb.

mod copy;
mod exec;
mod forward;
mod stats;

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::{Answers, answers};
use crate::{
    model::{NodeId, Task, TaskId, TaskState},
    proto::v1::{self, containers_server},
    store::Store,
    worker::{executor::RuntimeError, runtime::Containerd},
};

/// Answers for this node's containers.
pub(in crate::node) struct Containers {
    pub(in crate::node) node: NodeId,
    pub(in crate::node) containerd: Arc<Containerd>,
    pub(in crate::node) store: Store,
}

impl Containers {
    /// A task of this node.
    fn task(&self, id: &str) -> Result<Task, Status> {
        let found = id.parse::<TaskId>().ok().and_then(|id| self.store.view().task(id).cloned());
        let here = found.filter(|t| t.node == Some(self.node));
        here.ok_or_else(|| {
            Status::not_found(format!("no task {id} on this node; `warren service ps` shows those there are"))
        })
    }

    /// A task of this node that runs, as far as is known here.
    fn running(&self, id: &str) -> Result<Task, Status> {
        let task = self.task(id)?;
        if task.status.state == TaskState::Running { Ok(task) } else { Err(not_running(&task)) }
    }

    /// Why the runtime says that a task does not run.
    fn stopped(&self, id: TaskId) -> Status {
        match self.task(id.as_str()) {
            // It has ended a moment ago; what became of it is not known yet.
            Ok(task) if task.status.state == TaskState::Running => {
                Status::failed_precondition(format!("task {id} is not running any more"))
            }
            Ok(task) => not_running(&task),
            Err(e) => e,
        }
    }
}

fn not_running(task: &Task) -> Status {
    let why = &task.status.message;
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    Status::failed_precondition(format!("task {} is not running: it is {}{why}", task.id, task.status.state))
}

fn runtime_error(e: &RuntimeError) -> Status {
    match e {
        RuntimeError::Temporary(m) => Status::unavailable(m.clone()),
        RuntimeError::Fatal(m) => Status::internal(m.clone()),
    }
}

#[tonic::async_trait]
impl containers_server::Containers for Containers {
    type ExecStream = Answers<v1::ExecResponse>;
    type CopyFromStream = Answers<v1::CopyChunk>;
    type StatsStream = Answers<v1::StatsResponse>;
    type PortForwardStream = Answers<v1::PortForwardResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<v1::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        self.exec_stream(request.into_inner()).await.map(Response::new)
    }

    async fn stat_path(
        &self,
        request: Request<v1::StatPathRequest>,
    ) -> Result<Response<v1::StatPathResponse>, Status> {
        self.stat(request.into_inner()).await.map(Response::new)
    }

    async fn copy_from(
        &self,
        request: Request<v1::CopyFromRequest>,
    ) -> Result<Response<Self::CopyFromStream>, Status> {
        self.read(request.into_inner()).await.map(Response::new)
    }

    async fn copy_to(
        &self,
        request: Request<Streaming<v1::CopyToRequest>>,
    ) -> Result<Response<v1::CopyToResponse>, Status> {
        self.write(request.into_inner()).await.map(Response::new)
    }

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<Self::StatsStream>, Status> {
        self.watch_usage(&request.into_inner()).map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<v1::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        self.forward(request.into_inner()).await.map(Response::new)
    }
}
