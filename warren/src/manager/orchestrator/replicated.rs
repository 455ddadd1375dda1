//! Replicated services: as many tasks as `replicas` says.

use std::cmp::Reverse;

use super::{
    restart::{self, Restart},
    slots::{self, Use},
    update,
};
use crate::{
    manager::{Mint, Plan},
    model::{Change, Service, Task, TaskState, TaskStatus, Timestamp},
    store::View,
};

/// Makes what is missing, ends what is too much and replaces what is outdated, for every service
/// that stays. A service has at most one live task per slot and at most `replicas` of them.
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
    let mut taken: Vec<(u32, Use<'_>)> = Vec::new();
    let mut free: Vec<(u32, Restart)> = Vec::new();
    for (number, tasks) in &slots {
        match slots::usage(service, tasks) {
            Use::Free(restart) => free.push((*number, restart)),
            used => taken.push((*number, used)),
        }
    }

    // What stays comes first: running ones, then low numbers.
    taken.sort_by_key(|(number, used)| (Reverse(used.is_running()), *number));
    let surplus = taken.split_off(replicas.min(taken.len()));

    // Slots that were used before first: they know how long their next task has to wait.
    let missing = replicas - taken.len();
    let unwanted = free.split_off(missing.min(free.len()));
    let fresh = (1u32..).filter(|n| !slots.contains_key(n)).map(|n| (n, Restart::AT_ONCE));
    let fresh = fresh.take(missing - free.len());
    for (number, restart) in free.into_iter().chain(fresh) {
        plan.push(Change::PutTask(new_task(service, number, now, restart, mint)));
    }

    let step = update::step(service, &slots, &taken, missing > 0, now);
    for task in step.end {
        if task.status.state >= TaskState::Assigned {
            // Its record stays, as history.
            plan.push(Change::PutTask(Task { desired: TaskState::Shutdown, ..task.clone() }));
            continue;
        }
        plan.push(Change::RemoveTask(task.id));
        let rest: Vec<_> = slots[&task.slot].iter().copied().filter(|t| t.id != task.id).collect();
        if let Use::Free(restart) = slots::usage(service, &rest) {
            plan.push(Change::PutTask(new_task(service, task.slot, now, restart, mint)));
        }
    }
    if let Some(at) = step.wake_at {
        plan.wake(at);
    }

    for (_, used) in &taken {
        if let Use::GivenUp(task, reason) = used {
            let message = restart::given_up_message(&task.status.message, reason);
            if message != task.status.message {
                let status = TaskStatus { message, ..task.status.clone() };
                plan.push(Change::PutTask(Task { status, ..(*task).clone() }));
            }
        }
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

fn new_task(service: &Service, slot: u32, now: Timestamp, restart: Restart, mint: &mut Mint) -> Task {
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
        start_at: now.after(restart.delay),
        restarts: restart.restarts,
    }
}
