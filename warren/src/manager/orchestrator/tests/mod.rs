//! Scenarios as tables: replicas and tasks in, what is done about them out.

mod restart;
mod update;

use std::time::Duration;

use super::{reaper, replicated};
use crate::{
    manager::{Mint, Plan},
    model::*,
    store::{Replica, View},
};

const NOW: Timestamp = Timestamp(1_000_000);

fn service(replicas: u32, restart: RestartPolicy) -> Service {
    let mut task = TaskSpec::new("web".parse().unwrap());
    task.restart = restart;
    Service {
        id: ServiceId::from_random(1),
        version: 0,
        spec_version: 1,
        datapath_id: 1,
        spec: ServiceSpec {
            name: "web".into(),
            labels: Default::default(),
            replicas,
            task,
            publish: vec![],
            limits: Default::default(),
        },
        previous: None,
        removing: false,
        created_at: Timestamp(0),
    }
}

/// `SLOT STATE [desired=STATE] [ran=MS] [waited=MS] [since=MS] [spec=N] [restarts=MS,MS]`, oldest
/// first; `since` is how long ago the state was reached, instead of how long it ran; `restarts` are
/// so long before that.
fn task(service: &Service, n: usize, line: &str) -> Task {
    let state = |name: &str| TaskState::ALL.into_iter().find(|s| s.name() == name).expect(name);
    let mut words = line.split(' ');
    let slot = words.next().unwrap().parse().unwrap();
    let reached = state(words.next().unwrap());
    let (mut desired, mut ran, mut waited) = (TaskState::Running, 0, 0);
    let (mut since, mut spec, mut restarts) = (None, service.spec.task.clone(), Vec::new());
    for word in words {
        match word.split_once('=').unwrap() {
            ("desired", d) => desired = state(d),
            ("ran", ms) => ran = ms.parse().unwrap(),
            ("waited", ms) => waited = ms.parse().unwrap(),
            ("since", ms) => since = Some(ms.parse::<u64>().unwrap()),
            ("spec", n) => spec.force_update = n.parse().unwrap(),
            ("restarts", list) => restarts.extend(list.split(',').map(|ms| ms.parse::<u64>().unwrap())),
            other => panic!("{other:?}"),
        }
    }
    let created_at = Timestamp(1000 + n as u64);
    let start_at = created_at.after(Duration::from_millis(waited));
    let at = since.map_or(start_at.after(Duration::from_millis(ran)), |ms| Timestamp(NOW.0 - ms));
    Task {
        id: TaskId::from_random(n as u128 + 1),
        version: 0,
        service: service.id,
        service_name: "web".into(),
        slot,
        spec,
        spec_version: 1,
        node: (reached >= TaskState::Assigned).then(|| NodeId::from_random(1)),
        attachment: None,
        desired,
        status: TaskStatus {
            state: reached,
            at,
            message: String::new(),
            container: None,
            health: Default::default(),
        },
        created_at,
        start_at,
        restarts: restarts.into_iter().map(|ms| Timestamp(at.0 - ms)).collect(),
    }
}

fn view(service: &Service, lines: &[&str]) -> View {
    let replica = Replica::default();
    let mut changes = vec![Change::PutService(service.clone())];
    changes.extend(lines.iter().enumerate().map(|(n, l)| Change::PutTask(task(service, n, l))));
    let actions: Vec<_> =
        changes.into_iter().map(|change| StoreAction { expected_version: 0, change }).collect();
    replica.apply(1, &actions);
    replica.view()
}

/// The plan in words; tasks by their place in the table, from 0.
fn words(view: &View, plan: &Plan) -> Vec<String> {
    let place = |id| (0..100u128).find(|n| TaskId::from_random(n + 1) == id);
    plan.changes
        .iter()
        .map(|c| match c {
            Change::PutTask(t) => match place(t.id) {
                None => {
                    assert_eq!((t.status.state, t.desired), (TaskState::New, TaskState::Running));
                    assert_eq!((t.created_at, t.status.at), (NOW, NOW));
                    format!("new {} in {}", t.slot, t.start_at.since(NOW).as_millis())
                }
                Some(n) => {
                    let expected = Task { desired: t.desired, ..view.task(t.id).unwrap().clone() };
                    assert_eq!(*t, expected, "only what is desired changes");
                    format!("#{n} {}", t.desired)
                }
            },
            Change::RemoveTask(id) => format!("#{} gone", place(*id).unwrap()),
            Change::RemoveService(_) => "service gone".into(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[track_caller]
fn check(replicas: u32, restart: RestartPolicy, tasks: &[&str], expected: &[&str]) {
    let view = view(&service(replicas, restart), tasks);
    let plan = replicated::plan(&view, NOW, &mut Mint::new([1; 32]));
    assert_eq!(words(&view, &plan), expected, "{replicas} replicas, {tasks:?}");
}

fn policy(condition: RestartCondition, delay_ms: u64) -> RestartPolicy {
    RestartPolicy { condition, delay: Duration::from_millis(delay_ms), ..RestartPolicy::default() }
}

#[test]
fn as_many_as_asked_for() {
    let any = RestartPolicy::default();
    check(0, any, &[], &[]);
    check(3, any, &[], &["new 1 in 0", "new 2 in 0", "new 3 in 0"]);
    check(2, any, &["1 new", "2 pending"], &[]);
    check(2, any, &["1 running", "2 assigned"], &[]);
    check(3, any, &["1 running", "3 running"], &["new 2 in 0"]);
    // Those on their way out do not count, and their slot is used again.
    check(2, any, &["1 running", "2 running desired=remove"], &["new 2 in 0"]);
    check(1, any, &["1 running", "2 running desired=remove"], &[]);
}

#[test]
fn scaling_down_prefers_what_does_not_run_then_the_highest() {
    let any = RestartPolicy::default();
    check(1, any, &["1 running", "2 running", "3 running"], &["#1 remove", "#2 remove"]);
    check(2, any, &["1 preparing", "2 running", "3 running"], &["#0 remove"]);
    check(2, any, &["1 running", "2 running", "3 running"], &["#2 remove"]);
    check(1, any, &["1 starting", "2 ready", "3 assigned"], &["#1 remove", "#2 remove"]);
    // What no node knows of is gone at once.
    check(0, any, &["1 new", "2 pending", "3 assigned"], &["#0 gone", "#1 gone", "#2 remove"]);
    // A slot takes its history with it; what is leaving already is left to leave.
    check(
        1,
        any,
        &["1 running", "2 failed", "2 running", "3 running desired=remove"],
        &["#1 remove", "#2 remove"],
    );
    check(1, any, &["1 running", "2 failed ran=100"], &["#1 remove"]);
}

#[test]
fn ended_tasks_are_replaced_as_the_policy_says() {
    use RestartCondition::{Any, None, OnFailure};
    for (condition, state, replaced) in [
        (Any, "complete", true),
        (Any, "failed", true),
        (Any, "rejected", true),
        (Any, "orphaned", true),
        (OnFailure, "complete", false),
        (OnFailure, "failed", true),
        (OnFailure, "rejected", true),
        (OnFailure, "orphaned", true),
        (None, "complete", false),
        (None, "failed", false),
        (None, "rejected", false),
        // Asked to stop by somebody else: that is no end of its own.
        (None, "shutdown", true),
    ] {
        let expected: &[&str] = match (replaced, state) {
            (false, _) => &[],
            (true, "shutdown") => &["new 1 in 0"],
            (true, _) => &["new 1 in 1000"],
        };
        check(1, policy(condition, 1000), &[&format!("1 {state} ran=500")], expected);
    }
    // A slot that has done its work counts, and goes first when there are too many.
    let once = policy(None, 0);
    check(3, once, &["1 complete", "2 running"], &["new 3 in 0"]);
    check(1, once, &["1 complete", "2 running"], &["#0 remove"]);
}

#[test]
fn the_delay_doubles_while_tasks_end_early() {
    let any = policy(RestartCondition::Any, 1000);
    check(1, any, &["1 failed ran=50"], &["new 1 in 1000"]);
    check(1, any, &["1 failed ran=50", "1 failed ran=50 waited=1000"], &["new 1 in 2000"]);
    check(1, any, &["1 failed ran=50", "1 failed ran=9999 waited=16000"], &["new 1 in 32000"]);
    check(1, any, &["1 failed ran=50", "1 complete ran=9999 waited=32000"], &["new 1 in 60000"]);
    check(1, any, &["1 failed ran=50", "1 failed ran=50 waited=60000"], &["new 1 in 60000"]);
    // One that ran long enough was healthy.
    check(1, any, &["1 failed ran=50", "1 failed ran=10000 waited=32000"], &["new 1 in 1000"]);
    // What never ran ended early, however long that took.
    check(1, any, &["1 failed", "1 rejected ran=20000 waited=4000"], &["new 1 in 8000"]);
    // Each slot by itself.
    check(
        2,
        any,
        &["1 failed ran=1", "2 failed ran=1", "2 failed ran=1 waited=4000"],
        &["new 1 in 1000", "new 2 in 8000"],
    );
    // A delay of zero does not become a busy loop.
    let none = policy(RestartCondition::Any, 0);
    check(1, none, &["1 failed ran=1"], &["new 1 in 0"]);
    check(1, none, &["1 failed ran=1", "1 failed ran=1"], &["new 1 in 100"]);
    check(1, none, &["1 failed ran=1", "1 failed ran=1 waited=100"], &["new 1 in 200"]);
}

#[track_caller]
fn reaped(removing: bool, tasks: &[&str], expected: &[&str]) {
    let service = Service { removing, ..service(1, RestartPolicy::default()) };
    let view = view(&service, tasks);
    assert_eq!(words(&view, &reaper::plan(&view)), expected, "{tasks:?}");
}

#[test]
fn history_is_kept_up_to_its_limit_in_each_slot() {
    let ended = "1 failed";
    reaped(false, &[ended; 5], &[]);
    reaped(false, &[ended; 7], &["#1 gone", "#0 gone"]);
    reaped(false, &[ended, ended, ended, ended, ended, "2 failed", "1 running"], &[]);
    reaped(false, &["1 failed desired=remove", "1 running desired=remove", "1 running"], &["#0 gone"]);
}

#[test]
fn a_removed_service_goes_after_its_tasks() {
    reaped(true, &[], &["service gone"]);
    reaped(true, &["1 running", "2 failed", "3 pending"], &["#0 remove", "#1 gone", "#2 gone"]);
    reaped(true, &["1 running desired=remove"], &[]);
    reaped(true, &["1 shutdown desired=remove", "2 new"], &["#0 gone", "#1 gone", "service gone"]);
    let removing = Service { removing: true, ..service(3, RestartPolicy::default()) };
    let view = view(&removing, &["1 failed"]);
    let plan = replicated::plan(&view, NOW, &mut Mint::new([1; 32]));
    assert!(plan.changes.is_empty(), "a service that goes gets no new tasks");
}

#[test]
fn tasks_of_no_service_go_too() {
    let view = {
        let replica = Replica::default();
        let service = service(1, RestartPolicy::default());
        let put =
            |n, line| StoreAction { expected_version: 0, change: Change::PutTask(task(&service, n, line)) };
        replica.apply(1, &[put(0, "1 running"), put(1, "1 failed"), put(2, "1 new")]);
        replica.view()
    };
    assert_eq!(words(&view, &reaper::plan(&view)), ["#0 remove", "#1 gone", "#2 gone"]);
}
