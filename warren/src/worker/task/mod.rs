//! One task on this node: its life as a pure state machine, and the thin shell that drives it.

pub mod machine;
pub mod runner;
pub mod step;

use std::time::Duration;

/// How long the worker waits for things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Before the first retry of what failed; doubles with each.
    pub retry_min: Duration,
    /// No retry waits longer than this.
    pub retry_max: Duration,
    /// How long a process may take to die of SIGKILL before it is removed without its exit status.
    pub kill_wait: Duration,
    /// An end is told to the managers when nothing is left of the task, or after this long.
    pub removal_patience: Duration,
    /// Between full passes when nothing happens.
    pub full_pass: Duration,
    /// An answer of the runtime or the network to "what do you hold" takes no longer than this.
    pub list_timeout: Duration,
    /// Before the first new try to reach a manager; doubles with each that fails.
    pub reconnect_min: Duration,
    /// No new try to reach a manager waits longer than this.
    pub reconnect_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(15),
            kill_wait: Duration::from_secs(10),
            removal_patience: Duration::from_secs(10),
            full_pass: Duration::from_secs(30),
            list_timeout: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
        }
    }
}

impl Timing {
    /// The delay after the `tries`-th failure in a row, from 1.
    #[must_use]
    pub fn back_off(&self, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(1).min(16);
        self.retry_min.saturating_mul(1 << doublings).min(self.retry_max)
    }
}
