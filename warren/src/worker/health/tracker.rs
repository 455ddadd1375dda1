//! What a task's probes have shown so far and what follows from it. Pure.
//!
//! ```text
//! STARTING ─good▸ HEALTHY ─`retries` bad in a row▸ UNHEALTHY ─`retries` more▸ over
//!     │              ▲                                 │
//!     │              └──────────────good───────────────┘
//!     └─`retries` bad in a row (after the start period)▸ over
//! ```

use std::{collections::VecDeque, time::Duration};

use super::{Check, KEPT, ProbeResult, Tried, one_line};
use crate::{
    model::{Health, TaskId, Timestamp},
    worker::executor::Gate,
};

/// A first probe is put off by at most this share of its interval, so that tasks that start at once
/// are not all probed at once, and no task has to wait long for its first success.
const FIRST_SPREAD: f64 = 0.1;

/// Good probes after which the next one comes early. Together with the first probe's delay they
/// spread tasks over the whole interval. Only good ones: a task that is slow to start must have all
/// its time.
const SHIFTS: u32 = 2;
/// The most that one gap is shortened by.
const SHIFT: f64 = 0.55;

/// What agents before this one knew of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Its health.
    pub health: Health,
    /// Failed tries in a row.
    pub failures: u32,
    /// Whether it counted as running already.
    pub served: bool,
}

/// One task's health.
#[derive(Debug, Clone)]
pub struct Tracker {
    check: Check,
    /// Where in the interval this task has its place: 0 to 1.
    place: f64,
    started: Timestamp,
    health: Health,
    /// Whether it has been healthy at all, also before this agent.
    was_healthy: bool,
    /// Whether this agent knows, and not only the one before.
    confirmed: bool,
    failures: u32,
    shifts: u32,
    next_at: Timestamp,
    results: VecDeque<ProbeResult>,
}

impl Tracker {
    /// The health of a container that was started at `started`. A row of failures goes on where
    /// the agent before left it: agents that die again and again do not keep a sick task open.
    #[must_use]
    pub fn new(check: Check, task: TaskId, started: Timestamp, known: Known, now: Timestamp) -> Self {
        let place = place(task);
        let Known { health, failures, served } = known;
        let was_healthy = served || matches!(health, Health::Healthy | Health::Unhealthy);
        let gap = if check.start_period.is_zero() { check.interval } else { check.start_interval };
        // What was healthy is looked at as soon as may be: nobody has looked while there was no agent.
        let due = if was_healthy { now } else { started.after(gap).max(now) };
        Self {
            place,
            started,
            health: if health == Health::None { Health::Starting } else { health },
            was_healthy,
            confirmed: false,
            failures: if health == Health::Unhealthy { failures.max(check.retries) } else { failures },
            shifts: 0,
            next_at: due.after(gap.mul_f64(FIRST_SPREAD * place)),
            results: VecDeque::new(),
            check,
        }
    }

    /// The check.
    #[must_use]
    pub fn check(&self) -> &Check {
        &self.check
    }

    /// Whether it works.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Failed tries since the last good one.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The last tries, oldest first.
    #[must_use]
    pub fn results(&self) -> &VecDeque<ProbeResult> {
        &self.results
    }

    /// When the next probe is due; `now` may be later.
    #[must_use]
    pub fn next_probe(&self, now: Timestamp) -> Timestamp {
        // A clock that was set back must not end the probing.
        self.next_at.min(now.after(self.check.interval.max(self.check.start_interval).mul_f64(1.5)))
    }

    /// Whether it is to take traffic; `None`: as before. What was open when the agent went stays
    /// open until probes say that it must not be, and what is starting was never opened.
    #[must_use]
    pub fn gate(&self) -> Option<Gate> {
        match self.health {
            Health::Healthy => self.confirmed.then_some(Gate::Open),
            Health::Unhealthy => Some(Gate::Held),
            Health::Starting | Health::None => None,
        }
    }

    /// Why the task is to be ended, if it is: it was never healthy, or has been unhealthy for too
    /// long.
    #[must_use]
    pub fn over(&self) -> Option<String> {
        let limit = self.check.retries.saturating_mul(1 + u32::from(self.was_healthy));
        (self.failures >= limit).then(|| self.complaint()).flatten()
    }

    /// What is wrong with one that is unhealthy, as one line.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        if self.health != Health::Unhealthy {
            return None;
        }
        let output = self.results.back().map(|r| one_line(&r.output)).unwrap_or_default();
        Some(if output.is_empty() { "unhealthy".to_owned() } else { format!("unhealthy: {output}") })
    }

    /// Takes in what came of a try.
    pub fn take(&mut self, tried: Tried, now: Timestamp) {
        let result = match tried {
            Tried::Known(result) => result,
            // Not the container's fault: it says nothing of it.
            Tried::Unknown(_) => {
                self.next_at = now.after(self.gap(now));
                return;
            }
        };
        let good = result.good;
        let counts = self.was_healthy || result.at.since(self.started) >= self.check.start_period;
        self.results.push_back(result);
        if self.results.len() > KEPT {
            self.results.pop_front();
        }
        if good {
            self.failures = 0;
            self.health = Health::Healthy;
            self.was_healthy = true;
            self.confirmed = true;
        } else if counts {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= self.check.retries {
                self.health = Health::Unhealthy;
            }
        }
        let mut gap = self.gap(now);
        if good && self.shifts < SHIFTS {
            self.shifts += 1;
            gap = gap.mul_f64(1.0 - SHIFT * self.place);
        }
        self.next_at = now.after(gap);
    }

    fn gap(&self, now: Timestamp) -> Duration {
        let starting = !self.was_healthy && now.since(self.started) < self.check.start_period;
        if starting { self.check.start_interval } else { self.check.interval }
    }
}

/// A number from 0 to 1 that follows from the identifier alone.
fn place(task: TaskId) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in task.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The last bytes have not reached the upper bits yet.
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 40) as f64 / (1u64 << 24) as f64
}

#[cfg(test)]
#[path = "tracker_test.rs"]
mod tests;
