//! Where tasks' output is, and until when.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::program::Program;
use crate::model::{Assignment, LogLimits, TaskId};

/// In a task's directory: how much of its output is kept.
const LIMITS: &str = "limits";

/// The output of a node's tasks: a directory with one for each task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    dir: PathBuf,
}

impl Logs {
    /// Of a worker's directory.
    #[must_use]
    pub fn below(worker: &Path) -> Self {
        // Whoever is told of it works somewhere else.
        let worker = std::path::absolute(worker).unwrap_or_else(|_| worker.to_owned());
        Self { dir: worker.join("logs") }
    }

    /// Where everything is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files of a task.
    #[must_use]
    pub fn of(&self, task: TaskId) -> PathBuf {
        self.dir.join(task.as_str())
    }

    /// Makes the place for a task's output and notes how much of it is to be kept.
    ///
    /// # Errors
    /// The disk.
    pub fn prepare(&self, task: TaskId, limits: LogLimits) -> io::Result<()> {
        let dir = self.of(task);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(LIMITS), format!("{} {}\n", limits.max_size, limits.max_files))
    }

    /// The address under which containerd starts a task's writer.
    ///
    /// # Errors
    /// The writer's program is not on disk and cannot be put there.
    pub fn address(&self, task: TaskId) -> io::Result<String> {
        let dir = self.of(task);
        let noted = fs::read_to_string(dir.join(LIMITS)).unwrap_or_default();
        Ok(Program::install(&self.dir)?.uri(&dir, limits(&noted).unwrap_or_default()))
    }

    /// Removes the output of tasks that are listed nowhere any more; how many they were.
    ///
    /// # Errors
    /// The directory cannot be read, or something in it not removed.
    pub fn sweep(&self, assignment: &Assignment) -> io::Result<usize> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let listed: BTreeSet<TaskId> =
            assignment.tasks.iter().map(|t| t.id).chain(assignment.ended.iter().copied()).collect();
        let mut removed = 0;
        for entry in entries {
            let entry = entry?;
            let task = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if task.is_some_and(|task| !listed.contains(&task)) {
                fs::remove_dir_all(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn limits(noted: &str) -> Option<LogLimits> {
    let (size, files) = noted.trim().split_once(' ')?;
    Some(LogLimits { max_size: size.parse().ok()?, max_files: files.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::{a_task, an_assignment};

    #[test]
    fn the_writer_is_told_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::below(dir.path());
        let task = a_task(1).id;
        assert!(logs.address(task).unwrap().ends_with("&max-files=3&max-size=10485760"), "the defaults");
        logs.prepare(task, LogLimits { max_size: 5000, max_files: 7 }).unwrap();
        let address = logs.address(task).unwrap();
        assert!(address.contains(&format!("/logs/{task}&max-files=7&max-size=5000")), "{address}");
    }

    #[test]
    fn output_is_kept_as_long_as_the_task_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::below(dir.path());
        let (runs, ended, gone) = (a_task(1), a_task(2), a_task(3));
        let mut assignment = an_assignment(1, [runs.clone()]);
        assert_eq!(logs.sweep(&assignment).unwrap(), 0, "nothing was ever written");
        for task in [&runs, &ended, &gone] {
            fs::create_dir_all(logs.of(task.id)).unwrap();
            fs::write(logs.of(task.id).join("00000001.log"), b"x").unwrap();
        }
        fs::create_dir(dir.path().join("logs/not-a-task")).unwrap();
        assignment.ended = vec![ended.id];
        assert_eq!(logs.sweep(&assignment).unwrap(), 1);
        assert!(logs.of(runs.id).exists() && logs.of(ended.id).exists() && !logs.of(gone.id).exists());
        assert!(dir.path().join("logs/not-a-task").exists());
    }
}
