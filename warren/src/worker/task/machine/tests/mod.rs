//! The machine against a small model of the world. Here: step by step. `health`: with a health
//! check. `random`: whatever happens.

mod health;
mod random;

use std::time::Duration;

use super::*;
use crate::worker::{
    executor::Exit,
    testing::{a_task, quick},
};

const BOOT: &str = "this boot";

fn ns() -> NetworkNamespace {
    NetworkNamespace { path: "/netns".into() }
}

fn fresh() -> Machine {
    Machine::new(a_task(1), Found::default(), BOOT, quick(), Timestamp(1000))
}

/// What a machine acts on: one container, one network, one record.
#[derive(Debug, Clone, Default)]
struct World {
    container: Option<ContainerState>,
    attached: bool,
    open: bool,
    record: Option<Record>,
    starts: u32,
    /// Whether the task has a health check.
    checked: bool,
    /// Whether a probe was good, and how many were not since.
    good: bool,
    bad: u32,
    /// Whether it was asked to stop.
    asked: bool,
    /// Whether the disk has refused something.
    refused: bool,
}

impl World {
    fn found(&self) -> Found {
        Found { container: self.container, attached: self.attached, record: self.record.clone() }
    }

    fn perform(&mut self, action: &Action) -> Outcome {
        match action {
            Action::Attach => {
                self.attached = true;
                return Outcome::Attached(ns());
            }
            Action::Prepare(_) => {
                assert!(self.attached);
                assert!(self.starts == 0, "made again after it ran");
                self.container.get_or_insert(ContainerState::Created);
            }
            Action::Start => match self.container {
                Some(ContainerState::Created) => {
                    assert!(
                        self.record.as_ref().is_some_and(|r| r.status.state == TaskState::Starting),
                        "started without a record of it"
                    );
                    self.starts += 1;
                    self.container = Some(ContainerState::Running { pid: 7 });
                    return Outcome::Started(7);
                }
                Some(ContainerState::Running { pid }) => return Outcome::Started(pid),
                _ => return Outcome::Failed(Trouble::Fatal("it has ended or is gone".into())),
            },
            Action::Look => return Outcome::Seen(self.container),
            Action::Check => return Outcome::Check(None), // the task's own is all there is
            Action::Serve(gate) => {
                let open = *gate == Gate::Open;
                assert!(self.attached, "opened or closed without a network");
                assert!(!open || self.starts > 0, "opened before the start");
                assert!(!open || !self.checked || (self.good && self.bad < 2), "opened although unhealthy");
                self.open = open;
            }
            Action::Stop => {
                assert!(!self.open, "asked to end while open");
                let why = self.record.as_ref().is_some_and(|r| !r.status.message.is_empty());
                assert!(!self.checked || self.asked || self.refused || why, "ended without a reason on disk");
            }
            Action::Kill(signal) => {
                assert!(!self.open || *signal == KILL, "signalled while open");
                if matches!(self.container, Some(ContainerState::Running { .. })) && *signal == KILL {
                    self.exit(137);
                }
            }
            Action::Record { status, failures } => {
                self.record = Some(Record { status: status.clone(), failures: *failures, boot: BOOT.into() });
            }
            Action::Remove => {
                let ended = self.record.as_ref().is_some_and(|r| r.status.state.is_final());
                assert!(ended, "removed before its end was recorded");
                self.container = None;
            }
            Action::Detach => {
                assert!(self.container.is_none(), "lost its network before its container");
                self.attached = false;
                self.open = false;
            }
        }
        Outcome::Done
    }

    fn probed(&mut self, good: bool) {
        self.good |= good;
        self.bad = if good { 0 } else { self.bad + 1 };
    }

    fn exit(&mut self, code: i32) {
        if matches!(self.container, Some(ContainerState::Running { .. })) {
            self.container = Some(ContainerState::Stopped(Exit::with(code)));
        }
    }
}

/// Runs to the end, or to where only the outside can make a difference. Returns the actions.
fn settle(m: &mut Machine, world: &mut World, now: &mut Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    for _ in 0..1000 {
        match m.next(*now) {
            Step::Do(action) => {
                let outcome = world.perform(&action);
                actions.push(action);
                m.done(outcome, *now);
            }
            Step::Wait { exit: true, .. } if matches!(world.container, Some(ContainerState::Stopped(_))) => {
                let Some(ContainerState::Stopped(exit)) = world.container else { unreachable!() };
                m.exited(exit, *now);
            }
            Step::Wait { probe: true, .. } => return actions,
            Step::Wait { until: Some(at), .. } if next_probe(m, *now) == Some(at) => return actions,
            Step::Wait { until: Some(at), .. } => *now = at.max(now.after(Duration::from_millis(1))),
            Step::Wait { until: None, .. } | Step::End => return actions,
        }
    }
    panic!("it never settles: {m:?}");
}

fn next_probe(m: &Machine, now: Timestamp) -> Option<Timestamp> {
    m.tracker().filter(|_| m.is_running()).map(|t| t.next_probe(now))
}

fn kinds(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|a| match a {
            Action::Record { status, .. }
                if status.state == TaskState::Running && !status.message.is_empty() =>
            {
                "Record why".into()
            }
            Action::Record { status, .. } => format!("Record {}", status.state),
            Action::Prepare(_) => "Prepare".into(),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_whole_life_in_order() {
    let (mut m, mut world, mut now) = (fresh(), World::default(), Timestamp(1000));
    assert_eq!(m.status().state, TaskState::Accepted);
    let up = settle(&mut m, &mut world, &mut now);
    assert_eq!(
        kinds(&up),
        ["Attach", "Prepare", "Record starting", "Start", "Record running", "Check", "Serve(Open)"]
    );
    assert_eq!(m.status().state, TaskState::Running);
    assert_eq!(m.status().container, Some(ContainerStatus { pid: 7, exit_code: None, oom_killed: false }));

    m.desire(TaskState::Shutdown, now);
    let down = settle(&mut m, &mut world, &mut now);
    assert_eq!(
        kinds(&down),
        ["Serve(Draining)", "Stop", "Kill(9)", "Serve(Draining)", "Record shutdown", "Remove", "Detach"]
    );
    assert_eq!(m.status().state, TaskState::Shutdown);
    assert_eq!(m.status().message, "killed after its stop grace of 20ms");
    assert_eq!(
        m.status().container,
        Some(ContainerStatus { pid: 7, exit_code: Some(137), oom_killed: false })
    );
}

#[test]
fn the_end_is_told_only_when_nothing_is_left_or_patience_is_over() {
    let (mut m, mut world, mut now) = (fresh(), World::default(), Timestamp(1000));
    settle(&mut m, &mut world, &mut now);
    world.exit(3);
    let began = now;
    m.exited(Exit::with(3), now);
    while !m.status().state.is_final() {
        match m.next(now) {
            Step::Do(Action::Remove) => {
                m.done(Outcome::Failed(Trouble::Temporary("containerd is away".into())), now);
                if m.status().state.is_final() {
                    break;
                }
                let message = &m.status().message;
                assert!(message.starts_with("exited with status 3, but cannot be cleared up: "), "{message}");
            }
            Step::Do(action) => {
                let outcome = world.perform(&action);
                m.done(outcome, now);
            }
            Step::Wait { until, .. } => now = until.unwrap(),
            Step::End => panic!("ended without removing"),
        }
    }
    assert!(now >= began.after(quick().removal_patience));
    assert_eq!(m.status().message, "exited with status 3");
    settle(&mut m, &mut world, &mut now);
    assert!(world.container.is_none() && !world.attached, "it goes on removing");
    assert_eq!(m.status().message, "exited with status 3");
}

#[test]
fn ends_are_named() {
    for (code, state, message) in [
        (0, TaskState::Complete, ""),
        (3, TaskState::Failed, "exited with status 3"),
        (137, TaskState::Failed, "killed by signal 9 (SIGKILL)"),
        (139, TaskState::Failed, "killed by signal 11 (SIGSEGV)"),
        (162, TaskState::Failed, "killed by signal 34"),
        (255, TaskState::Failed, "exited with status 255"),
    ] {
        let (mut m, mut world, mut now) = (fresh(), World::default(), Timestamp(1000));
        settle(&mut m, &mut world, &mut now);
        world.exit(code);
        settle(&mut m, &mut world, &mut now);
        assert_eq!((m.status().state, m.status().message.as_str()), (state, message));
        assert_eq!(m.status().container.unwrap().exit_code, Some(code));
    }
}

#[test]
fn an_end_that_nobody_saw_is_not_called_a_signal() {
    let (mut m, mut world, mut now) = (fresh(), World::default(), Timestamp(1000));
    settle(&mut m, &mut world, &mut now);
    world.container = Some(ContainerState::Stopped(Exit::UNSEEN));
    settle(&mut m, &mut world, &mut now);
    assert_eq!((m.status().state, m.status().message.as_str()), (TaskState::Failed, "container is gone"));
    assert_eq!(m.status().container, Some(ContainerStatus { pid: 7, exit_code: None, oom_killed: false }));
}

#[test]
fn what_can_never_be_made_is_rejected_and_cleared_up() {
    let (mut m, mut world, mut now) = (fresh(), World::default(), Timestamp(1000));
    assert_eq!(m.next(now), Step::Do(Action::Attach));
    m.done(world.perform(&Action::Attach), now);
    assert_eq!(m.next(now), Step::Do(Action::Prepare(ns())));
    m.done(Outcome::Failed(Trouble::Fatal("image x is not on this node".into())), now);
    assert_eq!(kinds(&settle(&mut m, &mut world, &mut now)), ["Record rejected", "Remove", "Detach"]);
    assert_eq!(m.status().state, TaskState::Rejected);
    assert_eq!(m.status().message, "image x is not on this node");
    assert!(!world.attached);
}

#[test]
fn nothing_is_rejected_before_its_restart_delay_is_over() {
    let task = Task { start_at: Timestamp(5000), ..a_task(1) };
    let absent = || Outcome::Failed(Trouble::Fatal("image x is not on this node".into()));
    for comes_meanwhile in [false, true] {
        let (mut world, mut now) = (World::default(), Timestamp(1000));
        let mut m = Machine::new(task.clone(), Found::default(), BOOT, quick(), now);
        assert_eq!(m.next(now), Step::Do(Action::Attach));
        m.done(world.perform(&Action::Attach), now);
        assert_eq!(m.next(now), Step::Do(Action::Prepare(ns())));
        m.done(absent(), now);
        assert_eq!(m.status().state, TaskState::Preparing);
        let message = "image x is not on this node; trying again when its restart delay is over";
        assert_eq!(m.status().message, message);
        assert_eq!(m.next(now), Step::Wait { until: Some(task.start_at), exit: false, probe: false });
        now = task.start_at;
        assert_eq!(m.next(now), Step::Do(Action::Prepare(ns())));
        let (outcome, end, message) = match comes_meanwhile {
            true => (world.perform(&Action::Prepare(ns())), TaskState::Running, ""),
            false => (absent(), TaskState::Rejected, "image x is not on this node"),
        };
        m.done(outcome, now);
        settle(&mut m, &mut world, &mut now);
        assert_eq!((m.status().state, m.status().message.as_str()), (end, message));
    }
}

#[test]
fn a_retry_says_why_and_waits_longer_each_time() {
    let (mut m, mut now) = (fresh(), Timestamp(1000));
    for delay in [2, 4, 8, 16, 20, 20] {
        assert_eq!(m.next(now), Step::Do(Action::Attach));
        m.done(Outcome::Failed(Trouble::Temporary("no room".into())), now);
        assert_eq!(m.status().state, TaskState::Preparing);
        assert_eq!(m.status().message, format!("no room; trying again in {delay}ms"));
        let until = now.after(Duration::from_millis(delay));
        assert_eq!(m.next(now), Step::Wait { until: Some(until), exit: false, probe: false });
        now = until;
    }
    m.done(Outcome::Attached(ns()), now);
    assert_eq!(m.status().message, "");
}

#[test]
fn start_at_is_waited_for_but_a_fast_clock_of_the_managers_is_not() {
    for (start_at, until) in [(1500, 1500), (10_000_000, 61_000)] {
        let task = Task { start_at: Timestamp(start_at), ..a_task(1) };
        let mut m = Machine::new(task, Found::default(), BOOT, quick(), Timestamp(1000));
        m.next(Timestamp(1000));
        m.done(Outcome::Attached(ns()), Timestamp(1000));
        m.next(Timestamp(1000));
        m.done(Outcome::Done, Timestamp(1000));
        assert_eq!(m.status().state, TaskState::Ready);
        let until = Timestamp(until);
        assert_eq!(m.next(Timestamp(1000)), Step::Wait { until: Some(until), exit: false, probe: false });
        assert!(matches!(m.next(until), Step::Do(Action::Record { .. })));
    }
}

#[test]
fn a_start_that_failed_may_have_started() {
    let away = || Trouble::Temporary("containerd is away".into());
    let never = || Trouble::Fatal("cannot start".into());
    let (running, stopped) = (ContainerState::Running { pid: 7 }, ContainerState::Stopped(Exit::with(3)));
    for (trouble, seen, state, message) in [
        (away(), ContainerState::Created, TaskState::Running, ""),
        (away(), running, TaskState::Running, ""),
        (away(), stopped, TaskState::Failed, "exited with status 3"),
        (never(), ContainerState::Created, TaskState::Rejected, "cannot start"),
        (never(), running, TaskState::Running, ""),
        (never(), stopped, TaskState::Rejected, "cannot start"),
    ] {
        let (mut m, mut world, mut now) = (fresh(), World::default(), Timestamp(1000));
        loop {
            match m.next(now) {
                Step::Do(Action::Start) => break,
                Step::Do(action) => m.done(world.perform(&action), now),
                step => panic!("{step:?}"),
            }
        }
        world.container = Some(seen);
        world.starts = u32::from(seen != ContainerState::Created);
        m.done(Outcome::Failed(trouble.clone()), now);
        settle(&mut m, &mut world, &mut now);
        let what = format!("{trouble:?} {seen:?}");
        assert!(world.starts <= 1, "{what}");
        assert_eq!((m.status().state, m.status().message.as_str()), (state, message), "{what}");
    }
}

#[test]
fn what_is_found_decides_where_to_go_on() {
    use TaskState::{Assigned, Failed, Running, Starting};
    let running = Some(ContainerState::Running { pid: 7 });
    let record = |state, boot: &str| {
        let container =
            (state == Running).then_some(ContainerStatus { pid: 7, exit_code: None, oom_killed: false });
        let status = TaskStatus {
            state,
            at: Timestamp(5),
            message: String::new(),
            container,
            health: Default::default(),
        };
        Some(Record { status, failures: 0, boot: boot.into() })
    };
    let starting = || record(Starting, BOOT);
    let ran = || record(Running, BOOT);
    let created = Some(ContainerState::Created);
    let stopped = Some(ContainerState::Stopped(Exit::with(3)));
    for (told, container, record, first, last, message) in [
        (Assigned, None, None, "Attach", Running, ""),
        (Assigned, created, None, "Attach", Running, ""),
        (Assigned, created, starting(), "Attach", Running, ""),
        (Assigned, running, starting(), "Record running", Running, ""),
        (Running, running, ran(), "Check", Running, ""),
        (Running, running, None, "Record running", Running, ""),
        (Running, stopped, ran(), "Serve(Draining)", Failed, "exited with status 3"),
        (Running, stopped, None, "Serve(Draining)", Failed, "exited with status 3"),
        (Running, None, ran(), "Serve(Draining)", Failed, "container is gone"),
        (Running, created, ran(), "Serve(Draining)", Failed, "container is gone"),
        (Running, None, None, "Serve(Draining)", Failed, "container is gone"),
        (Assigned, None, starting(), "Serve(Draining)", Failed, "container is gone"),
        (
            Assigned,
            created,
            record(Starting, "the boot before"),
            "Serve(Draining)",
            Failed,
            "container is gone",
        ),
    ] {
        let what = format!("{told} {container:?} {record:?}");
        let mut task = a_task(1);
        task.status.state = told;
        let starts =
            u32::from(matches!(container, Some(ContainerState::Running { .. } | ContainerState::Stopped(_))));
        let mut world =
            World { container, attached: true, record: record.clone(), starts, ..World::default() };
        let mut now = Timestamp(1000);
        let mut m = Machine::new(task, world.found(), BOOT, quick(), now);
        let actions = settle(&mut m, &mut world, &mut now);
        assert_eq!(kinds(&actions)[0], first, "{what}");
        assert_eq!(m.status().state, last, "{what}");
        assert_eq!(m.status().message, message, "{what}");
        assert!(world.starts <= 1, "{what}");
    }
}

#[test]
fn a_running_container_without_its_network_is_ended() {
    let found = Found { container: Some(ContainerState::Running { pid: 7 }), ..Found::default() };
    let mut m = Machine::new(a_task(1), found, BOOT, quick(), Timestamp(1000));
    let mut world =
        World { container: Some(ContainerState::Running { pid: 7 }), starts: 1, ..World::default() };
    settle(&mut m, &mut world, &mut Timestamp(1000));
    assert_eq!(m.status().state, TaskState::Failed);
    assert_eq!(m.status().message, "its network is gone; its container was ended");
    assert!(world.container.is_none());
}

#[test]
fn a_task_ended_by_others_is_only_cleared_up() {
    let mut task = a_task(1);
    task.status.state = TaskState::Orphaned;
    let found =
        Found { container: Some(ContainerState::Running { pid: 7 }), attached: true, ..Found::default() };
    let mut m = Machine::new(task.clone(), found, BOOT, quick(), Timestamp(1000));
    for expected in [Action::Remove, Action::Detach] {
        assert_eq!(m.next(Timestamp(1000)), Step::Do(expected));
        m.done(Outcome::Done, Timestamp(1000));
    }
    assert_eq!(m.next(Timestamp(1000)), Step::End);
    assert_eq!(m.status(), &task.status);
}
