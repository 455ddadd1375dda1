//! The gRPC service that nodes talk to.

#[cfg(test)]
pub(in crate::manager) mod tests;

use std::{convert::Infallible, pin::Pin, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    assignments,
    reports::{self, Report, ReportError},
    sessions::Sessions,
};
use crate::{
    manager::Clock,
    model::{Node, NodeDescription, NodeId, NodeState},
    proto::{ConvertError, v1},
    store::{Store, StoreError, UpdateError},
};

/// Between two tries to write that a node is down.
const RETRY: Duration = Duration::from_millis(200);

/// Sessions and reports of nodes; clones are the same service.
#[derive(Clone)]
pub struct Dispatcher {
    store: Store,
    leadership: watch::Receiver<bool>,
    clock: Clock,
    sessions: Sessions,
    reports: mpsc::Sender<Report>,
    cancel: CancellationToken,
}

impl Dispatcher {
    pub(in crate::manager) fn new(
        store: Store,
        leadership: watch::Receiver<bool>,
        clock: Clock,
        cancel: CancellationToken,
    ) -> Self {
        let (reports, inbox) = mpsc::channel(1024);
        tokio::spawn(reports::run(store.clone(), inbox, cancel.clone()));
        Self { store, leadership, clock, sessions: Sessions::default(), reports, cancel }
    }

    /// What earlier leaders knew of sessions is not known any more: a node is READY when it has a
    /// session here.
    pub(in crate::manager) async fn begin_term(&self) {
        loop {
            let forgotten = self
                .store
                .update(|tx| {
                    let stale = |n: &&Node| n.state == NodeState::Ready && !self.sessions.has(n.id);
                    let stale: Vec<Node> = tx.nodes().filter(stale).cloned().collect();
                    for node in stale {
                        tx.put_node(Node { state: NodeState::Unknown, ..node });
                    }
                    Ok::<_, Infallible>(())
                })
                .await;
            match forgotten {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "cannot begin a term; trying again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Stores what the node says of itself, and that it is READY.
    async fn register(&self, id: NodeId, description: &NodeDescription) -> Result<(), StoreError> {
        let now = (self.clock)();
        let stored = self
            .store
            .update(|tx| {
                let known = tx.node(id).cloned().unwrap_or(Node {
                    id,
                    version: 0,
                    description: description.clone(),
                    availability: Default::default(),
                    state: NodeState::Unknown,
                    subnet: None,
                    created_at: now,
                });
                let description = description.clone();
                tx.put_node(Node { description, state: NodeState::Ready, ..known });
                Ok::<_, Infallible>(())
            })
            .await;
        match stored {
            Ok(()) => Ok(()),
            Err(UpdateError::Store(e)) => Err(e),
            Err(UpdateError::Refused(never)) => match never {},
        }
    }

    /// Sends the node's assignment, now and after each change that is one for it.
    async fn stream(self, node: NodeId, session: u64, out: mpsc::Sender<Result<v1::Assignment, Status>>) {
        let mut changes = self.store.watch();
        let mut leadership = self.leadership.clone();
        let mut last = None;
        loop {
            changes.borrow_and_update();
            let assignment = assignments::plan(&self.store.view(), node);
            if last.as_ref().is_none_or(|l| assignments::is_news(l, &assignment)) {
                // Room for one: a slow node gets the latest when it has taken the one before.
                let room = tokio::select! {
                    () = self.cancel.cancelled() => break,
                    _ = leadership.wait_for(|leads| !*leads) => break,
                    room = out.reserve() => room,
                };
                let Ok(room) = room else { break };
                // It may have waited: look again.
                let assignment = assignments::plan(&self.store.view(), node);
                room.send(Ok((&assignment).into()));
                last = Some(assignment);
            }
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = out.closed() => break,
                _ = leadership.wait_for(|leads| !*leads) => {
                    let _ = out.try_send(Err(Status::unavailable("this manager leads no more: ask again")));
                    break;
                }
                changed = changes.changed() => if changed.is_err() { break },
            }
            if !self.sessions.is_current(node, session) {
                let _ = out.try_send(Err(Status::aborted("the node has opened a later session")));
                break;
            }
        }
        drop(out);
        self.close(node, session).await;
    }

    /// The node is DOWN when its session ends and no later one has begun. Its tasks are left alone:
    /// they may well run on without their agent.
    async fn close(&self, id: NodeId, session: u64) {
        // Not when it is we who stop: then the node is as well as before.
        while !self.cancel.is_cancelled() && self.sessions.is_current(id, session) {
            let stored = self
                .store
                .update(|tx| {
                    // Asked inside: a session that begins later writes its READY after this.
                    if self.sessions.is_current(id, session)
                        && let Some(node) = tx.node(id).cloned()
                    {
                        tx.put_node(Node { state: NodeState::Down, ..node });
                    }
                    Ok::<_, Infallible>(())
                })
                .await;
            match stored {
                // Whoever leads now hears from the node itself.
                Ok(()) | Err(UpdateError::Store(StoreError::NotLeader { .. } | StoreError::Stopped(_))) => {
                    self.sessions.close(id, session);
                }
                Err(error) => {
                    tracing::warn!(node = %id, %error, "cannot store that a node is down; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn refuse(e: ConvertError) -> Status {
    Status::invalid_argument(e.to_string())
}

fn unavailable(e: StoreError) -> Status {
    Status::unavailable(e.to_string())
}

fn node_id(text: &str) -> Result<NodeId, Status> {
    text.parse().map_err(|e: crate::model::IdError| Status::invalid_argument(format!("bad node: {e}")))
}

#[tonic::async_trait]
impl v1::dispatcher_server::Dispatcher for Dispatcher {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::Assignment, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<v1::SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let request = request.into_inner();
        let node = node_id(&request.node)?;
        let description = request
            .description
            .map(NodeDescription::from)
            .ok_or_else(|| Status::invalid_argument("the node does not describe itself"))?;
        let session = self.sessions.open(node);
        if let Err(e) = self.register(node, &description).await {
            self.sessions.close(node, session);
            return Err(unavailable(e));
        }
        let (out, stream) = mpsc::channel(1);
        tokio::spawn(self.clone().stream(node, session, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn update_task_status(
        &self,
        request: Request<v1::UpdateTaskStatusRequest>,
    ) -> Result<Response<v1::UpdateTaskStatusResponse>, Status> {
        let request = request.into_inner();
        let node = node_id(&request.node)?;
        let mut updates = Vec::with_capacity(request.updates.len());
        for u in request.updates {
            let task = u.task.parse().map_err(|e| Status::invalid_argument(format!("bad task: {e}")))?;
            let status =
                u.status.ok_or_else(|| Status::invalid_argument(format!("task {task} has no status")))?;
            updates.push((task, status.try_into().map_err(refuse)?));
        }
        let (done, answer) = oneshot::channel();
        let stopping = || Status::unavailable("this manager is stopping: ask again");
        self.reports.send(Report { node, updates, done }).await.map_err(|_| stopping())?;
        match answer.await.map_err(|_| stopping())? {
            Ok(()) => Ok(Response::new(v1::UpdateTaskStatusResponse {})),
            Err(e @ ReportError::NotYours { .. }) => Err(Status::permission_denied(e.to_string())),
            Err(ReportError::Store(e)) => Err(unavailable(e)),
        }
    }
}
