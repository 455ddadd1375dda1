//! A manager as a worker sees it: assigns tasks, stores statuses.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::{StreamExt, wrappers::UnixListenerStream, wrappers::WatchStream};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

use super::an_assignment;
use crate::{
    model::{Task, TaskId, TaskState, TaskStatus, Writer},
    proto::v1::{
        self,
        dispatcher_server::{Dispatcher, DispatcherServer},
    },
};

/// A channel to a unix socket that need not be there yet and may go away.
#[must_use]
pub fn channel(path: &Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://unix").connect_with_connector_lazy(tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

#[derive(Debug, Default)]
struct State {
    tasks: BTreeMap<TaskId, Task>,
    history: BTreeMap<TaskId, Vec<TaskStatus>>,
    deaf: bool,
    refused: Option<TaskId>,
    complaints: Vec<String>,
}

/// The fake. Clones share its state, which outlives the agents that talk to it.
#[derive(Debug, Clone)]
pub struct FakeDispatcher {
    state: Arc<Mutex<State>>,
    generation: Arc<watch::Sender<u64>>,
}

impl Default for FakeDispatcher {
    fn default() -> Self {
        Self { state: Arc::default(), generation: Arc::new(watch::channel(1).0) }
    }
}

impl FakeDispatcher {
    /// Serves on a unix socket until dropped.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve(self, path: PathBuf) -> Result<(), tonic::transport::Error> {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("the socket can be made");
        Server::builder()
            .add_service(DispatcherServer::new(self))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
    }

    /// Gives the node a task.
    pub fn assign(&self, task: Task) {
        self.change(|s| drop(s.tasks.insert(task.id, task)));
    }

    /// Wants a task somewhere else in its life.
    pub fn desire(&self, task: TaskId, desired: TaskState) {
        self.change(|s| {
            if let Some(t) = s.tasks.get_mut(&task) {
                t.desired = t.desired.max(desired);
            }
        });
    }

    /// Takes a task away without a word.
    pub fn unassign(&self, task: TaskId) {
        self.change(|s| drop(s.tasks.remove(&task)));
    }

    /// While deaf it stores nothing and answers UNAVAILABLE.
    pub fn set_deaf(&self, deaf: bool) {
        self.lock().deaf = deaf;
    }

    /// A batch with news of this task is refused, as if the task were another node's.
    pub fn refuse(&self, task: TaskId) {
        self.lock().refused = Some(task);
    }

    /// The last status stored of a task.
    #[must_use]
    pub fn status(&self, task: TaskId) -> Option<TaskStatus> {
        self.lock().history.get(&task)?.last().cloned()
    }

    /// Every status stored of a task, in order.
    #[must_use]
    pub fn history(&self, task: TaskId) -> Vec<TaskStatus> {
        self.lock().history.get(&task).cloned().unwrap_or_default()
    }

    /// Statuses that no worker should have sent.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.lock().complaints.clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.generation.send_modify(|g| *g += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, task: TaskId, status: TaskStatus) {
        let mut s = self.lock();
        let last = match s.history.get(&task).and_then(|h| h.last()) {
            Some(last) => last.clone(),
            None => match s.tasks.get(&task) {
                Some(t) => t.status.clone(),
                None => return,
            },
        };
        // Telling again what is known is what "at least once" means, and an agent that goes on from
        // an older assignment begins with older news. Only the end is never told differently.
        let told_again = status == last || status.state <= last.state && !status.state.is_final();
        if !told_again && !last.state.may_move(status.state, Writer::Worker) {
            s.complaints.push(format!("{task} was moved from {last:?} to {status:?}"));
            return;
        }
        if status != last && status.state >= last.state {
            s.history.entry(task).or_default().push(status.clone());
            if let Some(t) = s.tasks.get_mut(&task) {
                t.status = status;
            }
        }
        // As the real one: a task whose end is recorded is nobody's task any more.
        s.tasks.retain(|_, t| !t.status.state.is_final());
    }
}

type Assignments = Pin<Box<dyn Stream<Item = Result<v1::Assignment, Status>> + Send>>;

#[tonic::async_trait]
impl Dispatcher for FakeDispatcher {
    type SessionStream = Assignments;

    async fn session(&self, _: Request<v1::SessionRequest>) -> Result<Response<Assignments>, Status> {
        let this = self.clone();
        let assignments = WatchStream::new(self.generation.subscribe()).map(move |generation| {
            let tasks: Vec<Task> = this.lock().tasks.values().cloned().collect();
            Ok(v1::Assignment::from(&an_assignment(generation, tasks)))
        });
        Ok(Response::new(Box::pin(assignments)))
    }

    async fn update_task_status(
        &self,
        request: Request<v1::UpdateTaskStatusRequest>,
    ) -> Result<Response<v1::UpdateTaskStatusResponse>, Status> {
        if self.lock().deaf {
            return Err(Status::unavailable("the manager does not listen"));
        }
        let updates = request.into_inner().updates;
        let refused = self.lock().refused.map(|t| t.to_string());
        if updates.iter().any(|u| Some(&u.task) == refused.as_ref()) {
            return Err(Status::permission_denied("a node may only report its own tasks"));
        }
        for update in updates {
            let invalid = |what: &str| Status::invalid_argument(what.to_owned());
            let task = update.task.parse().map_err(|_| invalid("task"))?;
            let status = update.status.ok_or(invalid("status"))?;
            self.store(task, status.try_into().map_err(|_| invalid("status"))?);
        }
        self.generation.send_modify(|g| *g += 1);
        Ok(Response::new(v1::UpdateTaskStatusResponse {}))
    }
}
