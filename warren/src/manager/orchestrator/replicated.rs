//! Replicated services: as many tasks as `replicas` says.

use std::{cmp::Reverse, time::Duration};

use super::{
    restart::Restart,
    slots::{self, Use},
};
use crate::{
    manager::{Mint, Plan},
    model::{Change, Service, Task, TaskState, TaskStatus, Timestamp},
    store::View,
};

/// Makes what is missing and ends what is too much, for every service that stays. A service has
/// at most one live task per slot and at most `replicas` of them.
///
/// Scaling down prefers slots that do not run, then the highest; the tasks of a slot that goes are
/// removed, records and all. A task that no node knows of yet is removed at once.
pub(in crate::manager) fn plan(view: &View, now: Timestamp, mint: &mut Mint) -> Plan {
    let mut plan = Plan::default();
    for service in view.services().filter(|s| !s.removing) {
        one(view, service, now, mint, &mut plan);
    }
    plan
}

fn one(view: &View, service: &Service, now: Timestamp, mint: &mut Mint, plan: &mut Plan) {
    let slots = slots::of(view.tasks_of_service(service.id));
    let replicas = service.spec.replicas as usize;
    let mut taken: Vec<(u32, Use)> = Vec::new();
    let mut free: Vec<(u32, Restart)> = Vec::new();
    for (number, tasks) in &slots {
        match slots::usage(service, tasks) {
            Use::Free(restart) => free.push((*number, restart)),
            used => taken.push((*number, used)),
        }
    }

    // What stays comes first: running ones, then low numbers.
    taken.sort_by_key(|(number, used)| (Reverse(matches!(used, Use::Live { running: true })), *number));
    let surplus = taken.split_off(replicas.min(taken.len()));

    // Slots that were used before first: they know how long their next task has to wait.
    let missing = replicas - taken.len();
    let unwanted = free.split_off(missing.min(free.len()));
    let fresh = (1u32..).filter(|n| !slots.contains_key(n)).map(|n| (n, Restart { delay: Duration::ZERO }));
    let fresh = fresh.take(missing - free.len());
    for (number, restart) in free.into_iter().chain(fresh) {
        let start_at = now.after(restart.delay);
        plan.push(Change::PutTask(new_task(service, number, now, start_at, mint)));
    }

    // A slot that goes takes its history with it.
    let gone = surplus.iter().map(|(n, _)| n).chain(unwanted.iter().map(|(n, _)| n));
    for task in gone.flat_map(|n| &slots[n]).filter(|t| t.desired < TaskState::Remove) {
        plan.push(end(task));
    }
}

/// Wants the task and its record gone.
pub(super) fn end(task: &Task) -> Change {
    if task.status.state < TaskState::Assigned {
        return Change::RemoveTask(task.id);
    }
    Change::PutTask(Task { desired: TaskState::Remove, ..task.clone() })
}

fn new_task(service: &Service, slot: u32, now: Timestamp, start_at: Timestamp, mint: &mut Mint) -> Task {
    Task {
        id: mint.task(),
        version: 0,
        service: service.id,
        service_name: service.spec.name.clone(),
        slot,
        spec: service.spec.task.clone(),
        spec_version: service.spec_version,
        node: None,
        attachment: None,
        desired: TaskState::Running,
        status: TaskStatus {
            state: TaskState::New,
            at: now,
            message: String::new(),
            container: None,
            health: Default::default(),
        },
        created_at: now,
        start_at,
    }
}
