//! The node's session with the managers: assignments come in, statuses go out. It reconnects for
//! ever, and a node without managers goes on from the last assignment it saved.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

use super::{
    Timing,
    reports::{Batch, Reports},
    saved::{self, SavedError},
};
use crate::{
    model::{Assignment, NodeDescription, NodeId, TaskState, TaskStatus, Timestamp},
    proto::v1::{
        self, SessionRequest, UpdateTaskStatusRequest, dispatcher_client::DispatcherClient,
        update_task_status_request::Update,
    },
};

/// An assignment is one message, however many tasks a node has.
const MAX_MESSAGE: usize = 64 << 20;

/// A node's session.
pub struct Session {
    node: NodeId,
    description: NodeDescription,
    client: DispatcherClient<Channel>,
    saved: PathBuf,
    /// What is on disk, to write only what differs.
    last_saved: Option<Assignment>,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    reports: Arc<Reports>,
    timing: Timing,
}

/// Doubling delays.
struct BackOff {
    next: Duration,
    timing: Timing,
}

impl BackOff {
    fn new(timing: Timing) -> Self {
        Self { next: timing.reconnect_min, timing }
    }

    fn reset(&mut self) {
        self.next = self.timing.reconnect_min;
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(self.timing.reconnect_max);
    }
}

impl Session {
    /// A session over `channel` (which reconnects by itself), not yet running. Publishes the saved
    /// assignment at once, if there is one for this node.
    #[must_use]
    pub fn new(
        node: NodeId,
        description: NodeDescription,
        channel: Channel,
        data_dir: &Path,
        timing: Timing,
        reports: Arc<Reports>,
    ) -> Self {
        let saved = data_dir.join("assignment");
        let last_saved = match load(&saved) {
            Ok(last) => last.filter(|a| a.node == node),
            Err(e) => {
                tracing::error!("{e}; this node waits for its managers to tell it what to run");
                None
            }
        };
        let assignment = watch::channel(last_saved.clone().map(Arc::new)).0;
        let client = DispatcherClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Self { node, description, client, saved, last_saved, assignment, reports, timing }
    }

    /// The assignment, now and after each change.
    #[must_use]
    pub fn assignment(&self) -> watch::Receiver<Option<Arc<Assignment>>> {
        self.assignment.subscribe()
    }

    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let back_off = BackOff::new(self.timing);
        let report = report(self.node, self.client.clone(), self.reports.clone(), back_off);
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.receive() => {}
            () = report => {}
        }
    }

    async fn receive(mut self) {
        let mut back_off = BackOff::new(self.timing);
        loop {
            let why = match self.one_session(&mut back_off).await {
                Ok(()) => "the manager ended it".to_owned(),
                Err(status) => status.message().to_owned(),
            };
            tracing::warn!("no session with a manager: {why}; trying again in {:?}", back_off.next);
            back_off.wait().await;
        }
    }

    async fn one_session(&mut self, back_off: &mut BackOff) -> Result<(), Status> {
        let request =
            SessionRequest { node: self.node.to_string(), description: Some((&self.description).into()) };
        let mut stream = self.client.session(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            match Assignment::try_from(message) {
                Ok(new) => {
                    back_off.reset();
                    self.accept(new).await;
                }
                Err(e) => return Err(Status::internal(format!("the assignment cannot be read: {e}"))),
            }
        }
        Ok(())
    }

    /// Takes an assignment unless it is stale or for somebody else.
    async fn accept(&mut self, new: Assignment) {
        if new.node != self.node {
            tracing::error!(node = %new.node, "refused an assignment for another node");
            return;
        }
        let current = self.assignment.borrow().clone();
        if let Some(current) = current {
            if new.generation < current.generation {
                let (new, current) = (new.generation, current.generation);
                tracing::warn!("refused assignment {new}: it is older than {current}, which this node has");
                return;
            }
            if new == *current {
                return;
            }
        }
        // On disk before anybody acts on it: what the agent forgets for good (tasks that are not
        // assigned any more) must not come back from an older file.
        if self.last_saved.as_ref().is_none_or(|last| differs(last, &new)) {
            let (path, bytes) = (self.saved.clone(), v1::Assignment::from(&new).encode_to_vec());
            match tokio::task::spawn_blocking(move || saved::write(&path, &bytes)).await {
                Ok(Ok(())) => self.last_saved = Some(new.clone()),
                // A full disk is no reason to ignore the managers.
                Ok(Err(e)) => tracing::error!("{e}; a restart of this node would go on from an older state"),
                Err(e) => tracing::error!("saving the assignment failed: {e}"),
            }
        }
        self.assignment.send_replace(Some(Arc::new(new)));
    }
}

/// Whether two assignments ask for different things. What the tasks report comes back with every
/// assignment and need not be written to disk each time.
fn differs(saved: &Assignment, new: &Assignment) -> bool {
    let blank = TaskStatus {
        state: TaskState::New,
        at: Timestamp::default(),
        message: String::new(),
        container: None,
        health: Default::default(),
    };
    let asks = |a: &Assignment| {
        let mut a = Assignment { generation: 0, ..a.clone() };
        for task in &mut a.tasks {
            task.version = 0;
            task.status = blank.clone();
        }
        a
    };
    asks(saved) != asks(new)
}

fn load(path: &Path) -> Result<Option<Assignment>, SavedError> {
    let Some(bytes) = saved::read(path)? else { return Ok(None) };
    let damaged = || SavedError::Damaged { path: path.to_owned() };
    let message = v1::Assignment::decode(bytes.as_slice()).map_err(|_| damaged())?;
    Assignment::try_from(message).map(Some).map_err(|_| damaged())
}

/// Tells statuses until each is acknowledged, or refused for good.
async fn report(
    node: NodeId,
    mut client: DispatcherClient<Channel>,
    reports: Arc<Reports>,
    mut back_off: BackOff,
) {
    loop {
        let batch = reports.batch().await;
        let answer = match tell(node, &mut client, &batch).await {
            // One that is refused does not stand in the way of the others.
            Err(status) if is_refusal(&status) => tell_singly(node, &mut client, batch, &reports).await,
            answer => answer.map(|()| reports.acknowledge(&batch)),
        };
        match answer {
            Ok(()) => back_off.reset(),
            Err(status) => {
                tracing::warn!(
                    "cannot report to a manager: {}; trying again in {:?}",
                    status.message(),
                    back_off.next
                );
                back_off.wait().await;
            }
        }
    }
}

/// Whether the same again would be answered the same.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument)
}

async fn tell(node: NodeId, client: &mut DispatcherClient<Channel>, batch: &Batch) -> Result<(), Status> {
    let updates = batch
        .iter()
        .map(|(task, status)| Update { task: task.to_string(), status: Some(status.into()) })
        .collect();
    let request = UpdateTaskStatusRequest { node: node.to_string(), updates };
    client.update_task_status(request).await.map(drop)
}

/// Tells a refused batch one by one and drops what is refused alone, too.
async fn tell_singly(
    node: NodeId,
    client: &mut DispatcherClient<Channel>,
    batch: Batch,
    reports: &Reports,
) -> Result<(), Status> {
    for one in batch.singly() {
        match tell(node, client, &one).await {
            Err(status) if is_refusal(&status) => {
                let task = one.iter().map(|(task, _)| task.to_string()).collect::<String>();
                tracing::error!(task, "the manager refuses to hear of it: {}", status.message());
            }
            answer => answer?,
        }
        reports.acknowledge(&one);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Task,
        worker::testing::{a_node, a_task, an_assignment, channel, quick},
    };

    fn session(dir: &Path) -> Session {
        let channel = channel(&dir.join("socket"));
        Session::new(a_node(), NodeDescription::default(), channel, dir, quick(), Arc::default())
    }

    fn generation(session: &Session) -> Option<u64> {
        session.assignment().borrow().as_ref().map(|a| a.generation)
    }

    #[tokio::test]
    async fn the_last_assignment_is_taken_up_and_older_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut s = session(dir.path());
        assert_eq!(generation(&s), None);
        s.accept(an_assignment(5, [a_task(1)])).await;
        s.accept(an_assignment(4, [])).await;
        assert_eq!(generation(&s), Some(5));
        let elsewhere = Assignment { node: NodeId::from_random(9), ..an_assignment(6, []) };
        s.accept(elsewhere).await;
        assert_eq!(generation(&s), Some(5));

        let mut s = session(dir.path());
        assert_eq!(s.assignment().borrow().as_deref(), Some(&an_assignment(5, [a_task(1)])));
        s.accept(an_assignment(4, [])).await;
        assert_eq!(generation(&s), Some(5), "stale after a restart, too");
    }

    #[tokio::test]
    async fn a_damaged_file_or_another_nodes_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        session(dir.path()).accept(an_assignment(5, [a_task(1)])).await;
        let path = dir.path().join("assignment");
        let whole = std::fs::read(&path).unwrap();

        let other = Session::new(
            NodeId::from_random(9),
            NodeDescription::default(),
            channel(&path),
            dir.path(),
            quick(),
            Arc::default(),
        );
        assert_eq!(generation(&other), None);
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(generation(&session(dir.path())), None);
    }

    #[tokio::test]
    async fn reports_that_come_back_are_not_written_to_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut s = session(dir.path());
        s.accept(an_assignment(5, [a_task(1)])).await;
        let path = dir.path().join("assignment");
        std::fs::remove_file(&path).unwrap();
        let mut told = a_task(1);
        told.status.state = TaskState::Running;
        s.accept(an_assignment(6, [told])).await;
        assert_eq!(generation(&s), Some(6));
        assert!(!path.exists());
        s.accept(an_assignment(7, [Task { desired: TaskState::Shutdown, ..a_task(1) }])).await;
        assert!(path.exists());
    }
}
