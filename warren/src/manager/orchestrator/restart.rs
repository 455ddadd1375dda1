//! When an ended task is replaced.

use std::time::Duration;

use crate::model::{RestartCondition, RestartPolicy, Task, TaskSpec, TaskState, Timestamp};

/// The least that a delay of zero grows to when tasks keep ending early: a container that cannot
/// live must not keep a node busy.
const FLOOR: Duration = Duration::from_millis(100);

/// What stands before the reason in the message of a task whose slot was given up.
const NOT_RESTARTED: &str = "not restarted: ";

/// The slot gets a new task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Restart {
    /// How long it waits before it starts.
    pub(super) delay: Duration,
    /// [`Task::restarts`] of the new one.
    pub(super) restarts: Vec<Timestamp>,
}

impl Restart {
    /// A task that follows none, or one that did not end by itself.
    pub(super) const AT_ONCE: Self = Self { delay: Duration::ZERO, restarts: Vec::new() };
}

/// What becomes of a slot without a live task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// It gets a new one.
    Replace(Restart),
    /// Its work is done: the policy wants no more.
    Done,
    /// It failed too often; why, in words.
    GivenUp(String),
}

/// Decides about a slot without a live task. `slot` is its tasks, oldest first.
///
/// Stateless: the delay the last task was given is what lies between its making and its start, and
/// it carries the moments of the replacements before it; so the next one follows from the record
/// alone, whoever leads, and however little history is kept.
pub(super) fn decide(spec: &TaskSpec, slot: &[&Task]) -> Next {
    let at_once = Next::Replace(Restart::AT_ONCE);
    let policy = &spec.restart;
    let Some((last, earlier)) = slot.split_last() else { return at_once };
    // It was asked to stop: whoever asked wants a new one now. And what another spec came to says
    // nothing about this one.
    let was_stopped = last.desired > TaskState::Running || last.status.state == TaskState::Shutdown;
    if was_stopped || !spec.same_container(&last.spec) {
        return at_once;
    }
    let replace = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => last.status.state != TaskState::Complete,
        RestartCondition::Any => true,
    };
    if !replace {
        return Next::Done;
    }
    let counted = counted(policy, last);
    if policy.max_attempts != 0 && counted.len() >= policy.max_attempts as usize {
        return Next::GivenUp(limit_reached(policy, counted.len()));
    }
    let ran = last.status.at.since(last.start_at.max(last.created_at));
    let early = last.status.state == TaskState::Rejected || ran < RestartPolicy::STABLE_AFTER;
    let waited = last.start_at.since(last.created_at);
    let delay = if early && (!waited.is_zero() || !earlier.is_empty()) {
        (waited * 2).max(policy.delay).max(FLOOR)
    } else {
        policy.delay
    };
    let restarts = match policy.max_attempts {
        0 => Vec::new(),
        _ => counted.into_iter().chain([last.status.at]).collect(),
    };
    Next::Replace(Restart { delay: delay.min(RestartPolicy::MAX_DELAY), restarts })
}

/// The replacements before `last` that count against the limit, as of its end: a slot that was
/// given up stays given up, however much time goes by.
fn counted(policy: &RestartPolicy, last: &Task) -> Vec<Timestamp> {
    let end = last.status.at;
    let within = |at: &&Timestamp| policy.window.is_zero() || end.since(**at) <= policy.window;
    last.restarts.iter().filter(within).copied().collect()
}

fn limit_reached(policy: &RestartPolicy, restarts: usize) -> String {
    let s = if restarts == 1 { "" } else { "s" };
    if policy.window.is_zero() {
        format!("{restarts} restart{s}")
    } else {
        // As the flag is written: 2m0s.
        let (minutes, seconds) = (policy.window.as_secs() / 60, policy.window.as_secs() % 60);
        let window = match (policy.window.subsec_millis(), minutes) {
            (0, 0) => format!("{seconds}s"),
            (0, _) => format!("{minutes}m{seconds}s"),
            _ => format!("{:?}", policy.window),
        };
        format!("{restarts} restart{s} within {window}")
    }
}

/// The message of a task whose slot is given up for `reason`: that of its end, and this.
pub(super) fn given_up_message(message: &str, reason: &str) -> String {
    // The limit may have changed since it was first said.
    let end = message.split(NOT_RESTARTED).next().unwrap_or_default().trim_end_matches("; ");
    match end {
        "" => format!("{NOT_RESTARTED}{reason}"),
        end => format!("{end}; {NOT_RESTARTED}{reason}"),
    }
}
