//! The life of one task on its node, as a pure state machine: no await, no clock, no I/O.
//!
//! ```text
//! attach ▸ prepare ▸ (READY, until start_at) ▸ record STARTING ▸ start ▸ record RUNNING ▸ (until healthy) ▸ open to traffic ▸ RUNNING
//! unhealthy: held ▸ healthy: open ▸ … or unhealthy for too long: stop, FAILED
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
//!   [`Timing::removal_patience`] and removing goes on.
//!
//! What cannot be made before start_at is tried once more at start_at, and only then rejected: a
//! rejected task is replaced by one with a longer delay, and no delay would hold if the next one
//! were rejected at once.

use super::{
    Timing,
    step::{Action, Found, KILL, Outcome, Step, Trouble, describe_exit},
};
use crate::{
    model::{ContainerStatus, Health, Probe, RestartPolicy, Task, TaskState, TaskStatus, Timestamp},
    worker::{
        executor::{ContainerState, Exit, Gate, NetworkNamespace},
        health::{Check, Tracker, Tried},
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

/// Failed tries of closing before a task is stopped all the same: its container goes anyway.
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
    /// The health that is on disk.
    recorded_health: Health,
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
            recorded_health: Health::None,
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
                if matches!(m.recorded_health, Health::Healthy | Health::Unhealthy) {
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

    /// What its probes have shown, if it has a health check and that is known.
    #[must_use]
    pub fn tracker(&self) -> Option<&Tracker> {
        match &self.checked {
            Checked::Tracked(tracker) => Some(tracker),
            Checked::Unknown | Checked::None => None,
        }
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
            Phase::Ready => or_retry(Action::Record(self.record(TaskState::Starting, now))),
            Phase::Start => or_retry(Action::Start),
            Phase::Doubt(_) => or_retry(Action::Look),
            Phase::Started { .. } => match retry {
                Some(_) => waiting(retry),
                None => Step::Do(Action::Record(self.record(TaskState::Running, self.started_at))),
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
            Phase::Terminate { until } => match retry {
                Some(at) => waiting(Some(at.min(*until))),
                None => Step::Do(Action::Stop),
            },
            Phase::Kill { until } => match retry {
                Some(at) => waiting(Some(at.min(*until))),
                None => Step::Do(Action::Kill(KILL)),
            },
            Phase::Grace { until } | Phase::Killed { until } => waiting(Some(*until)),
            Phase::RecordEnd => or_retry(Action::Record(self.end_status())),
            Phase::Remove => or_retry(Action::Remove),
            Phase::Detach => or_retry(Action::Detach),
            Phase::Gone => Step::End,
        }
    }

    /// What is missing for a running container to be as it should be, the most urgent first.
    fn running_action(&self) -> Option<Action> {
        let gate = match &self.checked {
            Checked::Unknown => return Some(Action::Check),
            Checked::None => Some(Gate::Open),
            Checked::Tracked(tracker) => tracker.gate(),
        };
        if gate.is_some() && gate != self.gate {
            return gate.map(Action::Serve);
        }
        let health = self.tracker().map_or(Health::None, Tracker::health);
        let worth = matches!(health, Health::Healthy | Health::Unhealthy) && health != self.recorded_health;
        worth.then(|| Action::Record(self.record(TaskState::Running, self.started_at)))
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
            (Phase::Close, Outcome::Done) => self.terminate(now),
            (Phase::Terminate { until }, Outcome::Done) => self.go(Phase::Grace { until }),
            (Phase::Kill { until }, Outcome::Done) => self.go(Phase::Killed { until }),
            (Phase::CloseEnded, Outcome::Done) => self.go(Phase::RecordEnd),
            (Phase::RecordEnd, Outcome::Done) => self.go(Phase::Remove),
            (Phase::Remove, Outcome::Done) => self.go(Phase::Detach),
            (Phase::Detach, Outcome::Done) => self.go(Phase::Gone),

            (Phase::Close, Failed(_)) if self.tries + 1 >= CLOSE_TRIES => self.terminate(now),
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

    /// Takes in what came of the last [`Machine::running_action`].
    fn running(&mut self, outcome: Outcome, now: Timestamp) {
        match (self.running_action(), outcome) {
            (Some(Action::Check), Outcome::Check(image)) => {
                self.checked = match Check::of(&self.task.spec.health, image.as_ref()) {
                    None => Checked::None,
                    Some(check) => {
                        let served = self.status.state == TaskState::Running;
                        let tracker = Tracker::new(
                            check,
                            self.task.id,
                            self.started_at,
                            self.status.health,
                            served,
                            now,
                        );
                        Checked::Tracked(Box::new(tracker))
                    }
                };
                let starting = self.status.state < TaskState::Running && self.tracker().is_some();
                self.set_health();
                if starting {
                    self.advance(TaskState::Starting, "waiting for its health check to succeed", now);
                }
            }
            (Some(Action::Serve(gate)), Outcome::Done) => {
                self.gate = Some(gate);
                self.set_health();
                let message = if gate == Gate::Held { self.complaint() } else { String::new() };
                self.advance(TaskState::Running, &message, now);
            }
            (Some(Action::Record(_)), Outcome::Done) => {
                self.recorded_health = self.tracker().map_or(Health::None, Tracker::health);
                let message = if self.gate == Some(Gate::Held) { self.complaint() } else { String::new() };
                self.advance(self.status.state, &message, now);
            }
            (action, other) => return self.retry(format!("an unexpected answer: {action:?} {other:?}"), now),
        }
        self.go(Phase::Running);
    }

    /// What came of a try of its health check.
    pub fn probed(&mut self, tried: Tried, now: Timestamp) {
        let Checked::Tracked(tracker) = &mut self.checked else { return };
        if self.phase != Phase::Running {
            return;
        }
        let before = tracker.gate();
        tracker.take(tried, now);
        if let Some(why) = tracker.over() {
            self.unhealthy = Some(why);
            self.set_health();
            self.go(Phase::Close);
        } else if tracker.gate() != before {
            // Whatever did not work before and is waited for: this does not wait.
            self.go(Phase::Running);
        }
        if self.running_action().is_none() {
            self.set_health();
        }
    }

    /// What the last probe showed, of one that is unhealthy.
    fn complaint(&self) -> String {
        self.tracker().and_then(Tracker::complaint).unwrap_or_default()
    }

    /// Tells its health. What is healthy is told when it is open.
    fn set_health(&mut self) {
        if let Some(tracker) = self.tracker() {
            self.status.health = tracker.health();
        }
    }

    /// The container has ended.
    pub fn exited(&mut self, exit: Exit, now: Timestamp) {
        if self.waits_for_exit() {
            let message = match self.phase {
                Phase::Kill { .. } | Phase::Killed { .. } => {
                    format!("killed after its stop grace of {:?}", self.task.spec.stop_grace)
                }
                _ => String::new(),
            };
            self.ended(exit, &message, now);
        }
    }

    /// Waiting for the container's end did not work.
    pub fn wait_failed(&mut self, trouble: Trouble, now: Timestamp) {
        if !self.waits_for_exit() {
            return;
        }
        match trouble {
            Trouble::Fatal(why) => self.end(TaskState::Failed, why, now),
            Trouble::Temporary(_) => {
                self.wait_tries += 1;
                self.wait_retry_at = now.after(self.timing.back_off(self.wait_tries));
            }
        }
    }

    /// A look at the whole runtime showed no container where one should run.
    pub fn gone(&mut self, now: Timestamp) {
        if self.waits_for_exit() {
            self.end(TaskState::Failed, "container is gone".into(), now);
        }
    }

    /// The task should be there. Only ever grows: an earlier one is ignored.
    pub fn desire(&mut self, desired: TaskState, now: Timestamp) {
        if desired > self.task.desired {
            self.task.desired = desired;
            self.stop_if_asked(now);
        }
    }

    fn waits_for_exit(&self) -> bool {
        use Phase::{Close, Grace, Kill, Killed, Running, Started, Terminate};
        matches!(
            self.phase,
            Started { .. } | Running | Close | Terminate { .. } | Grace { .. } | Kill { .. } | Killed { .. }
        )
    }

    fn stop_if_asked(&mut self, now: Timestamp) {
        if self.task.desired <= TaskState::Running {
            return;
        }
        match self.phase {
            Phase::Attach | Phase::Prepare(_) | Phase::Ready => {
                self.end(TaskState::Shutdown, String::new(), now);
            }
            // A start that was never tried; a failed one is looked at first.
            Phase::Start => self.end(TaskState::Shutdown, String::new(), now),
            Phase::Started { .. } | Phase::Running => self.go(Phase::Close),
            _ => {}
        }
    }

    fn started(&mut self, pid: u32, now: Timestamp) {
        self.started_at = now;
        self.status.container = Some(ContainerStatus { pid, exit_code: None, oom_killed: false });
        self.go(Phase::Started { pid });
    }

    fn terminate(&mut self, now: Timestamp) {
        self.go(Phase::Terminate { until: now.after(self.task.spec.stop_grace) });
    }

    /// The container ended by itself or because it was asked to.
    fn ended(&mut self, exit: Exit, message: &str, now: Timestamp) {
        if exit == Exit::UNSEEN {
            return self.end(TaskState::Failed, "container is gone".into(), now);
        }
        let pid = self.status.container.map_or(0, |c| c.pid);
        self.status.container =
            Some(ContainerStatus { pid, exit_code: Some(exit.code), oom_killed: exit.oom_killed });
        match exit.code {
            _ if self.stopping() => self.end(TaskState::Shutdown, message.to_owned(), now),
            0 => self.end(TaskState::Complete, String::new(), now),
            _ => {
                let message = describe_exit(exit, self.task.spec.resources.memory);
                self.end(TaskState::Failed, message, now);
            }
        }
    }

    /// Fixes how the task ended, once, and starts to clear up. What was to be stopped anyway was
    /// shut down, however it came about.
    fn end(&mut self, state: TaskState, message: String, now: Timestamp) {
        if self.end.is_some() {
            return;
        }
        let (state, message) = match &self.unhealthy {
            _ if self.stopping() => (TaskState::Shutdown, message),
            Some(why) => (TaskState::Failed, why.clone()),
            None => (state, message),
        };
        self.end = Some(TaskStatus {
            state,
            at: now,
            message,
            container: self.status.container,
            health: self.status.health,
        });
        let may_be_open = self.attached
            && !matches!(
                self.phase,
                Phase::Attach | Phase::Prepare(_) | Phase::Ready | Phase::Start | Phase::Doubt(_)
            );
        self.go(if may_be_open { Phase::CloseEnded } else { Phase::RecordEnd });
    }

    fn stopping(&self) -> bool {
        self.task.desired > TaskState::Running
    }

    fn end_status(&self) -> TaskStatus {
        self.end.clone().unwrap_or_else(|| self.status.clone())
    }

    /// Makes the end the status once it may be told.
    fn tell_end(&mut self, now: Timestamp) {
        let Some(end) = &self.end else { return };
        let patience_over = now >= end.at.after(self.timing.removal_patience);
        if !self.status.state.is_final() && (self.phase == Phase::Gone || patience_over) {
            self.status = end.clone();
        }
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
            Phase::Started { .. } | Phase::Running => self.status.container,
            _ => None,
        };
        let health = self.tracker().map_or(self.status.health, Tracker::health);
        TaskStatus { state, at, message: String::new(), container, health }
    }

    /// Goes on from a record's status.
    fn take(&mut self, record: Option<Record>) {
        if let Some(r) = record {
            self.status.container = r.status.container.or(self.status.container);
            self.recorded_health = r.status.health;
            if r.status.health != Health::None {
                self.status.health = r.status.health;
            }
            if r.status.state == TaskState::Running {
                self.started_at = r.status.at;
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
#[path = "machine_test.rs"]
mod tests;
