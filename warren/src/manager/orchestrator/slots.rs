//! A service's tasks by slot.

use std::collections::BTreeMap;

use super::restart::{self, Next, Restart};
use crate::model::{Service, Task, TaskState};

/// The tasks of one slot, oldest first.
pub(super) type Slot<'a> = Vec<&'a Task>;

/// The slots of a service, in the order of their numbers.
pub(super) fn of<'a>(tasks: impl Iterator<Item = &'a Task>) -> BTreeMap<u32, Slot<'a>> {
    let mut slots: BTreeMap<u32, Slot<'a>> = BTreeMap::new();
    for t in tasks {
        slots.entry(t.slot).or_default().push(t);
    }
    for slot in slots.values_mut() {
        // Ids break the tie of two tasks of one millisecond.
        slot.sort_by_key(|t| (t.created_at, t.id));
    }
    slots
}

/// What a slot is up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Use<'a> {
    /// This task of it runs or will.
    Live(&'a Task),
    /// Its task was asked to make room for another one and has not ended yet.
    Leaving,
    /// Its task ended and is not to be replaced: the slot has done its work.
    Done(&'a Task),
    /// Its task ended once too often; why it is not replaced.
    GivenUp(&'a Task, String),
    /// Free for a new task.
    Free(Restart),
}

impl Use<'_> {
    /// Whether its process runs and is to go on.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Live(t) if t.status.state == TaskState::Running)
    }
}

/// What `slot` is up to.
pub(super) fn usage<'a>(service: &Service, slot: &[&'a Task]) -> Use<'a> {
    if let Some(live) = slot.iter().filter(|t| t.is_live()).max_by_key(|t| t.status.state) {
        return Use::Live(live);
    }
    // One that is to vanish has left its slot already: another replica may have it.
    if slot.iter().any(|t| t.desired == TaskState::Shutdown && !t.status.state.is_final()) {
        return Use::Leaving;
    }
    match (restart::decide(&service.spec.task, slot), slot.last()) {
        (Next::Replace(restart), _) => Use::Free(restart),
        (Next::Done, Some(last)) => Use::Done(last),
        (Next::GivenUp(why), Some(last)) => Use::GivenUp(last, why),
        (_, None) => Use::Free(Restart::AT_ONCE),
    }
}
