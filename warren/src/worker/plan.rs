//! What to do about the tasks of this node: assigned × held × runners → actions. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    executor::ContainerState,
    status_log::Record,
    task::{
        runner::{Lost, Orders},
        step::Found,
    },
};
use crate::model::{Assignment, Task, TaskId, TaskState};

/// What the runtime and the network hold, and what the log remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Containers, whole or half-made.
    pub containers: BTreeMap<TaskId, ContainerState>,
    /// Tasks with a network, whole or half-made.
    pub attached: BTreeSet<TaskId>,
    /// Tasks with a record.
    pub records: BTreeMap<TaskId, Record>,
}

/// Who is at work on a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// Its container ran already before the runtime was asked what it holds, and still does.
    Running,
    /// Something is being done, or waited for.
    Busy,
    /// The task has ended and nothing is left of it but its record.
    Finished,
}

/// What there is to decide from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What the node is to do.
    pub assignment: &'a Assignment,
    /// What it holds; `None` when that is not known (yet).
    pub held: Option<&'a Held>,
    /// Who is at work.
    pub runners: &'a BTreeMap<TaskId, Runner>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell a runner.
    Order(TaskId, Orders),
    /// Start a runner on a task, from what was found of it.
    Take(Box<Task>, Box<Found>),
    /// Remove what is left of a task that is not assigned.
    Sweep(TaskId),
    /// Drop the last memory of a task that is neither assigned nor held.
    Forget(TaskId),
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In no particular order; each is of another task or may be done in any order.
    pub actions: Vec<Action>,
    /// Tasks that nothing can be done for until it is known what is held.
    pub waiting: Vec<TaskId>,
}

/// Decides. There is at most one runner for a task, ever: tasks that have one are only told.
#[must_use]
pub fn plan(view: View<'_>) -> Plan {
    let mut plan = Plan::default();
    let assigned: BTreeMap<TaskId, &Task> = view.assignment.tasks.iter().map(|t| (t.id, t)).collect();

    for (id, task) in &assigned {
        match (view.runners.get(id), view.held) {
            (Some(Runner::Finished), _) => {}
            (Some(runner), held) => {
                let lost = held.filter(|_| *runner == Runner::Running).and_then(|held| {
                    match held.containers.get(id) {
                        Some(ContainerState::Running { .. }) => None,
                        Some(ContainerState::Stopped(exit)) => Some(Lost::Ended(*exit)),
                        Some(ContainerState::Created) | None => Some(Lost::Gone),
                    }
                });
                plan.actions.push(Action::Order(*id, Orders { desired: task.desired, lost }));
            }
            (None, Some(held)) => {
                let found = Found {
                    container: held.containers.get(id).copied(),
                    attached: held.attached.contains(id),
                    record: held.records.get(id).cloned(),
                };
                plan.actions.push(Action::Take(Box::new((*task).clone()), Box::new(found)));
            }
            (None, None) => plan.waiting.push(*id),
        }
    }
    for (id, runner) in view.runners.iter().filter(|(id, _)| !assigned.contains_key(id)) {
        plan.actions.push(match runner {
            Runner::Finished => Action::Forget(*id),
            _ => Action::Order(*id, Orders { desired: TaskState::Remove, lost: None }),
        });
    }
    if let Some(held) = view.held {
        let nobodys = |id: &&TaskId| !assigned.contains_key(*id) && !view.runners.contains_key(*id);
        let left: BTreeSet<TaskId> =
            held.containers.keys().chain(&held.attached).filter(nobodys).copied().collect();
        let forgotten = held.records.keys().filter(nobodys).filter(|id| !left.contains(id));
        plan.actions.extend(forgotten.map(|id| Action::Forget(*id)));
        plan.actions.extend(left.iter().map(|id| Action::Sweep(*id)));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::{a_task, an_assignment};

    fn id(n: u128) -> TaskId {
        TaskId::from_random(n)
    }

    fn order(id: TaskId, desired: TaskState, lost: Option<Lost>) -> Action {
        Action::Order(id, Orders { desired, lost })
    }

    #[test]
    fn new_tasks_are_taken_with_what_was_found_and_known_ones_are_told() {
        let assignment = an_assignment(1, [a_task(1), a_task(2), a_task(3), a_task(4)]);
        let held = Held {
            containers: [(id(2), ContainerState::Running { pid: 7 }), (id(3), ContainerState::Created)]
                .into(),
            attached: [id(2)].into(),
            records: BTreeMap::new(),
        };
        let runners = [(id(3), Runner::Running), (id(4), Runner::Finished)].into();
        let plan = plan(View { assignment: &assignment, held: Some(&held), runners: &runners });
        let found =
            Found { container: Some(ContainerState::Running { pid: 7 }), attached: true, record: None };
        assert_eq!(
            plan.actions,
            [
                Action::Take(Box::new(a_task(1)), Box::default()),
                Action::Take(Box::new(a_task(2)), Box::new(found)),
                order(id(3), TaskState::Running, Some(Lost::Gone)),
            ]
        );
    }

    #[test]
    fn a_runner_hears_of_an_end_that_a_look_shows_but_only_if_it_ran_before_the_look() {
        use crate::worker::executor::Exit;
        let assignment = an_assignment(1, [a_task(1), a_task(2), a_task(3)]);
        let stopped = ContainerState::Stopped(Exit::with(3));
        let held = Held {
            containers: [(id(1), stopped), (id(2), stopped), (id(3), ContainerState::Running { pid: 7 })]
                .into(),
            ..Held::default()
        };
        let runners = [(id(1), Runner::Running), (id(2), Runner::Busy), (id(3), Runner::Running)].into();
        let plan = plan(View { assignment: &assignment, held: Some(&held), runners: &runners });
        let lost = Some(Lost::Ended(Exit::with(3)));
        assert_eq!(
            plan.actions,
            [
                order(id(1), TaskState::Running, lost),
                order(id(2), TaskState::Running, None),
                order(id(3), TaskState::Running, None),
            ]
        );
    }

    #[test]
    fn nothing_is_taken_or_removed_while_it_is_unknown_what_is_held() {
        let assignment = an_assignment(1, [a_task(1), a_task(2)]);
        let runners = [(id(2), Runner::Running), (id(3), Runner::Busy)].into();
        let plan = plan(View { assignment: &assignment, held: None, runners: &runners });
        assert_eq!(plan.waiting, [id(1)]);
        assert_eq!(
            plan.actions,
            [order(id(2), TaskState::Running, None), order(id(3), TaskState::Remove, None)]
        );
    }

    #[test]
    fn what_nobody_knows_is_swept_and_only_then_forgotten() {
        let assignment = an_assignment(1, []);
        let record = Record { status: a_task(1).status, failures: 0, boot: String::new() };
        let held = Held {
            containers: [(id(1), ContainerState::Running { pid: 7 }), (id(4), ContainerState::Created)]
                .into(),
            attached: [id(1), id(2)].into(),
            records: [(id(1), record.clone()), (id(3), record)].into(),
        };
        let runners = [(id(4), Runner::Busy), (id(5), Runner::Finished)].into();
        let plan = plan(View { assignment: &assignment, held: Some(&held), runners: &runners });
        assert_eq!(
            plan.actions,
            [
                order(id(4), TaskState::Remove, None),
                Action::Forget(id(5)),
                Action::Forget(id(3)),
                Action::Sweep(id(1)),
                Action::Sweep(id(2)),
            ]
        );
    }
}
