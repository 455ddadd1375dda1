//! One program's life: started, waited for, deleted. Runs beside whoever asked, so that nothing is
//! left when they go away.

use std::{io, time::Duration};

use containerd_client::{
    services::v1::{
        DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, GetRequest, StartRequest, WaitRequest,
    },
    types::v1::{Process, Status as ProcessStatus},
};
use nix::sys::signal::Signal;
use prost_types::Any;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    DEATH, Exec, ExecControl, ExecError, ExecSpec, KILLED, Name, pipes::Pipes, process::process,
    refusal::refusal, session,
};
use crate::{
    model::TaskId,
    worker::{
        executor::{ContainerState, RuntimeError},
        runtime::{
            Containerd,
            client::{CallError, LONG, SHORT, call, found},
            containerd::{blocking, state_of},
            rootfs,
            spec::{capabilities, resolve_user},
        },
    },
};

/// How long a start is tried while containerd is away.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a program has to leave after it was hung up on.
const HANGUP: Duration = Duration::from_secs(2);
/// The status of a program whose end nobody saw: it was killed with its container.
const LOST: i32 = KILLED;

/// Starts a program and its keeper.
pub(super) async fn start(containerd: Containerd, task: TaskId, spec: ExecSpec) -> Result<Exec, ExecError> {
    let (answer, started) = oneshot::channel();
    let keeper = tokio::spawn(keep(containerd, task, spec, answer));
    match started.await {
        Ok(Ok(Started { control, ends: (stdin, stdout, stderr), exit, held })) => {
            Ok(Exec { control, stdin, stdout, stderr, exit, keeper, held })
        }
        Ok(Err(e)) => Err(e),
        Err(_) => Err(ExecError::Runtime(RuntimeError::Temporary("the node is stopping".to_owned()))),
    }
}

/// What a keeper hands to whoever asked.
struct Started {
    control: ExecControl,
    ends: Ends,
    exit: watch::Receiver<Option<i32>>,
    held: DropGuard,
}

async fn keep(
    containerd: Containerd,
    task: TaskId,
    spec: ExecSpec,
    answer: oneshot::Sender<Result<Started, ExecError>>,
) {
    let process = match prepare(&containerd, task, &spec).await {
        Ok(process) => process,
        Err(e) => return drop(answer.send(Err(e))),
    };
    let name = Name { task, exec: format!("x{:016x}", rand::random::<u64>()) };
    let pipes = Pipes::new(&containerd.exec_dir(), &name, &spec);
    let mut kept = Kept { containerd, name, pipes, pid: 0 };
    let (sender, exit) = watch::channel(None);
    let held = CancellationToken::new();
    match kept.launch(process, spec.terminal()).await {
        Err(e) => {
            kept.delete().await;
            drop(answer.send(Err(e)));
            return;
        }
        Ok(ends) => {
            let control =
                ExecControl { containerd: kept.containerd.clone(), name: kept.name.clone(), pid: kept.pid };
            let held = held.clone().drop_guard();
            // Nobody there any more: what is not taken is dropped, and that is a hang-up.
            drop(answer.send(Ok(Started { control, ends, exit, held })));
        }
    }
    kept.wait_and_delete(&sender, &held).await;
}

impl ExecSpec {
    fn terminal(&self) -> bool {
        matches!(self.streams, super::Streams::Terminal(_))
    }
}

/// Looks at the container and makes the program's process settings.
async fn prepare(containerd: &Containerd, task: TaskId, spec: &ExecSpec) -> Result<Vec<u8>, ExecError> {
    if spec.command.first().is_none_or(String::is_empty) {
        return Err(ExecError::Invalid("name a program to run in the container".to_owned()));
    }
    if let Some(dir) = spec.workdir.as_ref().filter(|d| !d.starts_with('/')) {
        return Err(ExecError::Invalid(format!(
            "the working directory \"{dir}\" is not absolute; begin it with /"
        )));
    }
    let pid = containerd.running(task).await?.ok_or(ExecError::NotRunning(task))?;
    let r = GetContainerRequest { id: task.to_string() };
    let client = &containerd.client;
    let record = found(call(SHORT, client.containers().get(client.request(r))).await)?;
    let record = record.and_then(|r| r.container?.spec).ok_or(ExecError::NotRunning(task))?;
    let container: serde_json::Value = serde_json::from_slice(&record.value)
        .map_err(|e| RuntimeError::Fatal(format!("the container's record cannot be read: {e}")))?;
    let user = match spec.user.clone() {
        None => None,
        Some(user) => {
            let accounts = blocking(move || rootfs::accounts_of(pid)).await?;
            Some(resolve_user(&user, &[], &accounts).map_err(|e| ExecError::Invalid(e.in_container()))?)
        }
    };
    let all = if spec.privileged { blocking(all_capabilities).await? } else { Vec::new() };
    let process = process(&container, spec, user.as_ref(), &all).map_err(RuntimeError::Fatal)?;
    Ok(serde_json::to_vec(&process).map_err(|e| RuntimeError::Fatal(e.to_string()))?)
}

/// The most this node itself can give.
fn all_capabilities() -> io::Result<Vec<String>> {
    let status = procfs::process::Process::myself().and_then(|p| p.status()).map_err(io::Error::other)?;
    Ok(capabilities::names(status.capbnd.unwrap_or_default()))
}

impl Containerd {
    /// The first process of a task's container, when it runs.
    pub(in crate::worker::runtime) async fn running(&self, task: TaskId) -> Result<Option<i32>, CallError> {
        Ok(match self.process(task).await?.as_ref().map(state_of) {
            Some(ContainerState::Running { pid }) => i32::try_from(pid).ok(),
            _ => None,
        })
    }
}

type Ends = (
    Option<tokio::net::unix::pipe::Sender>,
    Option<tokio::net::unix::pipe::Receiver>,
    Option<tokio::net::unix::pipe::Receiver>,
);

/// A program that containerd knows, or may know.
pub(super) struct Kept {
    pub(super) containerd: Containerd,
    pub(super) name: Name,
    pub(super) pipes: Pipes,
    /// 0 until it was started.
    pub(super) pid: i32,
}

impl Kept {
    async fn launch(&mut self, process: Vec<u8>, terminal: bool) -> Result<Ends, ExecError> {
        let pipes = self.pipes.clone();
        blocking(move || pipes.make()).await?;
        let io = |e: io::Error| RuntimeError::Temporary(format!("the program's pipes: {e}"));
        let (stdout, stderr) = self.pipes.open_output().map_err(io)?;
        self.create(process, terminal).await?;
        self.pid = self.start().await?;
        let stdin = self.pipes.open_input().await.map_err(io)?;
        Ok((stdin, stdout, stderr))
    }

    /// Tells containerd of the program. Repeated while containerd is away: what came through then
    /// is there already.
    async fn create(&self, process: Vec<u8>, terminal: bool) -> Result<(), ExecError> {
        let r = ExecProcessRequest {
            container_id: self.name.task.to_string(),
            exec_id: self.name.exec.clone(),
            stdin: self.pipes.stdin(),
            stdout: self.pipes.stdout(),
            stderr: self.pipes.stderr(),
            terminal,
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: process,
            }),
        };
        let client = &self.containerd.client;
        let mut tries = Tries::new();
        loop {
            match call(LONG, client.tasks().exec(client.request(r.clone()))).await {
                Ok(_) | Err(CallError::Exists(_)) => return Ok(()),
                Err(CallError::NotFound(_)) => return Err(ExecError::NotRunning(self.name.task)),
                Err(e @ CallError::Away(_)) => tries.pause(e).await?,
                Err(e) => return Err(refusal(e)),
            }
        }
    }

    /// Asks for the start once only: of a program whose start was cut off in the shim, the shim
    /// tells a wrong status after a second one, or dies of it.
    async fn start(&self) -> Result<i32, ExecError> {
        let client = &self.containerd.client;
        let r = StartRequest { container_id: self.name.task.to_string(), exec_id: self.name.exec.clone() };
        let e = match call(LONG, client.tasks().start(client.request(r))).await {
            Ok(started) => return Ok(i32::try_from(started.pid).unwrap_or(0)),
            Err(e) => e,
        };
        if !matches!(e, CallError::Away(_)) {
            return Err(refusal(e));
        }
        // It may have gone through all the same, and may be over by now.
        let mut tries = Tries::new();
        loop {
            match self.process().await {
                Ok(Some(p)) if p.pid != 0 && p.status() != ProcessStatus::Created => {
                    return Ok(i32::try_from(p.pid).unwrap_or(0));
                }
                Ok(_) => return Err(e.into()),
                Err(still) => tries.pause(still).await?,
            }
        }
    }

    pub(super) async fn process(&self) -> Result<Option<Process>, CallError> {
        let r = GetRequest { container_id: self.name.task.to_string(), exec_id: self.name.exec.clone() };
        let client = &self.containerd.client;
        Ok(found(call(SHORT, client.tasks().get(client.request(r))).await)?.and_then(|g| g.process))
    }

    /// Its status, once it has ended.
    async fn exit(&self) -> i32 {
        let mut pause = Duration::from_millis(50);
        let client = &self.containerd.client;
        loop {
            let r = WaitRequest { container_id: self.name.task.to_string(), exec_id: self.name.exec.clone() };
            match client.tasks().wait(client.request(r)).await.map_err(CallError::from) {
                Ok(r) => return i32::try_from(r.into_inner().exit_status).unwrap_or(255),
                Err(CallError::NotFound(_)) => return LOST,
                Err(e) => {
                    tracing::debug!(error = %e, "waiting for containerd to come back");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// Waits for its end or for `held` to be let go, which ends it; then for `held`; then deletes
    /// it. A detached one ends by itself.
    pub(super) async fn wait_and_delete(&self, exit: &watch::Sender<Option<i32>>, held: &CancellationToken) {
        let detached = self.pipes.is_detached();
        let code = tokio::select! {
            code = self.exit() => code,
            () = held.cancelled(), if !detached => self.end(HANGUP).await,
        };
        exit.send_replace(Some(code));
        if !detached {
            held.cancelled().await;
        }
        self.delete().await;
    }

    /// Hangs up on it and all it has started, and kills what is left after a while.
    pub(super) async fn end(&self, patience: Duration) -> i32 {
        use session::{Whom::Session, signal};
        let (config, task) = (&self.containerd.config, self.name.task);
        if patience > Duration::ZERO {
            signal(config, task, self.pid, Session, Signal::SIGHUP).await;
        }
        let code = tokio::time::timeout(patience, self.exit()).await;
        // Also after its end: it may have started something that did not care.
        signal(config, task, self.pid, Session, Signal::SIGKILL).await;
        if let Ok(code) = code {
            return code;
        }
        match tokio::time::timeout(DEATH, self.exit()).await {
            Ok(code) => code,
            Err(_) => {
                tracing::warn!(%task, pid = self.pid, "a program in a container does not die");
                LOST
            }
        }
    }

    async fn kill_late(&self) {
        if let Ok(Some(p)) = self.process().await
            && let Some(pid) = i32::try_from(p.pid).ok().filter(|&pid| pid > 0)
        {
            let (config, task) = (&self.containerd.config, self.name.task);
            session::signal(config, task, pid, session::Whom::Session, Signal::SIGKILL).await;
        }
    }

    /// Makes containerd forget it, and removes its directory; tries until that is done.
    pub(super) async fn delete(&self) {
        let mut pause = Duration::from_millis(50);
        let client = &self.containerd.client;
        // Its start may have been given up while the shim was still at it.
        let _readers = self.pipes.readers();
        loop {
            let r = DeleteProcessRequest {
                container_id: self.name.task.to_string(),
                exec_id: self.name.exec.clone(),
            };
            match call(LONG, client.tasks().delete_process(client.request(r))).await {
                Err(e @ CallError::Away(_)) => tracing::debug!(error = %e, "a program is not deleted yet"),
                Err(e @ CallError::Refused(_)) => {
                    // Its container is being removed; or it runs, since a start that was given up
                    // went through after all.
                    tracing::debug!(error = %e, "a program is not deleted yet");
                    self.kill_late().await;
                    if pause > Duration::from_secs(20) {
                        tracing::warn!(task = %self.name.task, error = %e, "a program could not be deleted");
                        return;
                    }
                }
                Ok(_) | Err(CallError::NotFound(_) | CallError::Exists(_)) => break,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
        let pipes = self.pipes.clone();
        let _ = tokio::task::spawn_blocking(move || pipes.remove()).await;
    }
}

/// Tries of a call while containerd is away.
struct Tries {
    until: Instant,
    pause: Duration,
}

impl Tries {
    fn new() -> Self {
        Self { until: Instant::now() + PATIENCE, pause: Duration::from_millis(20) }
    }

    async fn pause(&mut self, e: CallError) -> Result<(), ExecError> {
        if Instant::now() > self.until {
            return Err(e.into());
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        Ok(())
    }
}
