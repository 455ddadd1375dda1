//! The fakes behind the traits: one agent's doors to the world.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::world::{Container, FakeWorld, Op, World};
use crate::{
    model::{Attachment, HealthCheck, Probe, Task, TaskId},
    worker::{
        executor::{
            ContainerState, Exit, Gate, Network, NetworkError, NetworkNamespace, RunOutput, Runtime,
            RuntimeError,
        },
        task::step::KILL,
    },
};

/// A container runtime and a network of a [`FakeWorld`], for one agent's life.
///
/// Containers do what their environment says: `EXIT=n` ends at once with that status,
/// `IGNORE_TERM=1` needs SIGKILL, `NO_EXEC=1` cannot be started. `IMAGE_HEALTH=line` is their
/// image's health check. Every program that is run in one succeeds, unless the container is sick
/// ([`FakeWorld::set_sick`]).
#[derive(Debug, Clone)]
pub struct FakeOutside {
    world: FakeWorld,
    epoch: u64,
}

impl FakeWorld {
    /// The doors of a new agent; those given out before are shut for good.
    #[must_use]
    pub fn agent(&self) -> Arc<FakeOutside> {
        Arc::new(FakeOutside { world: self.clone(), epoch: self.new_epoch() })
    }
}

fn env<'a>(task: &'a Task, name: &str) -> Option<&'a str> {
    task.spec.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

#[async_trait]
impl Runtime for FakeOutside {
    async fn list(&self) -> Result<Vec<(TaskId, ContainerState)>, RuntimeError> {
        let all = |w: &mut World| Ok(w.containers.iter().map(|(t, c)| (*t, c.state)).collect());
        self.world.call(self.epoch, Op::ListContainers, None, all).await
    }

    async fn prepare(&self, task: &Task, network: &NetworkNamespace) -> Result<(), RuntimeError> {
        let prepare = |w: &mut World| {
            let id = task.id;
            if !w.attached.contains_key(&id) || network.path != World::netns(id) {
                w.violation(format!("{id} was prepared without its network"));
            }
            match w.containers.get(&id).map(|c| c.state) {
                None if w.starts.contains_key(&id) => {
                    w.violation(format!("{id} was made again after it had run"));
                }
                None | Some(ContainerState::Created) => {}
                Some(state) => w.violation(format!("{id} was prepared while it was {state:?}")),
            }
            w.containers
                .entry(id)
                .or_insert_with(|| Container { state: ContainerState::Created, task: task.clone() });
            Ok(())
        };
        self.world.call(self.epoch, Op::Prepare, Some(task.id), prepare).await
    }

    async fn start(&self, task: TaskId) -> Result<u32, RuntimeError> {
        let start = |w: &mut World| {
            let attached = w.attached.contains_key(&task);
            let pid = w.next_pid;
            let Some(c) = w.containers.get_mut(&task) else {
                return Err(RuntimeError::Fatal("there is no such container".into()));
            };
            match c.state {
                ContainerState::Running { pid } => return Ok(pid),
                ContainerState::Stopped(_) => {
                    return Err(RuntimeError::Fatal("the container has ended".into()));
                }
                ContainerState::Created => {}
            }
            if env(&c.task, "NO_EXEC").is_some() {
                return Err(RuntimeError::Fatal("exec: \"nothing\": not found".into()));
            }
            c.state = match env(&c.task, "EXIT").and_then(|v| v.parse().ok()) {
                Some(code) => ContainerState::Stopped(Exit::with(code)),
                None => ContainerState::Running { pid },
            };
            w.next_pid += 1;
            if !attached {
                w.violation(format!("{task} was started without a network"));
            }
            let starts = w.starts.entry(task).or_default();
            *starts += 1;
            if *starts > 1 {
                let text = format!("{task} was started {starts} times");
                w.violation(text);
            }
            Ok(pid)
        };
        self.world.call(self.epoch, Op::Start, Some(task), start).await
    }

    async fn wait(&self, task: TaskId) -> Result<Exit, RuntimeError> {
        self.world.call(self.epoch, Op::Wait, Some(task), |_| Ok(())).await?;
        self.world.ended(self.epoch, task).await
    }

    async fn stop(&self, task: TaskId) -> Result<(), RuntimeError> {
        self.kill(task, libc::SIGTERM).await
    }

    async fn kill(&self, task: TaskId, signal: i32) -> Result<(), RuntimeError> {
        let kill = |w: &mut World| {
            if w.open.contains(&task) {
                w.violation(format!("{task} was signalled while open to traffic"));
            }
            if let Some(c) = w.containers.get_mut(&task)
                && matches!(c.state, ContainerState::Running { .. })
                && (signal == KILL || env(&c.task, "IGNORE_TERM").is_none())
            {
                c.state = ContainerState::Stopped(Exit::with(128 + signal));
            }
            Ok(())
        };
        self.world.call(self.epoch, Op::Kill, Some(task), kill).await
    }

    async fn remove(&self, task: TaskId) -> Result<(), RuntimeError> {
        let remove = |w: &mut World| {
            w.containers.remove(&task);
            Ok(())
        };
        self.world.call(self.epoch, Op::Remove, Some(task), remove).await
    }

    async fn image_health(&self, task: TaskId) -> Result<Option<HealthCheck>, RuntimeError> {
        let look = |w: &mut World| {
            let line = w.containers.get(&task).and_then(|c| env(&c.task, "IMAGE_HEALTH"));
            Ok(line.map(|l| HealthCheck { probe: Some(Probe::Shell(l.into())), ..HealthCheck::default() }))
        };
        self.world.call(self.epoch, Op::ImageHealth, Some(task), look).await
    }

    async fn run_in(
        &self,
        task: TaskId,
        words: &[String],
        _: Duration,
        _: usize,
    ) -> Result<RunOutput, RuntimeError> {
        let run = |w: &mut World| {
            let runs =
                w.containers.get(&task).is_some_and(|c| matches!(c.state, ContainerState::Running { .. }));
            if !runs {
                return Err(RuntimeError::Fatal("the container does not run".into()));
            }
            let good = !w.sick.contains(&task);
            w.last_probe.insert(task, good);
            let output = if good { "fine" } else { "not\nwell" };
            Ok(RunOutput {
                code: i32::from(!good),
                output: format!("{output} {}", words.join(" ")).into(),
                timed_out: false,
            })
        };
        self.world.call(self.epoch, Op::RunIn, Some(task), run).await
    }
}

#[async_trait]
impl Network for FakeOutside {
    async fn list(&self) -> Result<Vec<TaskId>, NetworkError> {
        let all = |w: &mut World| Ok(w.attached.keys().copied().collect());
        self.network(Op::ListNetworks, None, all).await
    }

    async fn attach(&self, task: TaskId, attachment: &Attachment) -> Result<NetworkNamespace, NetworkError> {
        let attach = |w: &mut World| {
            let same = |(t, a): &(&TaskId, &Attachment)| {
                **t != task && (a.address == attachment.address || a.backend == attachment.backend)
            };
            if let Some((other, _)) = w.attached.iter().find(same) {
                let text = format!("{task} was attached with the address of {other}");
                w.violation(text);
            }
            w.attached.insert(task, *attachment);
            Ok(NetworkNamespace { path: World::netns(task) })
        };
        self.network(Op::Attach, Some(task), attach).await
    }

    async fn serve(&self, task: TaskId, attachment: &Attachment, gate: Gate) -> Result<(), NetworkError> {
        let serve = |w: &mut World| {
            let open = gate == Gate::Open;
            let checked = w.containers.get(&task).is_some_and(|c| {
                matches!(&c.task.spec.health.probe, Some(p) if *p != Probe::Disabled)
                    || env(&c.task, "IMAGE_HEALTH").is_some()
            });
            if open && checked && w.last_probe.get(&task) != Some(&true) {
                w.violation(format!("{task} was opened although its last probe was not good"));
            }
            if w.attached.get(&task) != Some(attachment) {
                w.violation(format!("{task} was opened or closed without its network"));
            }
            if open && !w.starts.contains_key(&task) {
                w.violation(format!("{task} was opened before it was started"));
            }
            if open {
                w.open.insert(task);
            } else {
                w.open.remove(&task);
            }
            Ok(())
        };
        self.network(Op::Serve, Some(task), serve).await
    }

    async fn detach(&self, task: TaskId) -> Result<(), NetworkError> {
        let detach = |w: &mut World| {
            if w.containers.get(&task).is_some_and(|c| matches!(c.state, ContainerState::Running { .. })) {
                w.violation(format!("{task} lost its network while it ran"));
            }
            w.attached.remove(&task);
            w.open.remove(&task);
            Ok(())
        };
        self.network(Op::Detach, Some(task), detach).await
    }
}

impl FakeOutside {
    async fn network<T>(
        &self,
        op: Op,
        task: Option<TaskId>,
        effect: impl FnOnce(&mut World) -> Result<T, RuntimeError> + Send,
    ) -> Result<T, NetworkError> {
        self.world.call(self.epoch, op, task, effect).await.map_err(|e| NetworkError(e.to_string()))
    }

    /// How often each task was started, in this world.
    #[must_use]
    pub fn starts(&self) -> BTreeMap<TaskId, u32> {
        self.world.starts()
    }
}
