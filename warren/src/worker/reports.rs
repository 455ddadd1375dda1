//! What is to be told to the managers: the latest status of each task, until it is acknowledged.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::model::{TaskId, TaskStatus};

/// The statuses of a node's tasks, as the node itself knows them.
pub type Statuses = Arc<BTreeMap<TaskId, TaskStatus>>;

/// Collects statuses from the tasks' runners and hands them out in batches. A status that is
/// replaced before it was sent is never sent.
#[derive(Debug)]
pub struct Reports {
    pending: Mutex<Pending>,
    work: Notify,
    local: watch::Sender<Statuses>,
}

#[derive(Debug, Default)]
struct Pending {
    count: u64,
    statuses: BTreeMap<TaskId, (u64, TaskStatus)>,
}

/// Statuses on their way; given back to [`Reports::acknowledge`] once they are stored.
#[derive(Debug, Clone)]
pub struct Batch(Vec<(TaskId, u64, TaskStatus)>);

impl Batch {
    /// What is to be told.
    pub fn iter(&self) -> impl Iterator<Item = (TaskId, &TaskStatus)> {
        self.0.iter().map(|(task, _, status)| (*task, status))
    }
}

impl Batch {
    /// Its statuses one by one.
    pub fn singly(self) -> impl Iterator<Item = Self> {
        self.0.into_iter().map(|one| Self(vec![one]))
    }
}

impl Default for Reports {
    fn default() -> Self {
        Self { pending: Mutex::default(), work: Notify::new(), local: watch::channel(Statuses::default()).0 }
    }
}

impl Reports {
    /// Takes the news of a task; what is known already is no news.
    pub fn put(&self, task: TaskId, status: &TaskStatus) {
        if self.local.borrow().get(&task) == Some(status) {
            return;
        }
        self.local.send_modify(|all| drop(Arc::make_mut(all).insert(task, status.clone())));
        let mut pending = self.lock();
        pending.count += 1;
        let count = pending.count;
        pending.statuses.insert(task, (count, status.clone()));
        drop(pending);
        self.work.notify_one();
    }

    /// Drops a task that nobody will ask for again.
    pub fn forget(&self, task: TaskId) {
        self.lock().statuses.remove(&task);
        self.local
            .send_if_modified(|all| all.contains_key(&task) && Arc::make_mut(all).remove(&task).is_some());
    }

    /// Waits until there is something to tell, and returns all of it.
    pub async fn batch(&self) -> Batch {
        loop {
            let batch: Vec<_> =
                self.lock().statuses.iter().map(|(t, (count, s))| (*t, *count, s.clone())).collect();
            if !batch.is_empty() {
                return Batch(batch);
            }
            self.work.notified().await;
        }
    }

    /// The batch is stored: only what came later is still to be told.
    pub fn acknowledge(&self, batch: &Batch) {
        let mut pending = self.lock();
        for (task, count, _) in &batch.0 {
            if pending.statuses.get(task).is_some_and(|(c, _)| c == count) {
                pending.statuses.remove(task);
            }
        }
    }

    /// The statuses as they are, now and after each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Statuses> {
        self.local.subscribe()
    }

    // Held only for map operations that do not panic.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{TaskState, Timestamp};

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus {
            state,
            at: Timestamp(1),
            message: String::new(),
            container: None,
            health: Default::default(),
        }
    }

    #[tokio::test]
    async fn the_latest_is_told_until_acknowledged_and_what_came_meanwhile_stays() {
        let reports = Reports::default();
        let (a, b) = (TaskId::from_random(1), TaskId::from_random(2));
        reports.put(a, &status(TaskState::Preparing));
        reports.put(a, &status(TaskState::Ready));
        reports.put(b, &status(TaskState::Accepted));
        let states = |batch: &Batch| batch.iter().map(|(t, s)| (t, s.state)).collect::<Vec<_>>();
        let batch = reports.batch().await;
        assert_eq!(states(&batch), [(a, TaskState::Ready), (b, TaskState::Accepted)]);
        assert_eq!(states(&reports.batch().await), states(&batch), "not acknowledged");

        reports.put(a, &status(TaskState::Running));
        reports.acknowledge(&batch);
        assert_eq!(states(&reports.batch().await), [(a, TaskState::Running)]);
        reports.put(a, &status(TaskState::Running));
        reports.acknowledge(&reports.batch().await);
        reports.put(a, &status(TaskState::Running));
        assert!(futures::FutureExt::now_or_never(reports.batch()).is_none(), "no news");
        assert_eq!(reports.watch().borrow()[&a].state, TaskState::Running);
        reports.forget(a);
        assert!(!reports.watch().borrow().contains_key(&a));
    }
}
