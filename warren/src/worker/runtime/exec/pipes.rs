//! A program's directory and the FIFOs in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{errno::Errno, sys::stat::Mode, unistd::mkfifo};
use tokio::net::unix::pipe;

use super::{ExecSpec, Name, Streams};
use crate::worker::runtime::remains;

/// Marks the directory of a program that goes on without anybody watching.
const DETACHED: &str = "detached";
/// How long the shim may take to open its end of the input.
const OPENING: Duration = Duration::from_secs(10);

/// The directory of a program, and which streams it has.
#[derive(Debug, Clone)]
pub(super) struct Pipes {
    dir: PathBuf,
    streams: Streams,
    input: bool,
}

impl Pipes {
    /// Those of `spec`; nothing is made yet.
    pub(super) fn new(base: &Path, name: &Name, spec: &ExecSpec) -> Self {
        let input = spec.stdin && spec.streams != Streams::Detached;
        Self { dir: base.join(format!("{}.{}", name.task, name.exec)), streams: spec.streams, input }
    }

    fn path(&self, stream: &str) -> String {
        self.dir.join(stream).display().to_string()
    }

    /// What the shim reads the program's input from; empty for none, as the rest.
    pub(super) fn stdin(&self) -> String {
        if self.input { self.path("in") } else { String::new() }
    }

    pub(super) fn stdout(&self) -> String {
        if self.streams == Streams::Detached { String::new() } else { self.path("out") }
    }

    pub(super) fn stderr(&self) -> String {
        match self.streams {
            Streams::Apart => self.path("err"),
            Streams::Together => self.path("out"),
            Streams::Terminal(_) | Streams::Detached => String::new(),
        }
    }

    /// Makes directory and FIFOs.
    pub(super) fn make(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        if self.streams == Streams::Detached {
            return fs::write(self.dir.join(DETACHED), b"");
        }
        for path in [self.stdin(), self.stdout(), self.stderr()] {
            match mkfifo(path.as_str(), Mode::S_IRUSR | Mode::S_IWUSR) {
                Err(Errno::ENOENT) if path.is_empty() => {}
                Err(Errno::EEXIST) | Ok(()) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Opens the ends to read from. Before the program is started, or the shim would wait; read
    /// from only afterwards, or there would be nobody at the other end yet.
    pub(super) fn open_output(&self) -> io::Result<(Option<pipe::Receiver>, Option<pipe::Receiver>)> {
        let open = |path: String| {
            let some = (!path.is_empty()).then_some(path);
            some.map(|p| pipe::OpenOptions::new().open_receiver(p)).transpose()
        };
        let err = if self.streams == Streams::Apart { self.stderr() } else { String::new() };
        Ok((open(self.stdout())?, open(err)?))
    }

    /// Ends to read from, whatever streams there are, so that nobody waits for one: a shim that is
    /// starting a program opens the outputs one after the other, holds its locks until each has a
    /// reader, and answers nothing about any program or the container meanwhile.
    pub(super) fn readers(&self) -> Vec<pipe::Receiver> {
        let open = |stream| pipe::OpenOptions::new().open_receiver(self.dir.join(stream)).ok();
        ["out", "err"].into_iter().filter_map(open).collect()
    }

    /// Opens the end to write to, of a started program. Waits for the shim's: what is written
    /// before it is there could be lost.
    pub(super) async fn open_input(&self) -> io::Result<Option<pipe::Sender>> {
        if !self.input {
            return Ok(None);
        }
        let deadline = Instant::now() + OPENING;
        loop {
            match pipe::OpenOptions::new().open_sender(self.stdin()) {
                Ok(sender) => return Ok(Some(sender)),
                Err(e) if e.raw_os_error() != Some(libc::ENXIO) || Instant::now() > deadline => {
                    return Err(e);
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    /// Removes the directory; nothing there is no error.
    pub(super) fn remove(&self) {
        if let Err(e) = remains::remove_dir(&self.dir) {
            tracing::warn!(error = %e, "the directory of a program could not be removed");
        }
    }
}

/// The programs that have directories, and whether they go on by themselves.
pub(super) fn left(base: &Path) -> Vec<(Name, Pipes)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let dir = entry.path();
        let name = entry.file_name();
        let parts = name.to_str().and_then(|n| n.split_once('.'));
        let Some((Ok(task), exec)) = parts.map(|(task, exec)| (task.parse(), exec)) else { continue };
        let streams = if dir.join(DETACHED).exists() { Streams::Detached } else { Streams::Apart };
        found.push((Name { task, exec: exec.to_owned() }, Pipes { dir, streams, input: false }));
    }
    found
}

impl Pipes {
    /// Whether the program goes on by itself.
    pub(super) fn is_detached(&self) -> bool {
        self.streams == Streams::Detached
    }
}
