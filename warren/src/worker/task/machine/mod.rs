//! The life of one task on its node, as a pure state machine: no await, no clock, no I/O.
//!
//! ```text
//! attach ▸ prepare ▸ (READY, until start_at) ▸ record STARTING ▸ start ▸ record RUNNING ▸ (until healthy) ▸ open to traffic ▸ RUNNING
//! unhealthy: held ▸ healthy: open ▸ … or unhealthy for too long: held ▸ record why ▸ stop, FAILED
//! stop:  close to traffic ▸ stop signal ▸ stop_grace ▸ SIGKILL ▸ ┐
//! exit, or what cannot be made: close to traffic ▸ ──────────┴▸ record the end ▸ remove ▸ detach ▸ tell the end
//! ```
//!
//! The shell asks [`Machine::next`] what to do, does it, and tells what came of it through
//! [`Machine::done`], [`Machine::exited`] and the like. Two promises rest on the order above, at
//! whatever step the agent dies:
//! - **A task runs once.** STARTING is on disk before the start is tried; after a restart only a
//!   container that is still "created", in the same boot, is started.
//! - **No end is lost and nothing is left.** The end is on disk before the container that carries
//!   its exit status is removed, and it is told when nothing is left of the task, so that whoever
//!   hears of it may give its address away. If removing does not work, the end is told after
//!   [`Timing::removal_patience`] and removing goes on. Why a task is ended that nobody asked to
//!   end is on disk before its signal is sent: an exit status would say only that.
//!
//! What cannot be made before start_at is tried once more at start_at, and only then rejected: a
//! rejected task is replaced by one with a longer delay, and no delay would hold if the next one
//! were rejected at once.

mod ending;
mod running;

use super::{
    Timing,
    step::{Action, Found, KILL, Outcome, Step, Trouble},
};
use crate::{
    model::{ContainerStatus, Health, Probe, RestartPolicy, Task, TaskState, TaskStatus, Timestamp},
    worker::{
        executor::{ContainerState, Gate, NetworkNamespace},
        health::Tracker,
        status_log::Record,
    },
};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Attach,
    Prepare(NetworkNamespace),
    Ready,
    Start,
    /// A start failed, which does not mean that nothing was started.
    Doubt(Trouble),
    Started {
        pid: u32,
    },
    Running,
    // Being stopped, in order.
    Close,
    /// Only of one that is unhealthy.
    RecordWhy,
    Terminate {
        until: Timestamp,
    },
    Grace {
        until: Timestamp,
    },
    Kill {
        until: Timestamp,
    },
    Killed {
        until: Timestamp,
    },
    // Ended, in order.
    CloseEnded,
    RecordEnd,
    Remove,
    Detach,
    Gone,
}

/// What is known of a task's health check.
#[derive(Debug, Clone)]
enum Checked {
    /// Not what the image says.
    Unknown,
    /// There is none.
    None,
    /// This is what it has shown.
    Tracked(Box<Tracker>),
}

/// Failed tries of closing, or of recording why, before a task is stopped all the same: its
/// container goes anyway.
const CLOSE_TRIES: u32 = 3;

/// One task's life. See the module.
#[derive(Debug, Clone)]
pub struct Machine {
    task: Task,
    timing: Timing,
    phase: Phase,
    status: TaskStatus,
    /// How it ended, from the moment that is known.
    end: Option<TaskStatus>,
    attached: bool,
    checked: Checked,
    /// When its container was started.
    started_at: Timestamp,
    /// What it takes of the traffic; `None`: whatever an agent before this one left it.
    gate: Option<Gate>,
    /// The health and the failures in a row that are on disk.
    recorded: (Health, u32),
    /// Why it is being ended although nobody asked for it.
    unhealthy: Option<String>,
    /// Whether a start was tried whose answer is not known: then an ended container ran, and did
    /// not merely fail to start.
    start_tried: bool,
    not_before: Timestamp,
    tries: u32,
    retry_at: Timestamp,
    wait_tries: u32,
    wait_retry_at: Timestamp,
}

impl Machine {
    /// Takes a task up, wherever in its life the world and the disk say it is. `boot` names this
    /// boot of the machine.
    #[must_use]
    pub fn new(task: Task, found: Found, boot: &str, timing: Timing, now: Timestamp) -> Self {
        // The managers' clock may be ahead of ours: no back-off is longer than this one.
        let not_before = task.start_at.min(now.after(RestartPolicy::MAX_DELAY));
        let mut m = Self {
            timing,
            phase: Phase::Attach,
            status: task.status.clone(),
            end: None,
            // On the node's network, or on none, there is nothing that could be missing.
            attached: found.attached || !task.spec.network.is_attached(),
            checked: match task.spec.health.probe {
                Some(Probe::Disabled) => Checked::None,
                _ => Checked::Unknown,
            },
            started_at: now,
            gate: None,
            recorded: (Health::None, 0),
            unhealthy: None,
            start_tried: found.record.is_some(),
            not_before,
            tries: 0,
            retry_at: now,
            wait_tries: 0,
            wait_retry_at: now,
            task,
        };
        if m.status.state.is_final() {
            // Somebody else ended it (its node was given up for lost): what is left has to go.
            m.end = Some(m.status.clone());
            m.phase = Phase::Remove;
            return m;
        }
        m.advance(TaskState::Accepted, "", now);
        let recorded = found.record.as_ref().map(|r| r.status.state);
        match (found.container, found.record) {
            (_, Some(r)) if r.status.state.is_final() => {
                m.end = Some(r.status);
                m.phase = Phase::Remove;
            }
            (Some(ContainerState::Stopped(exit)), r) => {
                m.take(r);
                m.phase = Phase::Running;
                m.ended(exit, "", now);
            }
            (Some(ContainerState::Running { .. }), _) if !m.attached => {
                m.end(TaskState::Failed, "its network is gone; its container was ended".into(), now);
            }
            (Some(ContainerState::Running { pid }), Some(r))
                if r.status.container.is_some_and(|c| c.pid == pid) =>
            {
                m.take(Some(r));
                m.phase = Phase::Running;
                if m.unhealthy.is_some() {
                    m.phase = Phase::Close;
                } else if matches!(m.recorded.0, Health::Healthy | Health::Unhealthy) {
                    m.advance(TaskState::Running, "", now);
                }
            }
            (Some(ContainerState::Running { pid }), _) => m.started(pid, now),
            (container, r) => {
                let may_continue = match &r {
                    None => m.status.state < TaskState::Starting,
                    Some(r) => {
                        recorded < Some(TaskState::Running)
                            && r.boot == boot
                            && container == Some(ContainerState::Created)
                    }
                };
                if !may_continue {
                    m.take(r);
                    m.phase = Phase::Running;
                    m.end(TaskState::Failed, "container is gone".into(), now);
                }
            }
        }
        m.stop_if_asked(now);
        m
    }

    /// The task, with the desired state it now has.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// What to tell the managers. Its state never goes back and, once final, never changes.
    #[must_use]
    pub fn status(&self) -> &TaskStatus {
        &self.status
    }

    /// Whether its container ran when last heard of, and nothing was done to end it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// What to do now.
    pub fn next(&mut self, now: Timestamp) -> Step {
        self.pass_time(now);
        let retry = (now < self.retry_at).then_some(self.retry_at);
        let exit = now >= self.wait_retry_at;
        let waiting = |until: Option<Timestamp>| {
            let again = (!exit).then_some(self.wait_retry_at);
            Step::Wait { until: [until, again].into_iter().flatten().min(), exit, probe: false }
        };
        let only_until = |at| Step::Wait { until: Some(at), exit: false, probe: false };
        let or_retry = |action: Action| match retry {
            Some(at) => only_until(at),
            None => Step::Do(action),
        };
        match &self.phase {
            Phase::Attach => or_retry(Action::Attach),
            Phase::Prepare(ns) => or_retry(Action::Prepare(ns.clone())),
            Phase::Ready if now < self.not_before => only_until(self.not_before),
            Phase::Ready => or_retry(self.to_disk(self.record(TaskState::Starting, now))),
            Phase::Start => or_retry(Action::Start),
            Phase::Doubt(_) => or_retry(Action::Look),
            Phase::Started { .. } => match retry {
                Some(_) => waiting(retry),
                None => Step::Do(self.to_disk(self.record(TaskState::Running, self.started_at))),
            },
            Phase::Running => match (self.running_action(), retry) {
                (Some(action), None) => Step::Do(action),
                (action, retry) => {
                    let due = self.tracker().map(|t| t.next_probe(now));
                    let probe = due.is_some_and(|at| at <= now);
                    let until = [retry.filter(|_| action.is_some()), due.filter(|_| !probe)];
                    match waiting(until.into_iter().flatten().min()) {
                        Step::Wait { until, exit, .. } => Step::Wait { until, exit, probe },
                        other => other,
                    }
                }
            },
            Phase::Close if self.unhealthy.is_some() => or_retry(Action::Serve(Gate::Held)),
            Phase::Close | Phase::CloseEnded => or_retry(Action::Serve(Gate::Draining)),
            Phase::RecordWhy => {
                let message = self.unhealthy.clone().unwrap_or_default();
                let status = self.record(TaskState::Running, self.started_at);
                or_retry(self.to_disk(TaskStatus { message, ..status }))
            }
            Phase::Terminate { until } => match retry {
                Some(at) => waiting(Some(at.min(*until))),
                None => Step::Do(Action::Stop),
            },
            Phase::Kill { until } => match retry {
                Some(at) => waiting(Some(at.min(*until))),
                None => Step::Do(Action::Kill(KILL)),
            },
            Phase::Grace { until } | Phase::Killed { until } => waiting(Some(*until)),
            Phase::RecordEnd => or_retry(self.to_disk(self.end_status())),
            Phase::Remove => or_retry(Action::Remove),
            Phase::Detach => or_retry(Action::Detach),
            Phase::Gone => Step::End,
        }
    }

    /// What passing time alone changes.
    fn pass_time(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Attach => self.advance(TaskState::Preparing, &self.status.message.clone(), now),
            Phase::Terminate { until } | Phase::Grace { until } if now >= until => {
                self.go(Phase::Kill { until: now.after(self.timing.kill_wait) });
            }
            Phase::Kill { until } | Phase::Killed { until } if now >= until => {
                let message = "its container did not end after SIGKILL and was removed";
                self.end(TaskState::Failed, message.into(), now);
            }
            _ => {}
        }
        self.tell_end(now);
    }

    /// Takes in what came of the action of the last [`Machine::next`].
    pub fn done(&mut self, outcome: Outcome, now: Timestamp) {
        use Outcome::{Attached, Failed, Seen, Started};
        match (self.phase.clone(), outcome) {
            (Phase::Attach, Attached(ns)) => {
                self.attached = true;
                self.advance(TaskState::Preparing, "", now);
                self.go(Phase::Prepare(ns));
            }
            (Phase::Prepare(_), Outcome::Done) => {
                self.advance(TaskState::Ready, "", now);
                self.go(Phase::Ready);
            }
            (Phase::Ready, Outcome::Done) => {
                self.advance(TaskState::Starting, "", now);
                self.go(Phase::Start);
            }
            (Phase::Start, Started(pid)) | (Phase::Doubt(_), Seen(Some(ContainerState::Running { pid }))) => {
                // Made by us a moment ago, or by an agent that died before it could open it.
                self.gate = Some(Gate::Held);
                self.started(pid, now);
            }
            // Not `go`: the tries of start and look count together.
            (Phase::Start, Failed(trouble)) => {
                self.start_tried |= matches!(trouble, Trouble::Temporary(_));
                self.phase = Phase::Doubt(trouble);
            }
            (Phase::Doubt(trouble), Seen(Some(ContainerState::Created))) => match trouble {
                Trouble::Fatal(why) => self.end(TaskState::Rejected, why, now),
                Trouble::Temporary(why) => {
                    self.phase = Phase::Start;
                    self.retry(why, now);
                }
            },
            (Phase::Doubt(Trouble::Fatal(why)), Seen(Some(ContainerState::Stopped(_))))
                if !self.start_tried =>
            {
                self.end(TaskState::Rejected, why, now);
            }
            (Phase::Doubt(_), Seen(Some(ContainerState::Stopped(exit)))) => self.ended(exit, "", now),
            (Phase::Doubt(Trouble::Fatal(why)), Seen(None)) => self.end(TaskState::Rejected, why, now),
            (Phase::Doubt(Trouble::Temporary(_)), Seen(None)) => {
                self.end(TaskState::Failed, "container is gone".into(), now);
            }
            (Phase::Started { .. }, Outcome::Done) => self.go(Phase::Running),
            (Phase::Running, outcome @ (Outcome::Done | Outcome::Check(_))) => self.running(outcome, now),
            (Phase::Close, Outcome::Done) => self.closed(now),
            (Phase::RecordWhy, Outcome::Done) => self.terminate(now),
            (Phase::Terminate { until }, Outcome::Done) => self.go(Phase::Grace { until }),
            (Phase::Kill { until }, Outcome::Done) => self.go(Phase::Killed { until }),
            (Phase::CloseEnded, Outcome::Done) => self.go(Phase::RecordEnd),
            (Phase::RecordEnd, Outcome::Done) => self.go(Phase::Remove),
            (Phase::Remove, Outcome::Done) => self.go(Phase::Detach),
            (Phase::Detach, Outcome::Done) => self.go(Phase::Gone),

            (Phase::Close, Failed(_)) if self.tries + 1 >= CLOSE_TRIES => self.closed(now),
            (Phase::RecordWhy, Failed(_)) if self.tries + 1 >= CLOSE_TRIES => self.terminate(now),
            (Phase::CloseEnded, Failed(_)) if self.tries + 1 >= CLOSE_TRIES => self.go(Phase::RecordEnd),
            (Phase::Attach | Phase::Prepare(_), Failed(Trouble::Fatal(why))) if now < self.not_before => {
                self.retry_at = self.not_before;
                let message = format!("{why}; trying again when its restart delay is over");
                self.advance(self.status.state, &message, now);
            }
            (Phase::Attach | Phase::Prepare(_) | Phase::Ready, Failed(Trouble::Fatal(why))) => {
                self.end(TaskState::Rejected, why, now);
            }
            (_, Failed(trouble)) => self.retry(trouble.text(), now),
            // A fault of the shell's. Not at once again, or it would spin.
            (_, other) => self.retry(format!("an unexpected answer: {other:?}"), now),
        }
        self.stop_if_asked(now);
        self.tell_end(now);
    }

    fn started(&mut self, pid: u32, now: Timestamp) {
        self.started_at = now;
        self.status.container = Some(ContainerStatus { pid, exit_code: None, oom_killed: false });
        self.go(Phase::Started { pid });
    }

    fn go(&mut self, phase: Phase) {
        self.phase = phase;
        self.tries = 0;
        self.retry_at = Timestamp::default();
    }

    fn retry(&mut self, why: String, now: Timestamp) {
        self.tries += 1;
        let delay = self.timing.back_off(self.tries);
        self.retry_at = now.after(delay);
        let what = match &self.end {
            Some(end) if end.message.is_empty() => format!("{}, but cannot be cleared up: ", end.state),
            Some(end) => format!("{}, but cannot be cleared up: ", end.message),
            None => String::new(),
        };
        self.advance(self.status.state, &format!("{what}{why}; trying again in {delay:?}"), now);
    }

    fn record(&self, state: TaskState, at: Timestamp) -> TaskStatus {
        let container = match self.phase {
            Phase::Started { .. } | Phase::Running | Phase::RecordWhy => self.status.container,
            _ => None,
        };
        let health = self.tracker().map_or(self.status.health, Tracker::health);
        TaskStatus { state, at, message: String::new(), container, health }
    }

    fn to_disk(&self, status: TaskStatus) -> Action {
        Action::Record { status, failures: self.failures() }
    }

    /// Failed tries of its health check in a row, as far as is known.
    fn failures(&self) -> u32 {
        self.tracker().map_or(self.recorded.1, Tracker::failures)
    }

    /// Goes on from a record's status.
    fn take(&mut self, record: Option<Record>) {
        if let Some(r) = record {
            self.status.container = r.status.container.or(self.status.container);
            self.recorded = (r.status.health, r.failures);
            if r.status.health != Health::None {
                self.status.health = r.status.health;
            }
            if r.status.state == TaskState::Running {
                self.started_at = r.status.at;
                self.unhealthy = Some(r.status.message).filter(|why| !why.is_empty());
            }
        }
    }

    fn advance(&mut self, state: TaskState, message: &str, now: Timestamp) {
        if self.status.state.is_final() {
            return;
        }
        let state = state.max(self.status.state);
        if state != self.status.state || message != self.status.message {
            let at = if state == self.status.state { self.status.at } else { now };
            self.status = TaskStatus {
                state,
                at,
                message: message.into(),
                container: self.status.container,
                health: self.status.health,
            };
        }
    }
}

#[cfg(test)]
mod tests;
