//! What this node knows of its tasks and must not forget: that a task was started (a task runs
//! once), and how it ended (its container is removed before the managers have heard).
//!
//! One small file per task under `<data dir>/tasks/`. A record goes when the task is neither
//! assigned nor present any more.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::saved::{self, SavedError};
use crate::model::{ContainerStatus, Health, TaskId, TaskState, TaskStatus, Timestamp};

/// What is remembered of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// STARTING (written before the start is tried), RUNNING, or an end. A RUNNING one with a
    /// message is being ended because it is unhealthy: the message is what its end will say.
    pub status: TaskStatus,
    /// Failed tries of its health check in a row, of those that count.
    pub failures: u32,
    /// The boot of the machine it was written in: a container that is only "created" after a
    /// reboot may have run before it.
    pub boot: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    state: u16,
    at_ms: u64,
    message: String,
    pid: Option<u32>,
    exit_code: Option<i32>,
    boot: String,
    /// Its word; absent without a health check.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    health: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    failures: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The records of a node.
#[derive(Debug, Clone)]
pub struct StatusLog {
    dir: PathBuf,
}

impl StatusLog {
    /// Opens the log under `data_dir`, making its directory.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(data_dir: &Path) -> Result<Self, SavedError> {
        let dir = data_dir.join("tasks");
        fs::create_dir_all(&dir).map_err(|source| SavedError::Io {
            doing: "write",
            path: dir.clone(),
            source,
        })?;
        let log = Self { dir };
        log.drop_half_written()?;
        Ok(log)
    }

    /// Every record. A damaged one stands for a task that may have run: it reads as RUNNING, in an
    /// unknown boot, so that nothing is ever started twice because of it.
    ///
    /// # Errors
    /// The file system's.
    pub fn load(&self) -> Result<BTreeMap<TaskId, Record>, SavedError> {
        let io = |source: io::Error| SavedError::Io { doing: "read", path: self.dir.clone(), source };
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let Some(task) = name.to_str().and_then(|n| n.parse::<TaskId>().ok()) else { continue };
            match self.read(task) {
                Ok(Some(record)) => drop(records.insert(task, record)),
                Ok(None) => {}
                Err(e @ SavedError::Damaged { .. }) => {
                    tracing::error!(%task, "{e}; the task counts as one that has run");
                    records.insert(task, Record { status: damaged(), failures: 0, boot: String::new() });
                }
                Err(e) => return Err(e),
            }
        }
        Ok(records)
    }

    /// Files that were written aside and never renamed.
    fn drop_half_written(&self) -> Result<(), SavedError> {
        let io = |source: io::Error| SavedError::Io { doing: "read", path: self.dir.clone(), source };
        for entry in fs::read_dir(&self.dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|e| e == saved::ASIDE) {
                saved::remove(&path)?;
            }
        }
        Ok(())
    }

    fn read(&self, task: TaskId) -> Result<Option<Record>, SavedError> {
        let path = self.path(task);
        let Some(bytes) = saved::read(&path)? else { return Ok(None) };
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|_| SavedError::Damaged { path: path.clone() })?;
        let state = TaskState::from_number(stored.state).ok_or(SavedError::Damaged { path })?;
        let container =
            stored.pid.map(|pid| ContainerStatus { pid, exit_code: stored.exit_code, oom_killed: false });
        let status = TaskStatus {
            state,
            at: Timestamp(stored.at_ms),
            message: stored.message,
            container,
            health: health(&stored.health),
        };
        Ok(Some(Record { status, failures: stored.failures, boot: stored.boot }))
    }

    /// Remembers. When this returns, a power cut does not undo it.
    ///
    /// # Errors
    /// The file system's.
    pub fn put(&self, task: TaskId, record: &Record) -> Result<(), SavedError> {
        let Record { status, failures, boot } = record;
        let stored = Stored {
            state: status.state as u16,
            at_ms: status.at.0,
            message: status.message.clone(),
            pid: status.container.map(|c| c.pid),
            exit_code: status.container.and_then(|c| c.exit_code),
            boot: boot.clone(),
            health: status.health.name().to_owned(),
            failures: *failures,
        };
        // Numbers and strings cannot fail to become JSON.
        saved::write(&self.path(task), &serde_json::to_vec(&stored).unwrap_or_default())
    }

    /// Forgets a task; an unknown one is no error.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget(&self, task: TaskId) -> Result<(), SavedError> {
        saved::remove(&self.path(task))
    }

    fn path(&self, task: TaskId) -> PathBuf {
        self.dir.join(task.as_str())
    }
}

/// The health of this word; an unknown one says nothing.
fn health(word: &str) -> Health {
    let known = [Health::Starting, Health::Healthy, Health::Unhealthy];
    known.into_iter().find(|h| h.name() == word).unwrap_or_default()
}

fn damaged() -> TaskStatus {
    TaskStatus {
        state: TaskState::Running,
        at: Timestamp::default(),
        message: String::new(),
        container: None,
        health: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_a_damaged_one_counts_as_having_run() {
        let dir = tempfile::tempdir().unwrap();
        let log = StatusLog::open(dir.path()).unwrap();
        let (a, b) = (TaskId::from_random(1), TaskId::from_random(2));
        let record = Record {
            status: TaskStatus {
                state: TaskState::Failed,
                at: Timestamp(7),
                message: "exited with status 3".into(),
                container: Some(ContainerStatus { pid: 42, exit_code: Some(3), oom_killed: false }),
                health: Health::Unhealthy,
            },
            failures: 4,
            boot: "boot".into(),
        };
        log.put(a, &record).unwrap();
        log.put(b, &record).unwrap();
        fs::write(dir.path().join("tasks").join(b.as_str()), "warren 1 0").unwrap();
        fs::write(dir.path().join("tasks/half.new"), "").unwrap();

        let all = StatusLog::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(all.len(), 2);
        assert!(!dir.path().join("tasks/half.new").exists());
        assert_eq!(all[&a], record);
        assert_eq!(all[&b].status.state, TaskState::Running);

        log.forget(a).unwrap();
        log.forget(b).unwrap();
        log.forget(b).unwrap();
        assert!(log.load().unwrap().is_empty());
    }
}
