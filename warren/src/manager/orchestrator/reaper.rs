//! Lets records go: of tasks that are to vanish, of history past its limit, of removed services.

use super::{replicated::end, slots};
use crate::{
    manager::Plan,
    model::{Change, TaskState},
    store::View,
};

/// Ended tasks kept per slot, for `service ps`. Docker's default.
pub(super) const HISTORY: usize = 5;

/// Decides what vanishes. A service that is being removed goes after the last of its tasks has
/// ended: until then its name stays taken and whoever waits for the removal waits.
pub(in crate::manager) fn plan(view: &View) -> Plan {
    let mut plan = Plan::default();
    for service in view.services() {
        let mut left = false;
        for slot in slots::of(view.tasks_of_service(service.id)).values() {
            let mut ended = 0;
            for task in slot.iter().rev() {
                let is_final = task.status.state.is_final();
                ended += usize::from(is_final);
                let remove = service.removing || task.desired == TaskState::Remove;
                if is_final && (remove || ended > HISTORY) {
                    plan.push(Change::RemoveTask(task.id));
                } else if service.removing && task.desired < TaskState::Remove {
                    let change = end(task);
                    left |= !matches!(change, Change::RemoveTask(_));
                    plan.push(change);
                } else {
                    left = true;
                }
            }
        }
        if service.removing && !left {
            plan.push(Change::RemoveService(service.id));
        }
    }
    // A record without its service has nobody to speak for it.
    for task in view.tasks().filter(|t| view.service(t.service).is_none()) {
        if task.status.state.is_final() {
            plan.push(Change::RemoveTask(task.id));
        } else if task.desired < TaskState::Remove {
            plan.push(end(task));
        }
    }
    plan
}
