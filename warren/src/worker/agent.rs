//! The node's tasks as a whole: level-triggered, a full pass at start, on every assignment, when a
//! task's runner ends, and from time to time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    logs::Logs,
    plan::{Action, Held, Plan, Runner, View, plan},
    task::runner::{self, Orders, Outside},
};
use crate::model::{Assignment, TaskId, TaskState, TaskStatus};

/// Makes the assignment so.
pub struct Agent {
    outside: Outside,
    logs: Logs,
    assignment: watch::Receiver<Option<Arc<Assignment>>>,
    entries: BTreeMap<TaskId, Entry>,
    running: JoinSet<After>,
    tasks: HashMap<Id, TaskId>,
    failures: u32,
}

enum Entry {
    Task {
        orders: watch::Sender<Orders>,
        running: watch::Receiver<bool>,
    },
    /// Work without a machine: it takes no orders.
    Other,
    Finished,
}

/// What follows a runner.
enum After {
    /// Nothing is left of the task.
    Finished,
    /// As if it had never been taken up.
    TakeUpAgain,
}

impl Entry {
    fn is_running(&self) -> bool {
        matches!(self, Self::Task { running, .. } if *running.borrow())
    }
}

impl Agent {
    /// An agent for the assignments that appear in `assignment`. Without one it does nothing: only
    /// an assignment tells what is left over.
    #[must_use]
    pub fn new(outside: Outside, logs: Logs, assignment: watch::Receiver<Option<Arc<Assignment>>>) -> Self {
        Self {
            outside,
            logs,
            assignment,
            entries: BTreeMap::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            failures: 0,
        }
    }

    /// Runs until cancelled. Containers and networks are then left as they are.
    pub async fn run(mut self, cancel: CancellationToken) {
        let cancelled = cancel.cancelled_owned();
        tokio::pin!(cancelled);
        loop {
            let next_pass = tokio::select! {
                () = &mut cancelled => return,
                next = self.pass() => next,
            };
            tokio::select! {
                () = &mut cancelled => return,
                changed = self.assignment.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(ended) = self.running.join_next_with_id() => {
                    self.runner_ended(ended);
                    while let Some(ended) = self.running.try_join_next_with_id() {
                        self.runner_ended(ended);
                    }
                }
                () = tokio::time::sleep(next_pass) => {}
            }
        }
    }

    /// One full pass; returns when the next one is due if nothing happens.
    async fn pass(&mut self) -> Duration {
        let Some(assignment) = self.assignment.borrow_and_update().clone() else {
            return self.outside.timing.full_pass;
        };
        // What is known to be wanted is told at once, however long the runtime takes to answer.
        let known = assignment.tasks.iter().map(|t| t.id).chain(assignment.ended.iter().copied());
        self.outside.board.retain(&known.chain(self.entries.keys().copied()).collect());
        let told = self.plan(&assignment, None, &BTreeSet::new());
        self.apply(told, &assignment);
        self.sweep_logs(&assignment).await;

        let ran: BTreeSet<TaskId> =
            self.entries.iter().filter(|(_, e)| e.is_running()).map(|(id, _)| *id).collect();
        match self.look().await {
            Ok(held) => {
                self.failures = 0;
                let plan = self.plan(&assignment, Some(&held), &ran);
                self.apply(plan, &assignment);
                self.outside.timing.full_pass
            }
            Err(why) => {
                self.failures += 1;
                let delay = self.outside.timing.back_off(self.failures);
                tracing::warn!("cannot see what this node runs: {why}; trying again in {delay:?}");
                let plan = self.plan(&assignment, None, &ran);
                for task in assignment.tasks.iter().filter(|t| plan.waiting.contains(&t.id)) {
                    if task.status.state.is_final() {
                        continue;
                    }
                    let status = TaskStatus {
                        state: task.status.state.max(TaskState::Accepted),
                        message: why.clone(),
                        ..task.status.clone()
                    };
                    self.outside.reports.put(task.id, &status);
                }
                delay
            }
        }
    }

    /// Removes what tasks wrote that are listed nowhere any more.
    async fn sweep_logs(&self, assignment: &Arc<Assignment>) {
        let (logs, assignment) = (self.logs.clone(), assignment.clone());
        match tokio::task::spawn_blocking(move || logs.sweep(&assignment)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(tasks)) => tracing::debug!(tasks, "removed the output of tasks that are gone"),
            Ok(Err(e)) => tracing::warn!("cannot remove the output of tasks that are gone: {e}"),
            Err(e) => tracing::error!("removing the output of tasks that are gone failed: {e}"),
        }
    }

    /// What the node holds, or one sentence why that cannot be known.
    async fn look(&self) -> Result<Held, String> {
        let Outside { runtime, network, log, timing, .. } = &self.outside;
        let containers = tokio::time::timeout(timing.list_timeout, runtime.list())
            .await
            .map_err(|_| format!("the container runtime did not answer in {:?}", timing.list_timeout))?
            .map_err(|e| e.to_string())?;
        let attached = tokio::time::timeout(timing.list_timeout, network.list())
            .await
            .map_err(|_| format!("the network did not answer in {:?}", timing.list_timeout))?
            .map_err(|e| e.to_string())?;
        let log = log.clone();
        let records = tokio::task::spawn_blocking(move || log.load())
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        Ok(Held {
            containers: containers.into_iter().collect(),
            attached: attached.into_iter().collect(),
            records,
        })
    }

    fn plan(&self, assignment: &Assignment, held: Option<&Held>, ran: &BTreeSet<TaskId>) -> Plan {
        let runners = self
            .entries
            .iter()
            .map(|(id, entry)| {
                let runner = match entry {
                    Entry::Finished => Runner::Finished,
                    entry if entry.is_running() && ran.contains(id) => Runner::Running,
                    _ => Runner::Busy,
                };
                (*id, runner)
            })
            .collect();
        plan(View { assignment, held, runners: &runners })
    }

    fn apply(&mut self, plan: Plan, assignment: &Assignment) {
        for action in plan.actions {
            match action {
                Action::Order(id, new) => {
                    if let Some(Entry::Task { orders, .. }) = self.entries.get(&id) {
                        orders.send_if_modified(|o| {
                            let next =
                                Orders { desired: o.desired.max(new.desired), lost: o.lost.or(new.lost) };
                            std::mem::replace(o, next) != next
                        });
                    }
                }
                Action::Take(task, found) => {
                    let id = task.id;
                    tracing::debug!(task = %id, generation = assignment.generation, ?found, "taken up");
                    let (orders, told) = watch::channel(Orders { desired: task.desired, lost: None });
                    let (tell, running) = watch::channel(false);
                    let work = runner::run(*task, *found, self.outside.clone(), told, tell);
                    let work = work.map(|()| After::Finished);
                    self.spawn(id, work, Entry::Task { orders, running });
                }
                Action::Sweep(id) => {
                    tracing::info!(task = %id, "left over, not assigned: removing");
                    let work = runner::sweep(id, self.outside.clone()).map(|()| After::Finished);
                    self.spawn(id, work, Entry::Other);
                }
                Action::Forget(id) => {
                    self.entries.remove(&id);
                    self.outside.reports.forget(id);
                    if let Err(e) = self.outside.log.forget(id) {
                        tracing::warn!(task = %id, "{e}");
                    }
                }
            }
        }
    }

    fn spawn(&mut self, id: TaskId, work: impl Future<Output = After> + Send + 'static, entry: Entry) {
        let handle = self.running.spawn(work);
        self.tasks.insert(handle.id(), id);
        self.entries.insert(id, entry);
    }

    fn runner_ended(&mut self, ended: Result<(Id, After), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(task) = self.tasks.remove(&id) else { return };
        match ended {
            Ok((_, After::Finished)) => drop(self.entries.insert(task, Entry::Finished)),
            Ok((_, After::TakeUpAgain)) => drop(self.entries.remove(&task)),
            // A fault of ours: the task is taken up again as after a restart, but not in a spin.
            Err(e) => {
                tracing::error!(%task, "its runner failed: {e}");
                let delay = tokio::time::sleep(self.outside.timing.retry_max);
                self.spawn(task, delay.map(|()| After::TakeUpAgain), Entry::Other);
            }
        }
    }
}
