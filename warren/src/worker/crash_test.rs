//! A worker with fake surroundings, through whole lives of tasks, killed at every call it makes.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    WorkerConfig,
    executor::RuntimeError,
    start,
    testing::{Crash, FakeDispatcher, FakeWorld, Fault, Op, Process, a_node, a_task, channel, quick},
};
use crate::model::{Health, NodeDescription, Probe, Task, TaskId, TaskState, TaskStatus};

/// A node whose agent is started again whenever it has died.
struct Node {
    world: FakeWorld,
    managers: FakeDispatcher,
    process: Option<Process>,
    dir: TempDir,
    /// The managers live on a runtime that the agent's deaths do not touch.
    _serving: tokio::runtime::Runtime,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (world, managers) = (FakeWorld::default(), FakeDispatcher::default());
        let serving =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        serving.spawn(managers.clone().serve(dir.path().join("socket")));
        Self { world, managers, process: None, dir, _serving: serving }
    }

    fn boot(&mut self) {
        self.process = None;
        let (socket, data_dir) = (self.dir.path().join("socket"), self.data_dir());
        self.process = Some(Process::spawn(&self.world, move |outside| async move {
            let config = WorkerConfig {
                node: a_node(),
                description: NodeDescription::default(),
                data_dir,
                timing: quick(),
                probes: Default::default(),
            };
            let cancel = CancellationToken::new();
            let worker = start(config, channel(&socket), outside.clone(), outside, cancel).unwrap();
            worker.join.await.unwrap();
        }));
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// Waits until it is so, with as many agents as it takes.
    fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        loop {
            if self.process.as_ref().is_none_or(Process::is_dead) {
                self.boot();
            }
            if so(self) {
                return;
            }
            if began.elapsed() > Duration::from_secs(10) {
                let trace = self.world.trace().join("\n");
                panic!("never: {what}\n{:#?}\n{trace}", self.managers);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn until_state(&mut self, task: TaskId, state: TaskState) {
        self.until(&format!("{task} {state}"), |n| n.managers.status(task).is_some_and(|s| s.state == state));
    }

    fn status(&self, task: TaskId) -> TaskStatus {
        self.managers.status(task).unwrap()
    }

    fn assert_sound(&self, what: &str) {
        let wrong = [self.world.violations(), self.managers.complaints()].concat();
        assert!(wrong.is_empty(), "{what}: {wrong:#?}\n{}", self.world.trace().join("\n"));
    }

    fn assert_empty(&self, what: &str) {
        let world = (self.world.containers(), self.world.attached(), self.world.open());
        assert_eq!(world, Default::default(), "{what}: left over\n{}", self.world.trace().join("\n"));
    }
}

fn with_env(n: u8, name: &str, value: &str) -> Task {
    let mut task = a_task(n);
    task.spec.env.push((name.into(), value.into()));
    task
}

/// Two tasks come up; one of them ends by itself; a third comes up; one ends at once; one cannot
/// be started; all are taken down, one of them by force.
fn lives(node: &mut Node, what: &str) {
    let id = |n: u128| TaskId::from_random(n);
    for task in
        [a_task(1), with_env(2, "IGNORE_TERM", "1"), with_env(4, "EXIT", "3"), with_env(5, "NO_EXEC", "1")]
    {
        node.managers.assign(task);
    }
    node.until_state(id(1), TaskState::Running);
    node.until_state(id(2), TaskState::Running);
    node.until("both serve", |n| n.world.open() == [id(1), id(2)].into());
    let pids = node.world.running();

    node.world.exit(id(1), 7);
    node.managers.assign(a_task(3));
    node.until_state(id(1), TaskState::Failed);
    node.until_state(id(3), TaskState::Running);
    node.until_state(id(4), TaskState::Failed);
    node.until_state(id(5), TaskState::Rejected);
    assert_eq!(node.world.running().get(&id(2)), pids.get(&id(2)), "{what}: another process");
    assert_eq!(node.status(id(1)).message, "exited with status 7", "{what}");
    assert_eq!(node.status(id(4)).message, "exited with status 3", "{what}");
    assert_eq!(node.status(id(5)).message, "exec: \"nothing\": not found", "{what}");

    node.managers.desire(id(2), TaskState::Shutdown);
    node.managers.desire(id(3), TaskState::Remove);
    node.until_state(id(2), TaskState::Shutdown);
    node.until_state(id(3), TaskState::Shutdown);
    // Who hears of an end may count on it: the remains were gone before.
    node.assert_empty(what);
    node.until("records are forgotten", |n| {
        std::fs::read_dir(n.data_dir().join("tasks")).is_ok_and(|d| d.count() == 0)
    });
    assert_eq!(node.status(id(2)).container.unwrap().exit_code, Some(137), "{what}");
    assert_eq!(node.status(id(3)).container.unwrap().exit_code, Some(143), "{what}");
    let once: BTreeMap<_, _> = (1..=4).map(|n| (id(n), 1)).collect();
    assert_eq!(node.world.starts(), once, "{what}");
    node.assert_sound(what);
}

#[test]
fn killed_at_every_call_nothing_is_started_twice_or_left_or_lost() {
    let mut reached = 0;
    for n in 0.. {
        let live_until = |crash| {
            let mut node = Node::new();
            node.world.crash_at(crash);
            lives(&mut node, &format!("{crash:?}"));
            (!node.world.crash_is_ahead(), node.world.had_effect(n))
        };
        let (died, had_effect) = live_until(Crash::Before(n));
        if !died {
            break;
        }
        reached += 1;
        if had_effect {
            live_until(Crash::After(n));
        }
    }
    // Four lives of five to ten calls each, and the looks at the whole.
    assert!(reached >= 40, "only {reached} steps were reached");
}

#[test]
fn killed_again_and_again_it_comes_through() {
    for stride in 1..6 {
        let mut node = Node::new();
        let (world, managers) = (node.world.clone(), node.managers.clone());
        let id = TaskId::from_random(1);
        managers.assign(a_task(1));
        let mut deaths = 0;
        while managers.status(id).is_none_or(|s| s.state != TaskState::Shutdown) {
            // One more call each time, so that each agent gets a little further.
            world.crash_at(Crash::After(stride + deaths / 4));
            node.boot();
            while !node.process.as_ref().unwrap().is_dead()
                && managers.status(id).is_none_or(|s| s.state < TaskState::Running)
            {
                std::thread::sleep(Duration::from_micros(300));
            }
            if managers.status(id).is_some_and(|s| s.state == TaskState::Running) {
                managers.desire(id, TaskState::Shutdown);
                node.until("dead or down", |n| {
                    !n.world.crash_is_ahead() || n.managers.status(id).unwrap().state.is_final()
                });
            }
            deaths += 1;
            assert!(deaths < 200, "never comes through\n{}", world.trace().join("\n"));
        }
        node.assert_sound(&format!("stride {stride}"));
        node.assert_empty("");
        assert_eq!(world.starts(), [(id, 1)].into());
    }
}

#[test]
fn without_managers_it_goes_on_from_what_it_saved_and_tells_later() {
    let id = TaskId::from_random(1);
    let mut node = Node::new();
    node.managers.assign(a_task(1));
    node.until_state(id, TaskState::Running);
    let pid = node.world.running()[&id];

    node.process = None;
    let socket = node.dir.path().join("socket");
    let away = node.dir.path().join("away");
    std::fs::rename(&socket, &away).unwrap();
    node.boot();
    node.until("adopted", |n| n.world.trace().iter().filter(|l| l.contains("Serve")).count() == 2);
    assert_eq!(node.world.running()[&id], pid);
    node.world.exit(id, 5);
    node.until("cleared up", |n| n.world.attached().is_empty());
    assert_eq!(node.status(id).state, TaskState::Running, "nobody could be told");

    // The end survives yet another agent.
    node.boot();
    std::fs::rename(&away, &socket).unwrap();
    node.until_state(id, TaskState::Failed);
    assert_eq!(node.status(id).message, "exited with status 5");
    node.assert_sound("");
}

#[test]
fn a_status_is_told_until_it_is_stored() {
    let id = TaskId::from_random(1);
    let mut node = Node::new();
    node.managers.set_deaf(true);
    node.managers.assign(a_task(1));
    node.until("it runs", |n| n.world.open().contains(&id));
    assert_eq!(node.managers.status(id), None);
    node.managers.set_deaf(false);
    node.until_state(id, TaskState::Running);
    // It may be heard between its opening and the word that it is open; not earlier.
    let told = node.managers.history(id);
    assert!(told.iter().all(|s| s.state >= TaskState::Starting), "only the latest is told: {told:?}");
}

#[test]
fn a_report_that_is_refused_does_not_hold_up_the_others() {
    let id = |n: u128| TaskId::from_random(n);
    let mut node = Node::new();
    node.managers.refuse(id(1));
    for n in 1..=3 {
        node.managers.assign(a_task(n));
    }
    node.until_state(id(2), TaskState::Running);
    node.until_state(id(3), TaskState::Running);
    node.until("all run", |n| n.world.open().len() == 3);
    assert_eq!(node.managers.status(id(1)), None);
    node.managers.desire(id(3), TaskState::Shutdown);
    node.until_state(id(3), TaskState::Shutdown);
    node.assert_sound("");
}

#[test]
fn a_runtime_that_is_away_is_waited_for_and_said_to_be() {
    let id = TaskId::from_random(1);
    let mut node = Node::new();
    node.world.set_away(true);
    node.managers.assign(a_task(1));
    node.until_state(id, TaskState::Accepted);
    assert_eq!(node.status(id).message, "containerd does not answer");
    node.world.set_away(false);
    node.until_state(id, TaskState::Running);

    node.world.set_away(true);
    node.managers.desire(id, TaskState::Shutdown);
    node.until("closed all the same", |n| n.world.open().is_empty());
    assert!(node.world.running().contains_key(&id));
    node.world.set_away(false);
    node.until_state(id, TaskState::Shutdown);
    node.assert_empty("");
    node.assert_sound("");
}

#[test]
fn calls_that_fail_with_and_without_effect_are_repeated() {
    let id = TaskId::from_random(1);
    for effect in [false, true] {
        for op in
            [Op::ListContainers, Op::Prepare, Op::Start, Op::Wait, Op::Kill, Op::Remove, Op::ListNetworks]
                .into_iter()
                .chain([Op::Attach, Op::Serve, Op::Detach])
        {
            let mut node = Node::new();
            let error = RuntimeError::Temporary("try again".into());
            node.world.fail(Fault { op, times: 3, effect, error });
            node.managers.assign(a_task(1));
            node.until_state(id, TaskState::Running);
            node.managers.desire(id, TaskState::Shutdown);
            node.until_state(id, TaskState::Shutdown);
            node.assert_empty(&format!("{op:?}"));
            node.assert_sound(&format!("{op:?}"));
            assert_eq!(node.world.starts()[&id], 1, "{op:?}");
        }
    }
}

#[test]
fn what_is_not_assigned_is_removed_and_what_vanished_is_reported() {
    let id = |n: u128| TaskId::from_random(n);
    let mut node = Node::new();
    for n in 1..=3 {
        node.managers.assign(a_task(n));
    }
    node.until("they run", |n| n.world.open().len() == 3);
    // Once with a runner that knows it, once as something found at a start.
    node.managers.unassign(id(1));
    node.until("one is gone", |n| n.world.attached().len() == 2);
    node.process = None;
    node.managers.unassign(id(2));
    node.until("another is gone", |n| n.world.attached().len() == 1);

    node.until_state(id(3), TaskState::Running);
    node.world.steal(id(3));
    node.until_state(id(3), TaskState::Failed);
    assert_eq!(node.status(id(3)).message, "container is gone");
    node.assert_empty("");
    assert_eq!(node.world.starts().values().sum::<u32>(), 3);
}

#[test]
fn after_a_power_cut_nothing_runs_a_second_time() {
    let id = TaskId::from_random(1);
    let mut node = Node::new();
    node.managers.assign(a_task(1));
    node.until_state(id, TaskState::Running);
    node.process = None;
    node.world.power_cut();
    node.until_state(id, TaskState::Failed);
    assert_eq!(node.status(id).message, "container is gone");
    node.assert_empty("");
    assert_eq!(node.world.starts()[&id], 1);
}

#[tokio::test]
async fn cancelled_it_returns_at_once_and_leaves_everything_as_it_is() {
    let id = TaskId::from_random(1);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let (world, managers) = (FakeWorld::default(), FakeDispatcher::default());
    let serving = tokio::spawn(managers.clone().serve(socket.clone()));
    managers.assign(a_task(1));
    let config = WorkerConfig {
        node: a_node(),
        description: NodeDescription::default(),
        data_dir: dir.path().join("node"),
        timing: quick(),
        probes: Default::default(),
    };
    let (cancel, outside) = (CancellationToken::new(), world.agent());
    let mut worker = start(config, channel(&socket), outside.clone(), outside, cancel.clone()).unwrap();
    let runs = |all: &super::Statuses| all.get(&id).is_some_and(|s| s.state == TaskState::Running);
    worker.statuses.wait_for(runs).await.unwrap();
    assert_eq!(worker.assignment.borrow().as_ref().unwrap().tasks.len(), 1);

    let before = (world.containers(), world.open());
    cancel.cancel();
    tokio::time::timeout(Duration::from_millis(500), worker.join).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((world.containers(), world.open()), before);
    serving.abort();
}

/// A task whose program is run every few milliseconds.
fn checked(n: u8) -> Task {
    let mut task = a_task(n);
    task.spec.health.probe = Some(Probe::Command(vec!["/probe".into()]));
    task.spec.health.interval = Some(Duration::from_millis(4));
    task.spec.health.retries = Some(2);
    task
}

/// A task gets healthy, another never; the first gets sick, well again, and sick for good.
fn health(node: &mut Node, what: &str) {
    let id = |n: u128| TaskId::from_random(n);
    node.world.set_sick(id(2), true);
    node.managers.assign(checked(1));
    node.managers.assign(checked(2));
    let mut by_image = with_env(3, "IMAGE_HEALTH", "exit 0");
    by_image.spec.health.interval = Some(Duration::from_millis(4));
    node.managers.assign(by_image);
    for healthy in [1, 3] {
        node.until_state(id(healthy), TaskState::Running);
        node.until("told", |n| n.status(id(healthy)).health == Health::Healthy);
    }
    node.until_state(id(2), TaskState::Failed);
    assert_eq!(node.status(id(2)).message, "unhealthy: not well /probe", "{what}");
    assert_eq!(node.status(id(2)).health, Health::Unhealthy, "{what}");
    assert_eq!(node.world.open(), [id(1), id(3)].into(), "{what}");
    assert_eq!(node.world.starts(), [(id(1), 1), (id(2), 1), (id(3), 1)].into(), "{what}");

    node.world.set_sick(id(1), true);
    node.until_state(id(1), TaskState::Failed);
    assert_eq!(node.status(id(1)).message, "unhealthy: not well /probe", "{what}");
    assert_eq!(node.status(id(1)).health, Health::Unhealthy, "{what}");
    node.managers.desire(id(3), TaskState::Shutdown);
    node.until_state(id(3), TaskState::Shutdown);
    node.assert_empty(what);
    node.assert_sound(what);
}

#[test]
fn killed_at_every_call_health_is_kept() {
    for n in 0.. {
        let live_until = |crash| {
            let mut node = Node::new();
            node.world.crash_at(crash);
            health(&mut node, &format!("{crash:?}"));
            (!node.world.crash_is_ahead(), node.world.had_effect(n))
        };
        let (died, had_effect) = live_until(Crash::Before(n));
        // Probes go on for as long as the tasks live: the end of the lives is enough.
        if !died || n > 40 {
            break;
        }
        if had_effect {
            live_until(Crash::After(n));
        }
    }
}

#[test]
fn an_agents_restart_closes_nothing_that_is_healthy() {
    let id = TaskId::from_random(1);
    let mut node = Node::new();
    node.managers.assign(checked(1));
    node.until_state(id, TaskState::Running);
    for _ in 0..20 {
        node.boot();
        let before = node.world.trace().len();
        node.until("probed again", |n| n.world.trace()[before..].iter().any(|l| l.contains("RunIn")));
        assert_eq!(node.world.open(), [id].into());
        assert_eq!(node.status(id).health, Health::Healthy);
    }
    // A runtime that is away says nothing of the container.
    node.world.set_away(true);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(node.world.open(), [id].into());
    node.world.set_away(false);
    assert_eq!(node.world.starts()[&id], 1);
    assert_eq!(node.managers.history(id).iter().filter(|s| s.health == Health::Unhealthy).count(), 0);
    node.assert_sound("");
}
