//! Statuses on their way into the store: many reports, one commit.

use std::convert::Infallible;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    model::{NodeId, Task, TaskId, TaskState, TaskStatus, Writer},
    store::{Store, StoreError, Tx, UpdateError},
};

/// Most reports in one commit.
const BATCH: usize = 256;

/// What a node says of its tasks.
pub(super) struct Report {
    pub(super) node: NodeId,
    pub(super) updates: Vec<(TaskId, TaskStatus)>,
    /// Told once it is stored.
    pub(super) done: oneshot::Sender<Result<(), ReportError>>,
}

/// Why a report was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReportError {
    #[error("task {task} is not of node {node}: a node may only report its own tasks")]
    NotYours { task: TaskId, node: NodeId },
    #[error(transparent)]
    Store(StoreError),
}

/// Stores reports until cancelled. While one commit is under way the next batch gathers.
pub(super) async fn run(store: Store, mut reports: mpsc::Receiver<Report>, cancel: CancellationToken) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            n = reports.recv_many(&mut batch, BATCH) => if n == 0 { return },
        }
        let stored = store
            .update(|tx| Ok::<_, Infallible>(batch.iter().map(|r| apply(tx, r)).collect::<Vec<_>>()))
            .await;
        match stored {
            Ok(answers) => {
                for (report, answer) in batch.drain(..).zip(answers) {
                    // The node may have gone meanwhile; it will report again.
                    let _ = report.done.send(answer);
                }
            }
            Err(UpdateError::Store(e)) => {
                for report in batch.drain(..) {
                    let _ = report.done.send(Err(ReportError::Store(e.clone())));
                }
            }
            Err(UpdateError::Refused(never)) => match never {},
        }
    }
}

/// One report: all of its statuses, or none when one is of another node's task.
fn apply(tx: &mut Tx, report: &Report) -> Result<(), ReportError> {
    let node = report.node;
    let foreign = |id: &TaskId| tx.task(*id).is_some_and(|t| t.node != Some(node));
    if let Some((task, _)) = report.updates.iter().find(|(id, _)| foreign(id)) {
        return Err(ReportError::NotYours { task: *task, node });
    }
    for (id, status) in &report.updates {
        // A record that is gone, or a state that was passed, is old news: no error.
        let Some(task) = tx.task(*id).filter(|t| accepts(&t.status, status)) else { continue };
        let task = Task { status: status.clone(), ..task.clone() };
        tx.put_task(task);
    }
    Ok(())
}

/// Whether the news is news. A state that is already there may get another message ("trying
/// again: …"), its container or another health.
fn accepts(old: &TaskStatus, new: &TaskStatus) -> bool {
    let moves = old.state.may_move(new.state, Writer::Worker);
    let adds = old.state == new.state
        && new.state >= TaskState::Accepted
        && !new.state.is_final()
        && new.at >= old.at
        && (old.message != new.message || old.container != new.container || old.health != new.health);
    moves || adds
}
