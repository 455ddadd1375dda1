//! With a health check: open, held and ended as its probes say, across agents.

use super::*;
use crate::{
    model::HealthCheck,
    worker::health::{ProbeResult, Tried},
};

/// A task with a check of one-second intervals that fails at the second failure in a row.
pub(super) fn checked() -> Task {
    let health = HealthCheck {
        probe: Some(Probe::Tcp(80)),
        interval: Some(Duration::from_secs(1)),
        retries: Some(2),
        ..HealthCheck::default()
    };
    let mut task = a_task(1);
    task.spec.health = health;
    task
}

fn a_checked_world() -> World {
    World { checked: true, ..World::default() }
}

pub(super) fn try_of(good: bool, at: Timestamp) -> Tried {
    let output = if good { "fine" } else { "connection\nrefused" };
    let took = Duration::from_millis(1);
    Tried::Known(ProbeResult { at, took, good, code: 0, output: output.into() })
}

/// Lets the next probe come to this when it is due; the actions that follow.
fn probe(m: &mut Machine, world: &mut World, now: &mut Timestamp, good: bool) -> Vec<String> {
    for _ in 0..100 {
        match m.next(*now) {
            Step::Wait { probe: true, .. } => {
                world.probed(good);
                m.probed(try_of(good, *now), *now);
                return kinds(&settle(m, world, now));
            }
            Step::Wait { until: Some(until), .. } => *now = until,
            step => panic!("no probe is due: {step:?}"),
        }
    }
    panic!("no probe is ever due");
}

#[test]
fn a_checked_task_runs_from_its_first_success_on_is_held_while_unhealthy_and_ended_if_it_stays_so() {
    let (mut world, mut now) = (a_checked_world(), Timestamp(1000));
    let mut m = Machine::new(checked(), Found::default(), BOOT, quick(), now);
    let up = settle(&mut m, &mut world, &mut now);
    assert_eq!(kinds(&up), ["Attach", "Prepare", "Record starting", "Start", "Record running", "Check"]);
    assert_eq!((m.status().state, m.status().health), (TaskState::Starting, Health::Starting));
    assert_eq!(m.status().message, "waiting for its health check to succeed");
    assert_eq!(probe(&mut m, &mut world, &mut now, false), ["Record running"]);
    assert_eq!(m.status().state, TaskState::Starting);
    assert_eq!(m.status().message, "waiting for its health check to succeed");
    assert_eq!(probe(&mut m, &mut world, &mut now, true), ["Serve(Open)", "Record running"]);
    assert_eq!((m.status().state, m.status().health), (TaskState::Running, Health::Healthy));
    assert_eq!(m.status().message, "");
    assert_eq!(world.record.as_ref().unwrap().status.health, Health::Healthy);

    assert_eq!(probe(&mut m, &mut world, &mut now, false), ["Record running"]);
    assert!(world.open, "one failure is none");
    assert_eq!(probe(&mut m, &mut world, &mut now, false), ["Serve(Held)", "Record running"]);
    assert_eq!((m.status().state, m.status().health), (TaskState::Running, Health::Unhealthy));
    assert_eq!(m.status().message, "unhealthy: connection refused");
    assert_eq!(probe(&mut m, &mut world, &mut now, true), ["Serve(Open)", "Record running"]);
    assert_eq!((m.status().health, m.status().message.as_str()), (Health::Healthy, ""));

    for actions in [&["Record running"][..], &["Serve(Held)", "Record running"], &["Record running"]] {
        assert_eq!(probe(&mut m, &mut world, &mut now, false), actions);
    }
    let down = probe(&mut m, &mut world, &mut now, false);
    let stop = ["Serve(Held)", "Record why", "Stop", "Kill(9)"];
    assert_eq!(down, [&stop[..], &["Serve(Draining)", "Record failed", "Remove", "Detach"]].concat());
    assert_eq!((m.status().state, m.status().health), (TaskState::Failed, Health::Unhealthy));
    assert_eq!(m.status().message, "unhealthy: connection refused");
    assert_eq!(m.status().container.unwrap().exit_code, Some(137));
}

#[test]
fn a_checked_task_that_never_gets_healthy_fails_without_ever_being_open() {
    let (mut world, mut now) = (a_checked_world(), Timestamp(1000));
    let mut m = Machine::new(checked(), Found::default(), BOOT, quick(), now);
    settle(&mut m, &mut world, &mut now);
    let mut actions = probe(&mut m, &mut world, &mut now, false);
    actions.extend(probe(&mut m, &mut world, &mut now, false));
    assert!(!actions.iter().any(|a| a == "Serve(Open)"), "{actions:?}");
    assert_eq!(
        (m.status().state, m.status().message.as_str()),
        (TaskState::Failed, "unhealthy: connection refused")
    );
    assert!(world.container.is_none() && !world.attached);
}

#[test]
fn asked_to_stop_while_unhealthy_or_starting_it_is_shut_down() {
    for unhealthy in [false, true] {
        let (mut world, mut now) = (a_checked_world(), Timestamp(1000));
        let mut m = Machine::new(checked(), Found::default(), BOOT, quick(), now);
        settle(&mut m, &mut world, &mut now);
        if unhealthy {
            probe(&mut m, &mut world, &mut now, true);
            for _ in 0..3 {
                probe(&mut m, &mut world, &mut now, false);
            }
        }
        world.asked = true;
        m.desire(TaskState::Shutdown, now);
        settle(&mut m, &mut world, &mut now);
        assert_eq!(m.status().state, TaskState::Shutdown);
        assert!(world.container.is_none());
    }
}

#[test]
fn an_agents_restart_changes_nothing_for_a_checked_task_until_probes_do() {
    for (health, open) in [(Health::Healthy, true), (Health::Unhealthy, false), (Health::Starting, false)] {
        let task = checked();
        let running = ContainerState::Running { pid: 7 };
        let told = if health == Health::Starting { TaskState::Starting } else { TaskState::Running };
        let status = TaskStatus {
            state: TaskState::Running,
            at: Timestamp(500),
            message: String::new(),
            container: Some(ContainerStatus { pid: 7, exit_code: None, oom_killed: false }),
            health,
        };
        let failures = if health == Health::Unhealthy { 2 } else { 0 };
        let record = Some(Record { status, failures, boot: BOOT.into() });
        let container = Some(running);
        let mut world =
            World { container, attached: true, open, record, starts: 1, good: open, ..a_checked_world() };
        let mut now = Timestamp(100_000);
        // What the managers last heard may be older than what is on disk.
        let mut m = Machine::new(task, world.found(), BOOT, quick(), now);
        let found = kinds(&settle(&mut m, &mut world, &mut now));
        let held = if health == Health::Unhealthy { &["Check", "Serve(Held)"][..] } else { &["Check"] };
        assert_eq!(found, held, "{health:?}");
        assert_eq!((m.status().state, m.status().health, world.open), (told, health, open));
        let begun = now;
        let after = probe(&mut m, &mut world, &mut now, true);
        assert!(now.since(begun) <= Duration::from_millis(100), "it is probed at once");
        assert_eq!(after[0], "Serve(Open)", "{health:?}");
        assert_eq!((m.status().state, m.status().health), (TaskState::Running, Health::Healthy));
    }
}

/// Another agent takes the task up, with what the managers have heard.
fn another(m: &Machine, world: &World, now: Timestamp) -> Machine {
    let task = Task { status: m.status().clone(), ..m.task().clone() };
    Machine::new(task, world.found(), BOOT, quick(), now)
}

#[test]
fn a_row_of_failures_goes_on_from_agent_to_agent() {
    let (mut world, mut now) = (a_checked_world(), Timestamp(1000));
    let mut m = Machine::new(checked(), Found::default(), BOOT, quick(), now);
    settle(&mut m, &mut world, &mut now);
    probe(&mut m, &mut world, &mut now, true);
    let mut fail = |m: &mut Machine| {
        *m = another(m, &world, now);
        settle(m, &mut world, &mut now);
        probe(m, &mut world, &mut now, false);
        (m.status().state, m.status().health, world.open)
    };
    assert_eq!(fail(&mut m), (TaskState::Running, Health::Healthy, true));
    assert_eq!(fail(&mut m), (TaskState::Running, Health::Unhealthy, false));
    assert_eq!(fail(&mut m), (TaskState::Running, Health::Unhealthy, false));
    assert_eq!(fail(&mut m), (TaskState::Failed, Health::Unhealthy, false));

    // A success ends it, whoever saw it.
    let (mut world, mut now) = (a_checked_world(), Timestamp(1000));
    let mut m = Machine::new(checked(), Found::default(), BOOT, quick(), now);
    settle(&mut m, &mut world, &mut now);
    for good in [true, false, true, false] {
        probe(&mut m, &mut world, &mut now, good);
        m = another(&m, &world, now);
        settle(&mut m, &mut world, &mut now);
    }
    assert_eq!((m.status().health, world.open), (Health::Healthy, true));
}

#[test]
fn an_agent_that_dies_while_it_ends_a_task_leaves_the_reason() {
    for was_healthy in [true, false] {
        for dies_after in 0.. {
            let (mut world, mut now) = (a_checked_world(), Timestamp(1000));
            let mut m = Machine::new(checked(), Found::default(), BOOT, quick(), now);
            settle(&mut m, &mut world, &mut now);
            let before: &[bool] = if was_healthy { &[true, false, false, false] } else { &[false] };
            for good in before {
                probe(&mut m, &mut world, &mut now, *good);
            }
            now = next_probe(&m, now).unwrap();
            world.probed(false);
            m.probed(try_of(false, now), now);
            let mut done = 0;
            while done < dies_after
                && let Step::Do(action) = m.next(now)
            {
                m.done(world.perform(&action), now);
                done += 1;
            }
            // The signal ends it, and nobody is there to see it.
            let signalled = dies_after > 2;
            if signalled {
                world.exit(143);
            }
            m = another(&m, &world, now);
            settle(&mut m, &mut world, &mut now);
            let what = format!("{was_healthy} {dies_after}");
            // Before the reason is on disk it is tried once more.
            assert_eq!(m.status().state.is_final(), dies_after > 1, "{what}");
            if !m.status().state.is_final() {
                probe(&mut m, &mut world, &mut now, false);
            }
            let end = m.status();
            assert_eq!((end.state, end.health), (TaskState::Failed, Health::Unhealthy), "{what}");
            assert_eq!(end.message, "unhealthy: connection refused", "{what}");
            if done < dies_after {
                break;
            }
        }
    }
}

#[test]
fn a_reason_that_cannot_be_recorded_holds_up_nothing() {
    let (mut world, mut now) = (a_checked_world(), Timestamp(1000));
    let mut m = Machine::new(checked(), Found::default(), BOOT, quick(), now);
    settle(&mut m, &mut world, &mut now);
    probe(&mut m, &mut world, &mut now, false);
    now = next_probe(&m, now).unwrap();
    m.probed(try_of(false, now), now);
    m.done(world.perform(&Action::Serve(Gate::Held)), now);
    let mut tries = 0;
    loop {
        match m.next(now) {
            Step::Do(Action::Record { .. }) => {
                m.done(Outcome::Failed(Trouble::Temporary("no space left on device".into())), now);
                tries += 1;
            }
            Step::Wait { until: Some(until), .. } => now = until,
            step => break assert_eq!(step, Step::Do(Action::Stop)),
        }
    }
    assert_eq!(tries, CLOSE_TRIES);
}
