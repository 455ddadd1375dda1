//! How often an ended task is replaced.

use super::*;

/// At most `max` replacements within `window` ms.
fn limited(max: u32, window_ms: u64) -> RestartPolicy {
    RestartPolicy {
        max_attempts: max,
        window: Duration::from_millis(window_ms),
        ..policy(RestartCondition::Any, 1000)
    }
}

/// The task that follows, its carried moments as time before the end of the last one; or what is
/// said of the last one.
#[track_caller]
fn follows(policy: RestartPolicy, tasks: &[&str]) -> String {
    let service = service(1, policy);
    let view = view(&service, tasks);
    let last = task(&service, tasks.len() - 1, tasks[tasks.len() - 1]);
    let plan = replicated::plan(&view, NOW, &mut Mint::new([1; 32]));
    match plan.changes.as_slice() {
        [] => "nothing".into(),
        [Change::PutTask(t)] if t.id == last.id => {
            let same = Task {
                version: last.version,
                status: TaskStatus { message: String::new(), ..t.status.clone() },
                ..t.clone()
            };
            assert_eq!(same, last, "only what is said of it changes");
            t.status.message.clone()
        }
        [Change::PutTask(t)] => {
            let ago: Vec<_> =
                t.restarts.iter().map(|at| last.status.at.since(*at).as_millis().to_string()).collect();
            format!("new after {}", ago.join(","))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_counts_all_of_them() {
    let three = limited(3, 0);
    assert_eq!(follows(three, &["1 failed ran=5"]), "new after 0");
    assert_eq!(follows(three, &["1 failed ran=5 since=0 restarts=900"]), "new after 900,0");
    assert_eq!(follows(three, &["1 failed ran=5 since=0 restarts=900000,900"]), "new after 900000,900,0");
    assert_eq!(follows(three, &["1 failed since=0 restarts=900000,900,8"]), "not restarted: 3 restarts");
    assert_eq!(follows(limited(1, 0), &["1 rejected since=0 restarts=9"]), "not restarted: 1 restart");
    // Without a limit nothing is counted.
    assert_eq!(follows(limited(0, 0), &["1 failed since=0 restarts=9,8,7"]), "new after ");
}

#[test]
fn a_window_counts_what_lies_in_it() {
    let limit = limited(3, 120_000);
    let reason = "not restarted: 3 restarts within 2m0s";
    assert_eq!(follows(limit, &["1 failed since=0 restarts=120000,900,8"]), reason);
    assert_eq!(follows(limit, &["1 failed since=0 restarts=120001,900,8"]), "new after 900,8,0");
    // However long ago the end itself is: given up is given up.
    assert_eq!(follows(limit, &["1 failed since=900000 restarts=90000,900,8"]), reason);
    assert_eq!(
        follows(limited(1, 1500), &["1 failed since=0 restarts=1"]),
        "not restarted: 1 restart within 1.5s"
    );
}

#[test]
fn a_limit_may_be_above_what_is_kept_of_history() {
    let many: Vec<_> = (1..=20).rev().map(|n| (n * 100).to_string()).collect();
    let line = format!("1 failed since=0 restarts={}", many.join(","));
    assert!(follows(limited(21, 0), &[&line]).ends_with("200,100,0"));
    assert_eq!(follows(limited(20, 0), &[&line]), "not restarted: 20 restarts");
}

#[test]
fn what_is_said_is_said_once_and_as_the_limit_is_now() {
    let limit = limited(1, 0);
    let service = service(1, limit);
    let mut last = task(&service, 0, "1 failed since=0 restarts=9");
    last.status.message = "exited with status 3".into();
    let say = |last: &Task, service: &Service| {
        let replica = Replica::default();
        let put = |change| StoreAction { expected_version: 0, change };
        replica.apply(1, &[put(Change::PutService(service.clone())), put(Change::PutTask(last.clone()))]);
        let changes = replicated::plan(&replica.view(), NOW, &mut Mint::new([1; 32])).changes;
        changes.into_iter().map(|c| if let Change::PutTask(t) = c { t } else { panic!() }).collect::<Vec<_>>()
    };
    let said = say(&last, &service).remove(0);
    assert_eq!(said.status.message, "exited with status 3; not restarted: 1 restart");
    assert_eq!(say(&said, &service), []);
    // Another window says another sentence; a higher limit lets it go on.
    let mut other = service.clone();
    other.spec.task.restart.window = Duration::from_secs(5);
    let said = say(&said, &other).remove(0);
    assert_eq!(said.status.message, "exited with status 3; not restarted: 1 restart within 5s");
    other.spec.task.restart.max_attempts = 2;
    let new = say(&said, &other).remove(0);
    assert_eq!(new.restarts.len(), 2);
}

#[test]
fn what_was_asked_to_stop_does_not_count() {
    let limit = limited(1, 0);
    for end in ["1 shutdown since=0 restarts=9", "1 failed desired=shutdown since=0 restarts=9"] {
        assert_eq!(follows(limit, &[end]), "new after ", "{end}");
    }
    // An update begins anew, too: this failed with another spec.
    assert_eq!(follows(limit, &["1 failed spec=7 since=0 restarts=9"]), "new after ");
}
