//! When an ended task is replaced.

use std::time::Duration;

use crate::model::{RestartCondition, RestartPolicy, Task, TaskState};

/// The least that a delay of zero grows to when tasks keep ending early: a container that cannot
/// live must not keep a node busy.
const FLOOR: Duration = Duration::from_millis(100);

/// The slot gets a new task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Restart {
    /// How long it waits before it starts.
    pub(super) delay: Duration,
}

/// Whether a slot without a live task gets a new one, and how soon. `slot` is its tasks, oldest
/// first; `None` when the last one's end is the end.
///
/// Stateless: the delay the last task was given is what lies between its making and its start, so
/// the next one follows from the record alone, whoever leads.
pub(super) fn decide(policy: &RestartPolicy, slot: &[&Task]) -> Option<Restart> {
    let at_once = Some(Restart { delay: Duration::ZERO });
    let Some((last, earlier)) = slot.split_last() else { return at_once };
    // It was asked to stop: whoever asked wants a new one now.
    if last.desired > TaskState::Running || last.status.state == TaskState::Shutdown {
        return at_once;
    }
    let replace = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => last.status.state != TaskState::Complete,
        RestartCondition::Any => true,
    };
    if !replace {
        return None;
    }
    let ran = last.status.at.since(last.start_at.max(last.created_at));
    let early = last.status.state == TaskState::Rejected || ran < RestartPolicy::STABLE_AFTER;
    let waited = last.start_at.since(last.created_at);
    let delay = if early && (!waited.is_zero() || !earlier.is_empty()) {
        (waited * 2).max(policy.delay).max(FLOOR)
    } else {
        policy.delay
    };
    Some(Restart { delay: delay.min(RestartPolicy::MAX_DELAY) })
}
