//! How containers ended while containerd was away: asked of their shims, and kept among the task's
//! files, since a containerd that starts removes what has ended and knows nothing of it.

use std::{fs, io, path::Path, time::Duration};

use containerd_client::services::v1::WaitRequest;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Containerd, RuntimeConfig,
    client::CallError,
    files::{STARTED, STARTING},
    remains, shim,
};
use crate::{
    model::TaskId,
    worker::executor::{Exit, RuntimeError},
};

/// How long a shim may take to tell of an end that containerd was first to know.
const WITNESS: Duration = Duration::from_secs(1);

/// In a task's directory: the exit status, and the word below if memory had run out.
const FILE: &str = "exit";
const OOM: &str = "oom";

/// What was kept in a task's directory.
pub(super) fn kept(dir: &Path) -> Option<Exit> {
    let text = fs::read_to_string(dir.join(FILE)).ok()?;
    let mut words = text.split_whitespace();
    let code = words.next()?.parse().ok()?;
    Some(Exit { code, oom_killed: words.next() == Some(OOM) })
}

fn keep(dir: &Path, exit: Exit) -> io::Result<()> {
    let (file, oom) = (dir.join(FILE), if exit.oom_killed { OOM } else { "" });
    let aside = file.with_extension("new");
    fs::write(&aside, format!("{} {oom}\n", exit.code))?;
    fs::rename(aside, file)
}

/// Says of an exit status whether memory had run out: known as long as the cgroup is there, which
/// goes with the process's remains.
pub(super) fn exit(config: &RuntimeConfig, task: TaskId, code: i32) -> Exit {
    Exit { code, oom_killed: remains::oom_kills(&config.cgroup(task)) > 0 }
}

/// Waits for the end of a task's container, and keeps how it was. `None`: its shim cannot tell.
pub(super) async fn witness(config: &RuntimeConfig, task: TaskId) -> Option<Exit> {
    let told = async { shim::wait(config, task).await?.ended().await }.await;
    record(config, task, told).await
}

/// Keeps what a shim told.
async fn record(config: &RuntimeConfig, task: TaskId, told: io::Result<i32>) -> Option<Exit> {
    let code = match told {
        Ok(code) => code,
        Err(e) => {
            tracing::debug!(%task, error = %e, "its shim does not tell how it ended");
            return None;
        }
    };
    let config = config.clone();
    let kept = tokio::task::spawn_blocking(move || {
        let (exit, dir) = (exit(&config, task, code), config.task_dir(task));
        // One that was never let go is made anew; and of one that is being removed nothing is kept.
        if dir.join(STARTING).exists()
            && let Err(e) = keep(&dir, exit)
        {
            tracing::warn!(%task, error = %e, "how it ended could not be kept");
        }
        exit
    });
    kept.await.ok()
}

impl Containerd {
    /// How one ended of which containerd knows nothing any more.
    pub(super) fn kept(&self, task: TaskId) -> Exit {
        kept(&self.config.task_dir(task)).unwrap_or(Exit::UNSEEN)
    }

    /// Whether its process was let go once, as far as that is known.
    pub(super) fn was_started(&self, task: TaskId) -> bool {
        self.marked(task, STARTED) || kept(&self.config.task_dir(task)).is_some()
    }

    /// Its end, as containerd tells it.
    pub(super) async fn wait_exit(&self, task: TaskId) -> Result<Exit, CallError> {
        let r = WaitRequest { container_id: task.to_string(), exec_id: String::new() };
        let answer = self.client.tasks().wait(self.client.request(r)).await?.into_inner();
        Ok(self.exit(task, i32::try_from(answer.exit_status).unwrap_or(255)).await)
    }

    /// The same, asked again whenever containerd came back.
    async fn wait_exit_patiently(&self, task: TaskId) -> Result<Exit, CallError> {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.wait_exit(task).await {
                Err(CallError::Away(why)) => {
                    tracing::debug!(%task, why, "waiting for containerd to come back");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                answer => return answer,
            }
        }
    }

    /// Its end as its shim tells it; never returns when that one cannot.
    async fn seen_by_shim(&self, task: TaskId) -> Exit {
        match witness(&self.config, task).await {
            Some(exit) => exit,
            None => std::future::pending().await,
        }
    }

    /// Waits for its end; from the moment containerd is away, at its shim's as well.
    pub(super) async fn wait_for_end(&self, task: TaskId) -> Result<Exit, RuntimeError> {
        let mut answer = self.wait_exit(task).await;
        if matches!(answer, Err(CallError::Away(_))) {
            // One that ends now is not known to the containerd that comes back.
            let witness = self.seen_by_shim(task);
            tokio::pin!(witness);
            answer = tokio::select! {
                exit = &mut witness => return Ok(exit),
                answer = self.wait_exit_patiently(task) => answer,
            };
            if matches!(answer, Err(CallError::NotFound(_)))
                && let Ok(exit) = tokio::time::timeout(WITNESS, witness).await
            {
                return Ok(exit);
            }
        }
        match answer {
            Err(CallError::NotFound(_)) if self.was_started(task) => Ok(self.kept(task)),
            Err(CallError::NotFound(_)) => Err(RuntimeError::Fatal(format!("task {task} was not started"))),
            answer => Ok(answer?),
        }
    }
}

/// Keeps how containers end from before a containerd is started until it is up.
#[derive(Debug)]
pub struct Ends {
    waiting: JoinSet<()>,
    up: CancellationToken,
}

impl Ends {
    /// Asks the shims of all containers. When this returns, no end is lost any more.
    pub async fn watch(config: &RuntimeConfig) -> Self {
        let up = CancellationToken::new();
        let mut waiting = JoinSet::new();
        for entry in fs::read_dir(config.tasks_dir()).into_iter().flatten().flatten() {
            let Some(task) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let Ok(asked) = shim::wait(config, task).await else { continue };
            let (config, up) = (config.clone(), up.clone());
            waiting.spawn(async move {
                tokio::select! {
                    // What has been told is kept, whatever else is so.
                    biased;
                    told = asked.ended() => drop(record(&config, task, told).await),
                    () = up.cancelled() => {}
                }
            });
        }
        Self { waiting, up }
    }

    /// containerd is up, and sees what ends from here on.
    pub async fn containerd_is_up(mut self) {
        self.up.cancel();
        while self.waiting.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_kept_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kept(dir.path()), None);
        for exit in [Exit::with(0), Exit::with(143), Exit { code: 137, oom_killed: true }] {
            keep(dir.path(), exit).unwrap();
            assert_eq!(kept(dir.path()), Some(exit));
        }
        fs::write(dir.path().join(FILE), "").unwrap();
        assert_eq!(kept(dir.path()), None);
    }
}
