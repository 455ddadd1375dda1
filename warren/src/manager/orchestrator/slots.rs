//! A service's tasks by slot.

use std::collections::BTreeMap;

use super::restart::{self, Restart};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A task of it runs or will.
    Live {
        /// Its process runs.
        running: bool,
    },
    /// Its task ended and is not to be replaced: the slot has done its work.
    Done,
    /// Free for a new task.
    Free(Restart),
}

/// What `slot` is up to.
pub(super) fn usage(service: &Service, slot: &[&Task]) -> Use {
    let live = slot.iter().filter(|t| t.is_live());
    match live.map(|t| t.status.state == TaskState::Running).max() {
        Some(running) => Use::Live { running },
        None => match restart::decide(&service.spec.task.restart, slot) {
            Some(restart) => Use::Free(restart),
            None => Use::Done,
        },
    }
}
