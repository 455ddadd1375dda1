//! Programs run inside running containers, beside the one the container is for.
//!
//! A program has its streams through FIFOs, whose other ends are the shim's, so that containerd may
//! die in between. Its directory, `<state>/exec/<task>.<id>`, is made before containerd is asked
//! and removed after containerd has forgotten it: what an agent that died had started is in the
//! list of directories, and the next one ends it ([`Containerd::sweep_execs`]).
//!
//! - `process`: the container's process settings, made the program's. Pure.
//! - `pipes`: directory and FIFOs. `session`: signals to a program and all it started.
//! - `keeper`: starts a program, waits for its end, and sees to it that it is deleted.
//! - `refusal`: why a program could not be run, as status and sentence. `sweep`: after a death.

mod keeper;
mod pipes;
mod process;
mod refusal;
mod session;
mod sweep;

use std::{path::PathBuf, time::Duration};

use containerd_client::services::v1::{CloseIoRequest, ResizePtyRequest};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    sync::watch,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::DropGuard;

use super::{
    Containerd,
    client::{CallError, SHORT, call},
};
pub use crate::worker::executor::RunOutput;
use crate::{model::TaskId, worker::executor::RuntimeError};

/// After a program's end, what it has left in its pipes is waited for so long.
const QUIET: Duration = Duration::from_secs(2);
/// How long a killed program may take to vanish.
const DEATH: Duration = Duration::from_secs(10);
/// The status of a program that was killed.
const KILLED: i32 = 128 + libc::SIGKILL;
/// Bytes read at a time.
const CHUNK: usize = 32 << 10;

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Where a program's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streams {
    /// Standard output and standard error each by itself.
    #[default]
    Apart,
    /// Both as one.
    Together,
    /// Both on a terminal of this size.
    Terminal(TerminalSize),
    /// Nowhere, and there is no input; the program goes on by itself.
    Detached,
}

/// A program to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its output.
    pub streams: Streams,
    /// Whether it is given input.
    pub stdin: bool,
    /// Variables beside the container's.
    pub env: Vec<(String, String)>,
    /// Working directory, absolute; the container's when absent.
    pub workdir: Option<String>,
    /// As the image's `USER` is written; the container's when absent.
    pub user: Option<String>,
    /// With every capability.
    pub privileged: bool,
}

/// Why a program does not run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecError {
    /// The task has no running container here.
    #[error("task {0} is not running")]
    NotRunning(TaskId),
    /// What is asked makes no sense for this container.
    #[error("{0}")]
    Invalid(String),
    /// The container cannot run this program. The status is what a shell gives: 126 or 127.
    #[error("{message}")]
    Refused {
        /// Exit status.
        code: i32,
        /// One sentence.
        message: String,
    },
    /// containerd is away, or said something else.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl From<CallError> for ExecError {
    fn from(e: CallError) -> Self {
        Self::Runtime(e.into())
    }
}

/// What a running program has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Output; that of a terminal and of both streams together too.
    Stdout(Vec<u8>),
    /// Error output.
    Stderr(Vec<u8>),
    /// It has ended, and all of its output was told: its status, 128 + n after signal n.
    Ended(i32),
}

/// Names a program to containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    task: TaskId,
    exec: String,
}

/// A program that runs. Dropped before its end, it is hung up on, then killed, with all that it
/// started and that did not leave its session.
#[derive(Debug)]
pub struct Exec {
    control: ExecControl,
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    exit: watch::Receiver<Option<i32>>,
    keeper: JoinHandle<()>,
    /// Tells the keeper to end what still runs and clean up.
    held: DropGuard,
}

/// What can be done to a running program from beside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ExecControl {
    containerd: Containerd,
    name: Name,
    pid: i32,
}

/// A program's input.
#[derive(Debug)]
pub struct ExecInput {
    control: ExecControl,
    pipe: pipe::Sender,
}

impl Containerd {
    /// Where running programs have their directories.
    fn exec_dir(&self) -> PathBuf {
        self.config.exec_dir()
    }

    /// Runs a program in a task's running container.
    ///
    /// # Errors
    /// Nothing runs then.
    pub async fn exec(&self, task: TaskId, spec: ExecSpec) -> Result<Exec, ExecError> {
        // Starting is the keeper's, so that a caller who goes away in the middle leaves nothing.
        keeper::start(self.clone(), task, spec).await
    }

    /// Runs a program in a task's container to its end, as the container's user and with its
    /// settings, without input; kills it with all it started when it takes longer than `limit`.
    /// Of its output the first `max_output` bytes are kept.
    ///
    /// # Errors
    /// [`RuntimeError::Temporary`] when containerd is away, [`RuntimeError::Fatal`] when the task
    /// does not run. A program that cannot be run is a result: status 126 or 127.
    pub async fn run_in(
        &self,
        task: TaskId,
        argv: &[String],
        limit: Duration,
        max_output: usize,
    ) -> Result<RunOutput, RuntimeError> {
        let spec = ExecSpec { command: argv.to_vec(), streams: Streams::Together, ..ExecSpec::default() };
        let mut exec = match self.exec(task, spec).await {
            Ok(exec) => exec,
            Err(ExecError::Refused { code, message }) => {
                return Ok(RunOutput { code, output: message.into_bytes(), timed_out: false });
            }
            Err(ExecError::Runtime(e)) => return Err(e),
            Err(e) => return Err(RuntimeError::Fatal(e.to_string())),
        };
        let mut out = RunOutput { code: 0, output: Vec::new(), timed_out: false };
        let over = tokio::time::sleep(limit);
        tokio::pin!(over);
        loop {
            let event = tokio::select! {
                event = exec.next() => event,
                // Once it has ended, only what it left behind holds its output open: no overrun.
                () = &mut over, if exec.exit.borrow().is_none() => {
                    if out.timed_out {
                        // Stuck in the kernel; its keeper goes on trying.
                        return Ok(RunOutput { code: KILLED, ..out });
                    }
                    out.timed_out = true;
                    exec.control.signal_session(Signal::SIGKILL).await;
                    over.as_mut().reset(Instant::now() + DEATH);
                    continue;
                }
            };
            match event {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                    let room = max_output.saturating_sub(out.output.len());
                    out.output.extend(&bytes[..bytes.len().min(room)]);
                }
                ExecEvent::Ended(code) => {
                    out.code = code;
                    exec.close().await;
                    return Ok(out);
                }
            }
        }
    }
}

impl Exec {
    /// Its input, once; `None` when it has none.
    pub fn take_stdin(&mut self) -> Option<ExecInput> {
        let pipe = self.stdin.take()?;
        Some(ExecInput { control: self.control.clone(), pipe })
    }

    /// Signals and terminal size.
    #[must_use]
    pub fn control(&self) -> ExecControl {
        self.control.clone()
    }

    /// The next thing it tells; after [`ExecEvent::Ended`] always the same. Reads no further than
    /// asked, so that a slow reader slows the program and loses nothing. May be dropped and called
    /// again.
    pub async fn next(&mut self) -> ExecEvent {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let ended = *self.exit.borrow_and_update();
            if let (Some(code), None, None) = (ended, &self.stdout, &self.stderr) {
                return ExecEvent::Ended(code);
            }
            tokio::select! {
                open = read(self.stdout.as_mut(), &mut out) => match open {
                    true => return ExecEvent::Stdout(out),
                    false => self.stdout = None,
                },
                open = read(self.stderr.as_mut(), &mut err) => match open {
                    true => return ExecEvent::Stderr(err),
                    false => self.stderr = None,
                },
                // Its keeper is there as long as it is not known how it ended.
                _ = self.exit.changed(), if ended.is_none() => {}
                // Something that it left behind in the container holds its output open.
                () = tokio::time::sleep(QUIET), if ended.is_some() => {
                    (self.stdout, self.stderr) = (None, None);
                }
            }
        }
    }

    /// Ends what still runs and waits until nothing of it is left.
    pub async fn close(self) {
        let Self { held, keeper, .. } = self;
        drop(held);
        let _ = keeper.await;
    }

    /// Lets it run without anybody watching.
    pub fn detach(self) {
        // The keeper waits for a detached program by itself.
        drop(self.held.disarm());
    }
}

/// Reads more from a stream that is open; false at its end.
async fn read(pipe: Option<&mut pipe::Receiver>, buffer: &mut Vec<u8>) -> bool {
    let Some(pipe) = pipe else { return std::future::pending().await };
    buffer.reserve(CHUNK);
    matches!(pipe.read_buf(buffer).await, Ok(1..))
}

impl ExecInput {
    /// Writes all of it; false when nobody reads any more.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.pipe.write_all(bytes).await.is_ok()
    }

    /// No more input: the program reads to the end of what was written.
    pub async fn close(self) {
        let Self { control, pipe } = self;
        drop(pipe);
        // The shim holds another end, which it only closes when asked to.
        let ExecControl { containerd, name, .. } = control;
        let r = CloseIoRequest { container_id: name.task.to_string(), exec_id: name.exec, stdin: true };
        let mut pause = Duration::from_millis(20);
        for _ in 0..8 {
            let tasks = &containerd.client;
            match call(SHORT, tasks.tasks().close_io(tasks.request(r.clone()))).await {
                Err(CallError::Away(_)) => tokio::time::sleep(pause).await,
                _ => return,
            }
            pause *= 2;
        }
    }
}

impl ExecControl {
    /// Gives its terminal another size.
    pub async fn resize(&self, size: TerminalSize) {
        let r = ResizePtyRequest {
            container_id: self.name.task.to_string(),
            exec_id: self.name.exec.clone(),
            width: size.columns.into(),
            height: size.rows.into(),
        };
        let client = &self.containerd.client;
        if let Err(e) = call(SHORT, client.tasks().resize_pty(client.request(r))).await {
            tracing::debug!(error = %e, "a terminal was not resized");
        }
    }

    /// Sends a signal to its process group: what a terminal's keys do.
    pub async fn signal(&self, signal: Signal) {
        session::signal(&self.containerd.config, self.name.task, self.pid, session::Whom::Group, signal)
            .await;
    }

    /// Sends a signal to all it has started and that did not leave its session.
    async fn signal_session(&self, signal: Signal) {
        session::signal(&self.containerd.config, self.name.task, self.pid, session::Whom::Session, signal)
            .await;
    }
}
