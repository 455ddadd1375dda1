//! Files in and out of running containers, as tar archives.
//!
//! Paths are resolved by a thread whose root directory is the container's: no link in the
//! container leads out, and its mounts are what the container sees. The thread does nothing else
//! and ends.

mod archive;

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, umask},
    unistd::{chdir, chroot, fchdir},
};
use tokio::sync::{mpsc, oneshot};

pub use self::archive::{Owners, Unpacked, pack, unpack};
use super::{Containerd, containerd::blocking, failure::one_line};
use crate::{model::TaskId, rpc, worker::executor::RuntimeError};

/// Bytes of a chunk of an archive.
const CHUNK: usize = 64 << 10;
/// Chunks on their way.
const QUEUE: usize = 4;

/// Why nothing, or not all, was copied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CopyError {
    /// The task has no running container here.
    #[error("task {0} is not running; files are copied from and to running tasks")]
    NotRunning(TaskId),
    /// There is nothing at this path.
    #[error("there is no {path} in task {task}", path = .1.display(), task = .0)]
    NotFound(TaskId, PathBuf),
    /// It is no directory, or none that can be.
    #[error("{path} in task {task} is not a directory", path = .1.display(), task = .0)]
    NotADirectory(TaskId, PathBuf),
    /// Anything else the kernel or the archive says.
    #[error("cannot copy {path} of task {task}: {what}", task = .0, path = .1.display(), what = .2)]
    Failed(TaskId, PathBuf, String),
    /// containerd is away.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// Nothing.
    Absent,
    /// A directory, or a link to one.
    Directory,
    /// Anything else.
    Other,
}

/// What is at a path, links followed.
///
/// # Errors
/// It cannot be known.
pub fn kind_of(path: &Path) -> io::Result<PathKind> {
    match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => Ok(PathKind::Directory),
        Ok(_) => Ok(PathKind::Other),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(PathKind::Absent)
        }
        Err(e) => Err(e),
    }
}

/// Copies of one task's files.
#[derive(Debug, Clone)]
struct Place {
    task: TaskId,
    path: PathBuf,
}

impl Place {
    fn new(task: TaskId, path: &str) -> Self {
        // As Docker: a path without a beginning begins at the root.
        Self { task, path: Path::new("/").join(path) }
    }

    fn error(&self, e: &io::Error) -> CopyError {
        match e.kind() {
            io::ErrorKind::NotFound => CopyError::NotFound(self.task, self.path.clone()),
            io::ErrorKind::NotADirectory => CopyError::NotADirectory(self.task, self.path.clone()),
            _ => CopyError::Failed(self.task, self.path.clone(), causes(e)),
        }
    }
}

/// An error with its causes, on one line.
#[must_use]
pub fn causes(e: &(dyn std::error::Error + 'static)) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        if !text.contains(&cause.to_string()) {
            text.push_str(&format!(": {cause}"));
        }
        next = cause.source();
    }
    one_line(&text)
}

impl Containerd {
    /// What is at a path of a task's container, links followed.
    ///
    /// # Errors
    /// The task does not run, or the path cannot be looked at.
    pub async fn stat_path(&self, task: TaskId, path: &str) -> Result<PathKind, CopyError> {
        let place = Place::new(task, path);
        let (look, at) = (self.inside(task).await?, place.path.clone());
        let (answer, kind) = oneshot::channel();
        look.run(move || drop(answer.send(kind_of(&at))))?;
        match kind.await {
            Ok(kind) => kind.map_err(|e| place.error(&e)),
            Err(_) => Err(CopyError::NotRunning(task)),
        }
    }

    /// A file or directory of a task's container as chunks of an archive, in which it is called
    /// `name`, or in which only what is in it is, when that is `.`. With `follow`, a link at the
    /// end of the path is followed. An error is the last item.
    ///
    /// # Errors
    /// Nothing can be copied.
    pub async fn copy_from(
        &self,
        task: TaskId,
        path: &str,
        name: &str,
        follow: bool,
    ) -> Result<mpsc::Receiver<Result<Vec<u8>, CopyError>>, CopyError> {
        let place = Place::new(task, path);
        let name = PathBuf::from(name);
        let inside = self.inside(task).await?;
        let (sender, chunks) = mpsc::channel(QUEUE);
        inside.run(move || {
            let mut out = Chunks { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) };
            let packed = pack(&place.path, &name, follow, &mut out).and_then(|()| out.flush());
            if let Err(e) = packed {
                // Nobody there any more: nobody is told.
                let _ = sender.blocking_send(Err(place.error(&e)));
            }
        })?;
        Ok(chunks)
    }

    /// Unpacks an archive into a directory of a task's container. Chunks are sent to `0`; what
    /// came of it is heard from `1`. An archive whose sender goes away without an empty chunk at
    /// its end is incomplete.
    ///
    /// # Errors
    /// Nothing can be copied.
    pub async fn copy_to(
        &self,
        task: TaskId,
        directory: &str,
        owners: Owners,
    ) -> Result<(mpsc::Sender<Vec<u8>>, oneshot::Receiver<Result<Unpacked, CopyError>>), CopyError> {
        let place = Place::new(task, directory);
        let inside = self.inside(task).await?;
        let (sender, mut archive) = rpc::chunks(QUEUE);
        let (answer, done) = oneshot::channel();
        inside.run(move || {
            let result = match kind_of(&place.path) {
                Ok(PathKind::Directory) => {
                    let unpacked = unpack(&mut archive, &place.path, owners);
                    // What follows an archive's end (padding) is read too: the sender waits.
                    let rest = unpacked.and_then(|u| io::copy(&mut archive, &mut io::sink()).map(|_| u));
                    rest.map_err(|e| match e.kind() {
                        io::ErrorKind::NotFound => {
                            CopyError::Failed(place.task, place.path.clone(), causes(&e))
                        }
                        _ => place.error(&e),
                    })
                }
                Ok(PathKind::Absent) => Err(CopyError::NotFound(place.task, place.path.clone())),
                Ok(PathKind::Other) => Err(CopyError::NotADirectory(place.task, place.path.clone())),
                Err(e) => Err(place.error(&e)),
            };
            let _ = answer.send(result);
        })?;
        Ok((sender, done))
    }

    async fn inside(&self, task: TaskId) -> Result<Inside, CopyError> {
        let running = async || self.running(task).await.map_err(RuntimeError::from);
        let pid = running().await?.ok_or(CopyError::NotRunning(task))?;
        let root = blocking(move || File::open(format!("/proc/{pid}/root"))).await?;
        if running().await? != Some(pid) {
            return Err(CopyError::NotRunning(task)); // the number may be another's by now
        }
        Ok(Inside { root })
    }
}

/// A container's root directory.
struct Inside {
    root: File,
}

impl Inside {
    /// Does `work` on a thread of its own that has this root.
    fn run(self, work: impl FnOnce() + Send + 'static) -> Result<(), CopyError> {
        let thread = std::thread::Builder::new().name("copy".to_owned()).spawn(move || {
            if let Err(e) = self.enter() {
                tracing::warn!(error = %e, "a container's root could not be entered");
                return;
            }
            work();
        });
        thread.map(drop).map_err(|e| RuntimeError::Temporary(format!("no thread to copy with: {e}")).into())
    }

    fn enter(&self) -> nix::Result<()> {
        // Root and working directory are this thread's own from here on.
        unshare(CloneFlags::CLONE_FS)?;
        fchdir(&self.root)?;
        chroot(".")?;
        chdir("/")?;
        umask(Mode::from_bits_truncate(0o022));
        Ok(())
    }
}

/// Writes chunks to a channel.
struct Chunks {
    sender: mpsc::Sender<Result<Vec<u8>, CopyError>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
