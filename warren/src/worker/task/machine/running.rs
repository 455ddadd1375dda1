//! A running container: open to traffic while its health check says so, and ended when that says no
//! for too long.

use super::{
    super::step::{Action, Outcome},
    Checked, Machine, Phase,
};
use crate::{
    model::{Health, TaskState, Timestamp},
    worker::{
        executor::Gate,
        health::{Check, Known, Tracker, Tried},
    },
};

/// What a task says of itself until then.
const WAITING: &str = "waiting for its health check to succeed";

impl Machine {
    /// What is missing for a running container to be as it should be, the most urgent first.
    pub(super) fn running_action(&self) -> Option<Action> {
        let gate = match &self.checked {
            Checked::Unknown => return Some(Action::Check),
            Checked::None => Some(Gate::Open),
            Checked::Tracked(tracker) => tracker.gate(),
        };
        if gate.is_some() && gate != self.gate {
            return gate.map(Action::Serve);
        }
        let health = self.tracker().map_or(Health::None, Tracker::health);
        let changed = matches!(health, Health::Healthy | Health::Unhealthy) && health != self.recorded.0;
        let worth = changed || self.failures() != self.recorded.1;
        worth.then(|| self.to_disk(self.record(TaskState::Running, self.started_at)))
    }

    /// Takes in what came of the last [`Machine::running_action`].
    pub(super) fn running(&mut self, outcome: Outcome, now: Timestamp) {
        match (self.running_action(), outcome) {
            (Some(Action::Check), Outcome::Check(image)) => {
                self.checked = match Check::of(&self.task.spec.health, image.as_ref()) {
                    None => Checked::None,
                    Some(check) => {
                        let known = Known {
                            health: self.status.health,
                            failures: self.recorded.1,
                            served: self.status.state == TaskState::Running,
                        };
                        let tracker = Tracker::new(check, self.task.id, self.started_at, known, now);
                        Checked::Tracked(Box::new(tracker))
                    }
                };
                let starting = self.status.state < TaskState::Running && self.tracker().is_some();
                self.set_health();
                if starting {
                    self.advance(TaskState::Starting, WAITING, now);
                }
            }
            (Some(Action::Serve(gate)), Outcome::Done) => {
                self.gate = Some(gate);
                self.set_health();
                let message = if gate == Gate::Held { self.complaint() } else { String::new() };
                self.advance(TaskState::Running, &message, now);
            }
            (Some(Action::Record { .. }), Outcome::Done) => {
                let health = self.tracker().map_or(Health::None, Tracker::health);
                self.recorded = (health, self.failures());
                let message = match self.gate {
                    _ if self.status.state < TaskState::Running => WAITING.to_owned(),
                    Some(Gate::Held) => self.complaint(),
                    _ => String::new(),
                };
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
    pub(super) fn complaint(&self) -> String {
        self.tracker().and_then(Tracker::complaint).unwrap_or_default()
    }

    /// Tells its health. What is healthy is told when it is open.
    pub(super) fn set_health(&mut self) {
        if let Some(tracker) = self.tracker() {
            self.status.health = tracker.health();
        }
    }

    /// What its probes have shown, if it has a health check and that is known.
    #[must_use]
    pub fn tracker(&self) -> Option<&Tracker> {
        match &self.checked {
            Checked::Tracked(tracker) => Some(tracker),
            Checked::Unknown | Checked::None => None,
        }
    }
}
