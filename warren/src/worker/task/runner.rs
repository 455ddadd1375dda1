//! Drives one task: asks its machine, does what it says, tells it what came of it.

use std::{future::pending, sync::Arc, time::Duration};

use futures::future::{BoxFuture, OptionFuture};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Timing,
    machine::Machine,
    step::{Action, Found, Outcome, Step, Trouble},
};
use crate::{
    clock::now,
    model::{Task, TaskId, TaskState, TaskStatus, Timestamp},
    worker::{
        executor::{Exit, Network, NetworkError, NetworkNamespace, Runtime, RuntimeError},
        health::{Board, Prober, Tried},
        reports::Reports,
        status_log::{Record, StatusLog},
    },
};

/// Between two reports of how far a task's image is.
const REPORT: Duration = Duration::from_secs(2);

/// What every runner of a worker shares.
#[derive(Clone)]
pub struct Outside {
    /// Containers.
    pub runtime: Arc<dyn Runtime>,
    /// Networks.
    pub network: Arc<dyn Network>,
    /// What must not be forgotten.
    pub log: StatusLog,
    /// What is to be told.
    pub reports: Arc<Reports>,
    /// Tries containers' health checks.
    pub prober: Arc<Prober>,
    /// What came of the last tries.
    pub board: Board,
    /// This boot of the machine.
    pub boot: Arc<str>,
    /// How long to wait for things.
    pub timing: Timing,
}

/// What the agent tells a runner. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// Where the task should be.
    pub desired: TaskState,
    /// A look at the runtime showed that its container, which ran, does not. Its end is waited for
    /// anyway; this is for the day when waiting does not tell.
    pub lost: Option<Lost>,
}

/// What has become of a container that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It has ended.
    Ended(Exit),
    /// It is not there.
    Gone,
}

/// Runs a task from wherever it is to its end and until nothing is left of it. `running` tells
/// whether its container is one that a look at the runtime must show.
pub async fn run(
    task: Task,
    found: Found,
    outside: Outside,
    mut orders: watch::Receiver<Orders>,
    running: watch::Sender<bool>,
) {
    let id = task.id;
    let mut machine = Machine::new(task, found, &outside.boot, outside.timing, now());
    let mut exit: Option<BoxFuture<'static, Result<Exit, RuntimeError>>> = None;
    let mut probe: Option<AbortOnDropHandle<Tried>> = None;
    loop {
        let order = *orders.borrow_and_update();
        machine.desire(order.desired, now());
        match order.lost {
            Some(Lost::Ended(exit)) => machine.exited(exit, now()),
            Some(Lost::Gone) => machine.gone(now()),
            None => {}
        }
        // What was just decided is told before it is acted on, and once more after.
        outside.reports.put(id, machine.status());
        let step = machine.next(now());
        running.send_if_modified(|r| std::mem::replace(r, machine.is_running()) != machine.is_running());
        outside.reports.put(id, machine.status());
        match step {
            Step::Do(action) => {
                tracing::debug!(task = %id, ?action, "task step");
                if let Action::Prepare(_) = action {
                    match outside.fetch(&machine, &mut orders).await {
                        Fetched::Done => {}
                        Fetched::NotWanted => continue,
                        Fetched::Failed(trouble) => {
                            tracing::warn!(task = %id, ?trouble, "the image could not be brought");
                            machine.done(Outcome::Failed(trouble), now());
                            continue;
                        }
                        Fetched::AgentGoes => return,
                    }
                }
                let outcome = outside.perform(machine.task(), action).await.unwrap_or_else(|trouble| {
                    tracing::warn!(task = %id, ?trouble, "task step did not work");
                    Outcome::Failed(trouble)
                });
                machine.done(outcome, now());
            }
            Step::Wait { until, exit: wants_exit, probe: wants_probe } => {
                if wants_exit && exit.is_none() {
                    let runtime = outside.runtime.clone();
                    exit = Some(Box::pin(async move { runtime.wait(id).await }));
                }
                if !wants_probe {
                    probe = None;
                } else if probe.is_none() {
                    probe = outside.try_health(&machine);
                }
                tokio::select! {
                    Some(ended) = OptionFuture::from(exit.as_mut()), if wants_exit => {
                        exit = None;
                        match ended {
                            Ok(exit) => machine.exited(exit, now()),
                            Err(e) => machine.wait_failed(e.into(), now()),
                        }
                    }
                    Some(tried) = OptionFuture::from(probe.as_mut()), if wants_probe => {
                        probe = None;
                        // A fault of ours says nothing of the container.
                        let tried = tried.unwrap_or_else(|e| Tried::Unknown(e.to_string()));
                        if let Tried::Unknown(why) = &tried {
                            tracing::warn!(task = %id, "its health check could not be tried: {why}");
                        }
                        machine.probed(tried, now());
                        if let Some(tracker) = machine.tracker() {
                            outside.board.put(id, tracker);
                        }
                    }
                    changed = orders.changed() => {
                        if changed.is_err() {
                            // The agent is going: everything stays as it is.
                            return;
                        }
                    }
                    () = sleep_until(until) => {}
                }
            }
            Step::End => return,
        }
    }
}

async fn sleep_until(until: Option<Timestamp>) {
    match until {
        // A millisecond is the unit of time: not less, or the loop would spin.
        Some(at) => tokio::time::sleep(at.since(now()).max(Duration::from_millis(1))).await,
        None => pending().await,
    }
}

/// Removes what is left of a task that nobody knows any more.
pub async fn sweep(task: TaskId, outside: Outside) {
    let mut tries = 0;
    loop {
        let swept = async {
            outside.runtime.remove(task).await.map_err(|e| e.to_string())?;
            outside.network.detach(task).await.map_err(|e| e.to_string())
        };
        let Err(why) = swept.await else { return };
        tries += 1;
        tracing::warn!(%task, "left over and cannot be removed yet: {why}");
        tokio::time::sleep(outside.timing.back_off(tries)).await;
    }
}

/// What came of bringing what a task needs.
enum Fetched {
    Done,
    /// The task is to be stopped.
    NotWanted,
    Failed(Trouble),
    AgentGoes,
}

impl Outside {
    /// Begins a try of a task's health check, in a task of its own: whatever else is done for the
    /// container does not keep it waiting.
    fn try_health(&self, machine: &Machine) -> Option<AbortOnDropHandle<Tried>> {
        let (task, prober) = (machine.task().clone(), self.prober.clone());
        let check = machine.tracker()?.check().clone();
        let pid = machine.status().container?.pid;
        let work = async move { prober.probe(&task, pid, &check).await };
        Some(AbortOnDropHandle::new(tokio::spawn(work)))
    }

    /// Brings what the task needs from elsewhere. It may take long: how far it is shows in the
    /// task's status, and it is given up when the task is not wanted any more.
    async fn fetch(&self, machine: &Machine, orders: &mut watch::Receiver<Orders>) -> Fetched {
        let task = machine.task();
        let (tell, told) = watch::channel(String::new());
        let fetching = self.runtime.fetch(task, tell);
        tokio::pin!(fetching);
        let mut report = tokio::time::interval(REPORT);
        loop {
            tokio::select! {
                done = &mut fetching => {
                    return match done {
                        Ok(()) => Fetched::Done,
                        Err(e) => Fetched::Failed(e.into()),
                    };
                }
                changed = orders.changed() => {
                    if changed.is_err() {
                        return Fetched::AgentGoes;
                    }
                    if orders.borrow().desired > TaskState::Running {
                        // Seen again by whoever asked.
                        orders.mark_changed();
                        return Fetched::NotWanted;
                    }
                }
                _ = report.tick() => {
                    let message = told.borrow().clone();
                    if !message.is_empty() {
                        self.reports.put(task.id, &TaskStatus { message, ..machine.status().clone() });
                    }
                }
            }
        }
    }

    async fn perform(&self, task: &Task, action: Action) -> Result<Outcome, Trouble> {
        let network = |e: NetworkError| Trouble::Temporary(e.0);
        let attachment = || {
            let why = "the task has no network address; remove and create its service again";
            task.attachment.as_ref().ok_or_else(|| Trouble::Fatal(why.into()))
        };
        // On the node's network, or on none, there is nothing to do for these.
        let attached = task.spec.network.is_attached();
        match action {
            Action::Attach if !attached => return Ok(Outcome::Attached(NetworkNamespace::default())),
            Action::Serve(_) if !attached => {}
            Action::Attach => {
                return Ok(Outcome::Attached(
                    self.network.attach(task.id, attachment()?).await.map_err(network)?,
                ));
            }
            Action::Prepare(ns) => self.runtime.prepare(task, &ns).await?,
            Action::Start => return Ok(Outcome::Started(self.runtime.start(task.id).await?)),
            Action::Look => {
                let all = self.runtime.list().await?;
                return Ok(Outcome::Seen(all.into_iter().find(|(t, _)| *t == task.id).map(|(_, s)| s)));
            }
            Action::Check => return Ok(Outcome::Check(self.runtime.image_health(task.id).await?)),
            Action::Serve(gate) => {
                self.network.serve(task.id, attachment()?, gate).await.map_err(network)?;
            }
            Action::Stop => self.runtime.stop(task.id).await?,
            Action::Kill(signal) => self.runtime.kill(task.id, signal).await?,
            Action::Record { status, failures } => {
                let record = Record { status, failures, boot: self.boot.to_string() };
                let (log, id) = (self.log.clone(), task.id);
                tokio::task::spawn_blocking(move || log.put(id, &record))
                    .await
                    .map_err(|e| Trouble::Temporary(e.to_string()))?
                    .map_err(|e| Trouble::Temporary(e.to_string()))?;
            }
            Action::Remove => self.runtime.remove(task.id).await?,
            Action::Detach => self.network.detach(task.id).await.map_err(network)?,
        }
        Ok(Outcome::Done)
    }
}
