//! The state of the outside world, who may change it and how it may fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    model::{Attachment, Task, TaskId},
    worker::executor::{ContainerState, Exit, RuntimeError},
};

/// A call to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    ListContainers,
    Prepare,
    Start,
    Wait,
    Kill,
    Remove,
    ImageHealth,
    RunIn,
    ListNetworks,
    Attach,
    Serve,
    Detach,
    /// Not of a worker: a commit, or whatever else a test counts with [`FakeWorld::step`].
    Other,
}

/// When an agent dies: at its n-th call (from 0), before or after the call had its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The call has no effect.
    Before(usize),
    /// The call has its effect; its answer is never seen.
    After(usize),
}

/// A call that fails.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which.
    pub op: Op,
    /// How often.
    pub times: usize,
    /// Whether the call has its effect although it says it failed.
    pub effect: bool,
    /// What it says.
    pub error: RuntimeError,
}

#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) state: ContainerState,
    pub(super) task: Task,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) containers: BTreeMap<TaskId, Container>,
    pub(super) attached: BTreeMap<TaskId, Attachment>,
    pub(super) open: BTreeSet<TaskId>,
    pub(super) starts: BTreeMap<TaskId, u32>,
    /// Whose programs fail.
    pub(super) sick: BTreeSet<TaskId>,
    /// What the last program in a container came to.
    pub(super) last_probe: BTreeMap<TaskId, bool>,
    pub(super) violations: Vec<String>,
    pub(super) next_pid: u32,
    /// Calls of an older epoch are those of an agent that is dead: they never return.
    epoch: u64,
    dead: bool,
    steps: usize,
    trace: Vec<String>,
    crash: Option<Crash>,
    faults: Vec<Fault>,
    away: bool,
}

/// The outside of a worker: containers and networks that stay when the agent goes. Clones share
/// it. See [`FakeWorld::violations`] for the rules it watches over.
#[derive(Debug, Clone)]
pub struct FakeWorld(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    changed: watch::Sender<u64>,
}

impl Default for FakeWorld {
    fn default() -> Self {
        Self(Arc::new(Shared {
            world: Mutex::new(World { next_pid: 1000, ..World::default() }),
            changed: watch::channel(0).0,
        }))
    }
}

impl FakeWorld {
    /// What is wrong about what was done so far: a task started twice or made again after it ran,
    /// a start without a network, two tasks with one address, opening what is not attached, does
    /// not run or whose last probe was not good, a signal to a task that is open to traffic, a network removed under a process.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Every container and its state.
    #[must_use]
    pub fn containers(&self) -> BTreeMap<TaskId, ContainerState> {
        self.lock().containers.iter().map(|(t, c)| (*t, c.state)).collect()
    }

    /// The processes that run, by task.
    #[must_use]
    pub fn running(&self) -> BTreeMap<TaskId, u32> {
        let running = |(task, state)| match state {
            ContainerState::Running { pid } => Some((task, pid)),
            _ => None,
        };
        self.containers().into_iter().filter_map(running).collect()
    }

    /// Every task with a network.
    #[must_use]
    pub fn attached(&self) -> BTreeMap<TaskId, Attachment> {
        self.lock().attached.clone()
    }

    /// The tasks open to new connections.
    #[must_use]
    pub fn open(&self) -> BTreeSet<TaskId> {
        self.lock().open.clone()
    }

    /// How often each task was started.
    #[must_use]
    pub fn starts(&self) -> BTreeMap<TaskId, u32> {
        self.lock().starts.clone()
    }

    /// Calls so far, in words.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    /// The next agent dies there; its calls are counted from 0.
    pub fn crash_at(&self, crash: Crash) {
        self.lock().crash = Some(crash);
    }

    /// Whether the first agent's n-th call changed the world, so that dying after it differs from
    /// dying before the next one.
    #[must_use]
    pub fn had_effect(&self, n: usize) -> bool {
        let start = format!("1.{n} ");
        let without = ["List", "Wait", "ImageHealth", "RunIn", "commit"];
        let call = |l: &String| l.strip_prefix(&start).map(|c| !without.iter().any(|w| c.starts_with(w)));
        self.lock().trace.iter().find_map(call).unwrap_or(false)
    }

    /// Whether the crash that was asked for is still to come.
    #[must_use]
    pub fn crash_is_ahead(&self) -> bool {
        self.lock().crash.is_some()
    }

    /// Makes calls fail.
    pub fn fail(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// The runtime does not answer while this is true.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
    }

    /// The container's process ends by itself.
    pub fn exit(&self, task: TaskId, code: i32) {
        self.change(|w| {
            if let Some(c) = w.containers.get_mut(&task)
                && matches!(c.state, ContainerState::Running { .. })
            {
                c.state = ContainerState::Stopped(Exit::with(code));
            }
        });
    }

    /// Whether programs that are run in the container fail.
    pub fn set_sick(&self, task: TaskId, sick: bool) {
        self.change(|w| {
            if sick {
                w.sick.insert(task);
            } else {
                w.sick.remove(&task);
            }
        });
    }

    /// Somebody else removes the container.
    pub fn steal(&self, task: TaskId) {
        self.change(|w| drop(w.containers.remove(&task)));
    }

    /// The machine loses its power: processes and networks are gone, containers are there as if
    /// they had never been started.
    pub fn power_cut(&self) {
        self.change(|w| {
            w.attached.clear();
            w.open.clear();
            for c in w.containers.values_mut() {
                c.state = ContainerState::Created;
            }
        });
    }

    /// A new agent: calls of the ones before never return. Its calls are counted from 0.
    pub(super) fn new_epoch(&self) -> u64 {
        let mut w = self.lock();
        w.epoch += 1;
        w.dead = false;
        w.steps = 0;
        w.epoch
    }

    /// The agent dies now: none of its calls has an effect any more.
    pub fn kill_agent(&self) {
        self.change(|w| w.dead = true);
    }

    /// Waits until an agent dies at the crash that was asked for, or is killed.
    pub async fn crashed(&self) {
        let mut changed = self.0.changed.subscribe();
        while !self.lock().dead {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Counts a step of the present agent that is not a call to the fakes, such as a commit, so
    /// that it may die there. `effect` is not run when it dies before.
    pub async fn step<T>(&self, name: &str, effect: impl Future<Output = T>) -> T {
        let epoch = self.lock().epoch;
        let n = self.begin(epoch, Op::Other, name, None);
        let n = match n {
            Ok((n, _)) => n,
            Err(Dead) => return std::future::pending().await,
        };
        let result = effect.await;
        match self.finish(epoch, n) {
            Ok(()) => result,
            Err(Dead) => std::future::pending().await,
        }
    }

    /// One call of the agent of `epoch`. Never returns when that agent is dead, or dies in it.
    pub(super) async fn call<T>(
        &self,
        epoch: u64,
        op: Op,
        task: Option<TaskId>,
        effect: impl FnOnce(&mut World) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        // Whatever else the agent could do meanwhile gets its chance.
        tokio::task::yield_now().await;
        let result = self.begin(epoch, op, &format!("{op:?}"), task).and_then(|(n, fault)| {
            let result = match fault {
                Some(Fault { effect: true, error, .. }) => self.change(effect).and(Err(error)),
                Some(Fault { error, .. }) => Err(error),
                None => self.change(effect),
            };
            self.finish(epoch, n).map(|()| result)
        });
        match result {
            Ok(result) => result,
            Err(Dead) => std::future::pending().await,
        }
    }

    fn begin(
        &self,
        epoch: u64,
        op: Op,
        name: &str,
        task: Option<TaskId>,
    ) -> Result<(usize, Option<Fault>), Dead> {
        let crashed = {
            let mut w = self.lock();
            if w.dead || w.epoch != epoch {
                return Err(Dead);
            }
            let n = w.steps;
            w.steps += 1;
            let line = format!("{epoch}.{n} {name} {}", task.map_or(String::new(), |t| t.to_string()));
            w.trace.push(line);
            if w.crash != Some(Crash::Before(n)) {
                return Ok((n, w.fault(op)));
            }
            w.die()
        };
        self.0.changed.send_modify(|n| *n += 1);
        Err(crashed)
    }

    fn finish(&self, epoch: u64, n: usize) -> Result<(), Dead> {
        let crashed = {
            let mut w = self.lock();
            if w.dead || w.epoch != epoch {
                return Err(Dead);
            }
            if w.crash != Some(Crash::After(n)) {
                return Ok(());
            }
            w.die()
        };
        self.0.changed.send_modify(|n| *n += 1);
        Err(crashed)
    }

    /// Waits for the end of a container, as long as the agent of `epoch` lives.
    pub(super) async fn ended(&self, epoch: u64, task: TaskId) -> Result<Exit, RuntimeError> {
        let mut changed = self.0.changed.subscribe();
        loop {
            let seen = {
                let w = self.lock();
                let alive = !w.dead && w.epoch == epoch;
                alive.then(|| w.containers.get(&task).map(|c| c.state))
            };
            match seen {
                None => std::future::pending().await,
                Some(None) => return Err(RuntimeError::Fatal("container is gone".into())),
                Some(Some(ContainerState::Stopped(exit))) => return Ok(exit),
                Some(Some(ContainerState::Created)) => {
                    return Err(RuntimeError::Temporary("container was not started".into()));
                }
                Some(Some(ContainerState::Running { .. })) => {}
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = change(&mut self.lock());
        self.0.changed.send_modify(|n| *n += 1);
        result
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Dead;

impl World {
    pub(super) fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    fn die(&mut self) -> Dead {
        let crash = self.crash.take();
        self.trace.push(format!("the agent dies ({crash:?})"));
        self.dead = true;
        Dead
    }

    fn fault(&mut self, op: Op) -> Option<Fault> {
        let runtime = matches!(
            op,
            Op::ListContainers | Op::Prepare | Op::Start | Op::Wait | Op::Kill | Op::Remove | Op::RunIn
        );
        if self.away && runtime {
            let error = RuntimeError::Temporary("containerd does not answer".into());
            return Some(Fault { op, times: 1, effect: false, error });
        }
        let fault = self.faults.iter_mut().find(|f| f.op == op && f.times > 0)?;
        fault.times -= 1;
        Some(fault.clone())
    }

    pub(super) fn netns(task: TaskId) -> PathBuf {
        PathBuf::from(format!("/fake/netns/{task}"))
    }
}
