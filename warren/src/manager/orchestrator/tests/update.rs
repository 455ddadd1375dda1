//! How tasks of another spec are replaced. `spec=7` marks them: the service's own is 0.

use super::*;

#[track_caller]
fn steps(replicas: u32, tasks: &[&str], expected: &[&str]) {
    check(replicas, policy(RestartCondition::Any, 1000), tasks, expected);
}

#[test]
fn one_by_one_and_only_while_the_others_run() {
    let old = ["1 running spec=7", "2 running spec=7", "3 running spec=7"];
    steps(3, &old, &["#0 shutdown"]);
    // It makes room first.
    steps(3, &["1 running spec=7 desired=shutdown", old[1], old[2]], &[]);
    steps(3, &["1 shutdown spec=7 desired=shutdown", old[1], old[2]], &["new 1 in 0"]);
    // Then its successor has to run, and to have run for a second.
    let gone = "1 shutdown spec=7 desired=shutdown";
    for waiting in ["1 new", "1 assigned", "1 starting", "1 running since=999"] {
        steps(3, &[gone, waiting, old[1], old[2]], &[]);
    }
    steps(3, &[gone, "1 running since=1000", old[1], old[2]], &["#2 shutdown"]);
    steps(3, &["1 running", "2 running", "3 running spec=7"], &["#2 shutdown"]);
    steps(3, &["1 running", "2 running", "3 running"], &[]);
}

#[test]
fn a_moment_to_look_again_is_asked_for_when_time_alone_matters() {
    let wake = |tasks: &[&str]| {
        let view = view(&service(2, RestartPolicy::default()), tasks);
        replicated::plan(&view, NOW, &mut Mint::new([1; 32])).wake_at.map(|at| at.since(NOW).as_millis())
    };
    assert_eq!(wake(&["1 running since=300", "2 running spec=7"]), Some(700));
    assert_eq!(wake(&["1 running since=300", "2 running"]), None);
    assert_eq!(wake(&["1 starting", "2 running spec=7"]), None);
    // One whose like has failed has more to prove.
    assert_eq!(wake(&["1 failed", "1 running since=3000", "2 running spec=7"]), Some(7000));
}

#[test]
fn a_spec_that_fails_stays_where_it_is() {
    let gone = "1 shutdown spec=7 desired=shutdown";
    let old = "2 running spec=7";
    steps(2, &[gone, "1 failed ran=50", old], &["new 1 in 1000"]);
    steps(2, &[gone, "1 failed ran=50", "1 starting", old], &[]);
    steps(2, &[gone, "1 failed ran=50", "1 running since=9999", old], &[]);
    steps(2, &[gone, "1 failed ran=50", "1 running since=10000", old], &["#3 shutdown"]);
    // Also when it is not tried again.
    let never = policy(RestartCondition::None, 0);
    check(2, never, &[gone, "1 failed", old], &[]);
    check(2, never, &[gone, "1 rejected", old], &[]);
    check(2, never, &[gone, "1 complete", old], &["#2 shutdown"]);
}

#[test]
fn what_serves_nobody_is_replaced_at_once() {
    // A spec that never ran must not keep the next one away.
    steps(
        3,
        &["1 starting spec=7", "2 failed spec=7 ran=9", "3 pending spec=7"],
        &["new 2 in 0", "#0 shutdown", "#2 gone", "new 3 in 0"],
    );
    // One that waits in back-off neither.
    steps(1, &["1 failed spec=7", "1 assigned spec=7 waited=60000"], &["#1 shutdown"]);
    // Those that run wait for the others all the same.
    steps(2, &["1 starting spec=7", "2 running spec=7"], &["#0 shutdown"]);
    // Slots that were given up, or had done their work, get a task of the new spec.
    let limit = RestartPolicy { max_attempts: 1, ..policy(RestartCondition::Any, 1000) };
    check(1, limit, &["1 failed spec=7 since=0 restarts=9"], &["new 1 in 0"]);
    check(1, policy(RestartCondition::None, 0), &["1 complete spec=7"], &["new 1 in 0"]);
}

#[test]
fn a_newer_update_or_a_rollback_takes_over() {
    // From 7 to 8, then back to 0: what is of 8 does not run and goes, what is of 7 waits its turn.
    steps(3, &["1 starting spec=8", "2 running spec=7", "3 running spec=7"], &["#0 shutdown"]);
    steps(3, &["1 running spec=8", "2 running spec=7", "3 running"], &["#0 shutdown"]);
    // A rollback finds the rest as it should be.
    steps(3, &["1 running spec=7 desired=shutdown", "2 running", "3 running"], &[]);
    steps(3, &["1 failed spec=8 ran=5", "2 running", "3 running"], &["new 1 in 0"]);
}

#[test]
fn scaling_and_updating_go_together() {
    steps(3, &["1 running spec=7", "2 running spec=7"], &["new 3 in 0"]);
    steps(1, &["1 running spec=7", "2 running spec=7"], &["#0 shutdown", "#1 remove"]);
    // A slot that makes room for another task is one; the other is not needed.
    steps(1, &["1 shutdown spec=7 desired=shutdown", "2 running spec=7 desired=shutdown"], &["#0 remove"]);
}

#[test]
fn what_makes_no_other_container_replaces_nothing() {
    let mut s = service(1, RestartPolicy::default());
    let tasks = ["1 running"];
    let replica = Replica::default();
    let running = task(&s, 0, tasks[0]);
    s.spec.labels = [("a".into(), "b".into())].into();
    s.spec.publish = vec!["80:80".parse().unwrap()];
    s.spec_version = 9;
    s.spec.task.restart.max_attempts = 3;
    s.spec.task.pull = PullPolicy::Always;
    s.spec.task.registry_auth = Some(Sealed(vec![1]));
    let put = |change| StoreAction { expected_version: 0, change };
    replica.apply(1, &[put(Change::PutService(s.clone())), put(Change::PutTask(running.clone()))]);
    let plan = replicated::plan(&replica.view(), NOW, &mut Mint::new([1; 32]));
    assert_eq!(plan, Plan::default());
    type Other = fn(&mut TaskSpec);
    let others: [Other; 4] = [
        |t| t.env.push(("A".into(), "1".into())),
        |t| t.image = "other".parse().unwrap(),
        |t| t.resources.memory = Some(1 << 30),
        |t| t.force_update = 1,
    ];
    for change in others {
        let mut other = s.spec.task.clone();
        change(&mut other);
        assert!(!other.same_container(&running.spec));
    }
}
