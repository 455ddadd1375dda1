//! Tries a container once. How many tries are begun at once on the node is limited, so that many
//! tasks' probes never become a storm.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{Check, MAX_OUTPUT, ProbeResult, Tried, http, inside::Place, tcp, text};
use crate::{
    model::{Probe, Task, Timestamp},
    worker::executor::{Runtime, RuntimeError},
};

/// TCP and HTTP tries at once.
const REQUESTS: usize = 64;
/// Programs at once, for each processor: each costs some processes of the runtime's.
const PROGRAMS_PER_CPU: usize = 2;
/// A try holds its place among those at once for no longer than this: one that only waits costs
/// nothing, and must not delay the others.
const HELD: Duration = Duration::from_secs(1);
/// How long the runtime may take to end a program whose time is over.
const ENDING: Duration = Duration::from_secs(30);

/// Tries containers.
pub struct Prober {
    runtime: Arc<dyn Runtime>,
    programs: Semaphore,
    requests: Semaphore,
    tls: TlsConnector,
    clock: fn() -> Timestamp,
}

impl Prober {
    /// Runs programs with this runtime.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, clock: fn() -> Timestamp) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            runtime,
            programs: Semaphore::new(cpus * PROGRAMS_PER_CPU),
            requests: Semaphore::new(REQUESTS),
            tls: http::connector(),
            clock,
        }
    }

    /// Tries the container of `task`, whose first process is `pid`, once. Waits for its turn first,
    /// which does not count as the try's time.
    pub async fn probe(&self, task: &Task, pid: u32, check: &Check) -> Tried {
        let turns = match check.probe {
            Probe::Command(_) | Probe::Shell(_) | Probe::Disabled => &self.programs,
            Probe::Http(_) | Probe::Tcp(_) => &self.requests,
        };
        // Never closed.
        let turn = turns.acquire().await.ok();
        let (at, begun) = ((self.clock)(), Instant::now());
        let mut trying = Box::pin(self.try_once(task, pid, check));
        let outcome = match timeout(HELD, &mut trying).await {
            Ok(outcome) => outcome,
            Err(_) => {
                drop(turn);
                trying.await
            }
        };
        match outcome {
            Ok((good, code, output)) => {
                Tried::Known(ProbeResult { at, took: begun.elapsed(), good, code, output })
            }
            Err(why) => Tried::Unknown(why),
        }
    }

    /// Whether it works, the status, and what was said; or why that cannot be known.
    async fn try_once(&self, task: &Task, pid: u32, check: &Check) -> Result<(bool, i32, String), String> {
        let limit = check.timeout;
        let bad = |why: String| (false, 0, text(why.as_bytes()));
        let late = |_| bad(format!("no answer within {limit:?}"));
        let place = || Place::of(task, pid);
        Ok(match &check.probe {
            Probe::Disabled => return Err("nothing is to be tried".to_owned()),
            Probe::Tcp(port) => match timeout(limit, tcp::probe(&place(), *port)).await {
                Ok(Ok(said)) => (true, 0, said),
                Ok(Err(why)) => bad(why),
                Err(e) => late(e),
            },
            Probe::Http(probe) => match timeout(limit, http::probe(&place(), probe, &self.tls)).await {
                Ok(Ok(answer)) => (answer.good, answer.status.into(), answer.text),
                Ok(Err(why)) => bad(why),
                Err(e) => late(e),
            },
            Probe::Command(words) => self.run(task, words, limit).await?,
            Probe::Shell(line) => {
                let words = ["/bin/sh", "-c", line.as_str()].map(str::to_owned);
                self.run(task, &words, limit).await?
            }
        })
    }

    async fn run(
        &self,
        task: &Task,
        words: &[String],
        limit: Duration,
    ) -> Result<(bool, i32, String), String> {
        let run = self.runtime.run_in(task.id, words, limit, MAX_OUTPUT);
        let run = timeout(limit + ENDING, run).await.map_err(|_| "the container runtime does not answer")?;
        Ok(match run {
            Ok(done) if done.timed_out => {
                let why = format!("not done within {limit:?}: {}", text(&done.output));
                (false, done.code, text(why.trim_end_matches(": ").as_bytes()))
            }
            Ok(done) => (done.code == 0, done.code, text(&done.output)),
            Err(RuntimeError::Fatal(why)) => (false, 0, text(why.as_bytes())),
            Err(RuntimeError::Temporary(why)) => return Err(why),
        })
    }
}

#[cfg(test)]
#[path = "prober_test.rs"]
mod tests;
