//! The last results of every task's probes, for who asks. They stay on the node and end with the
//! agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ProbeResult, Tracker};
use crate::model::TaskId;

/// What is kept of one task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tries {
    /// Failed ones since the last good one.
    pub failures: u32,
    /// The last ones, oldest first.
    pub results: Vec<ProbeResult>,
}

/// Results by task. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<TaskId, Tries>>>);

impl Board {
    /// Takes in what is known of a task.
    pub fn put(&self, task: TaskId, tracker: &Tracker) {
        let results = tracker.results().iter().cloned().collect();
        self.lock().insert(task, Tries { failures: tracker.failures(), results });
    }

    /// Drops every other task.
    pub fn retain(&self, tasks: &BTreeSet<TaskId>) {
        self.lock().retain(|task, _| tasks.contains(task));
    }

    /// What is known of these tasks; of all when none is named.
    #[must_use]
    pub fn get(&self, tasks: &[TaskId]) -> Vec<(TaskId, Tries)> {
        let all = self.lock();
        let asked = all.iter().filter(|(task, _)| tasks.is_empty() || tasks.contains(task));
        asked.map(|(task, tries)| (*task, tries.clone())).collect()
    }

    // Held only for map operations that do not panic.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Tries>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
