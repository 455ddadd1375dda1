//! Replaces the tasks of a service whose spec changed, one by one.
//!
//! A task is outdated when its container would be made differently today. An update ends outdated
//! tasks; that a free slot gets a task of the present spec, others see to. There is no record of
//! an update under way: what is left to do is what differs, so that a newer update or a rollback
//! takes over at once, whoever leads.
//!
//! At most one running task is away at a time, and only while every other slot that should run
//! runs: a spec that cannot run takes one task down and stays there.

use std::{collections::BTreeMap, time::Duration};

use super::slots::{Slot, Use};
use crate::model::{RestartPolicy, Service, Task, TaskState, Timestamp};

/// How long a task must have been running before the next one is ended: a program that ends at
/// once has been running, too. One whose like has failed has more to prove:
/// [`RestartPolicy::STABLE_AFTER`].
const SETTLE: Duration = Duration::from_secs(1);

/// What an update does now.
#[derive(Debug, Default)]
pub(super) struct Step<'a> {
    /// Tasks that make room for new ones.
    pub(super) end: Vec<&'a Task>,
    /// When to look again though nothing changed.
    pub(super) wake_at: Option<Timestamp>,
}

/// The next step. `used` are the slots that stay, with what they are up to; `missing` says that
/// there should be more.
pub(super) fn step<'a>(
    service: &Service,
    slots: &BTreeMap<u32, Slot<'a>>,
    used: &[(u32, Use<'a>)],
    missing: bool,
    now: Timestamp,
) -> Step<'a> {
    let mut step = Step::default();
    let is_outdated = |t: &Task| !service.spec.task.same_container(&t.spec);
    let mut next: Option<(u32, &'a Task)> = None;
    let mut all_run = !missing;
    for (number, used) in used {
        match used {
            Use::Live(t) if is_outdated(t) => {
                if t.status.state < TaskState::Running {
                    // Nobody is served by it.
                    step.end.push(t);
                    all_run = false;
                } else if next.is_none_or(|(lowest, _)| *number < lowest) {
                    next = Some((*number, t));
                }
            }
            Use::Live(t) if t.status.state < TaskState::Running => all_run = false,
            Use::Live(t) => {
                let settled = t.status.at.after(proof(service, t, &slots[number]));
                if settled > now {
                    all_run = false;
                    step.wake_at = Some(step.wake_at.map_or(settled, |at| at.min(settled)));
                }
            }
            // What has failed and is left so does not run as it should.
            Use::Done(t) => all_run &= t.status.state == TaskState::Complete,
            Use::Leaving | Use::GivenUp(..) | Use::Free(_) => all_run = false,
        }
    }
    match next {
        None => step.wake_at = None,
        Some((_, task)) if all_run => step.end.push(task),
        Some(_) => {}
    }
    step
}

/// How long `task` must have been running to be believed.
fn proof(service: &Service, task: &Task, slot: &[&Task]) -> Duration {
    let has_failed = |t: &&Task| {
        t.id != task.id
            && t.desired <= TaskState::Running
            && t.status.state.is_final()
            && service.spec.task.same_container(&t.spec)
    };
    if slot.iter().any(has_failed) { RestartPolicy::STABLE_AFTER } else { SETTLE }
}
