//! An own containerd: private root, state and socket, alive as long as somebody wants containers.
//!
//! It is nobody's child in spirit: it has its own session, survives the agent, and is adopted by
//! the next one. It is recognised by its command line, which names our configuration file; there
//! is no pid file that could be stale.

use std::{
    fs, io,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{io::unix::AsyncFd, sync::watch, task::JoinHandle};

use super::{
    client::{CallError, Client, call},
    preflight::{PreflightError, answer, programs, search_path},
    remains::{ProcessName, processes},
};

/// How long it may take until it answers.
const READY: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One that ran this long was well: the next restart is quick again.
const WELL: Duration = Duration::from_secs(30);
/// How one that hangs is found out.
const PROBE: Probe = Probe { every: Duration::from_secs(10), answer: Duration::from_secs(5), misses: 3 };
/// So many times as many misses are let pass until it has answered once: it may have much to load.
const LOADING: u32 = 4;
/// The log is put aside at a start when it is longer.
const LOG: u64 = 8 << 20;
/// Of the kernel's choice among processes when memory runs out; best effort.
const OOM_SCORE: &str = "-999";

/// Where an own containerd lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupervisorConfig {
    /// Its root (images, snapshots) and log are below.
    pub data_dir: PathBuf,
    /// Its state, configuration and socket are below. At most 80 bytes: socket names are short.
    pub state_dir: PathBuf,
}

impl SupervisorConfig {
    /// The socket it listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state_dir.join("containerd.sock")
    }

    pub(super) fn root(&self) -> PathBuf {
        self.data_dir.join("containerd")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.state_dir.join("containerd")
    }

    pub(super) fn file(&self) -> PathBuf {
        self.state_dir.join("containerd.toml")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.data_dir.join("containerd.log")
    }

    /// The processes that are this containerd: none, or one.
    pub(super) fn running(&self) -> Vec<ProcessName> {
        let file = self.file().display().to_string();
        processes(|argv| {
            argv.first().is_some_and(|a| Path::new(a).file_name().is_some_and(|n| n == "containerd"))
                && argv.get(1).is_some_and(|a| a == "--config")
                && argv.get(2) == Some(&file)
        })
    }

    /// Its configuration: what Warren does not use is off, for the memory.
    fn text(&self) -> String {
        let quoted = |p: PathBuf| serde_json::Value::from(p.display().to_string()).to_string();
        let disabled: Vec<String> = [
            "grpc.v1.cri",
            "internal.v1.opt",
            "internal.v1.restart",
            "internal.v1.tracing",
            "tracing.processor.v1.otlp",
            "monitor.v1.cgroups",
            "nri.v1.nri",
            "snapshotter.v1.aufs",
            "snapshotter.v1.blockfile",
            "snapshotter.v1.btrfs",
            "snapshotter.v1.devmapper",
            "snapshotter.v1.erofs",
            "snapshotter.v1.native",
            "snapshotter.v1.zfs",
        ]
        .iter()
        .map(|p| format!("  \"io.containerd.{p}\","))
        .collect();
        format!(
            "# Written by Warren at every start.\n\
             version = 2\n\
             root = {root}\n\
             state = {state}\n\
             disabled_plugins = [\n{disabled}\n]\n\n\
             [grpc]\n  address = {socket}\n\n\
             [debug]\n  level = \"warn\"\n\n\
             # Collects when something was deleted. With a threshold of pauses it would also wake up\n\
             # the more often the shorter its collections are, a hundred times a second and more.\n\
             [plugins.\"io.containerd.gc.v1.scheduler\"]\n  deletion_threshold = 1\n  \
             pause_threshold = 0.0\n",
            root = quoted(self.root()),
            state = quoted(self.state()),
            disabled = disabled.join("\n"),
            socket = quoted(self.socket()),
        )
    }
}

/// Why an own containerd does not run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Programs are missing.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// A file of it could not be made.
    #[error("containerd can not be set up: {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its socket's name is too long for the kernel.
    #[error("{0} is too long for a socket; give a data directory with a shorter path")]
    PathTooLong(PathBuf),
    /// It could not be executed.
    #[error("containerd can not be started: {0}")]
    Spawn(io::Error),
    /// It ended at once, or never answered.
    #[error("containerd does not come up: {why}; its log is {log}")]
    NotReady {
        /// What was seen last.
        why: String,
        /// Where to look.
        log: PathBuf,
    },
}

/// When a containerd counts as hung.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    /// Between two questions.
    pub(super) every: Duration,
    /// How long an answer may take.
    pub(super) answer: Duration,
    /// So many questions in a row were not answered.
    pub(super) misses: u32,
}

/// Keeps an own containerd running. Dropping it leaves containerd alone.
#[derive(Debug)]
pub struct Supervisor {
    config: SupervisorConfig,
    pid: watch::Receiver<Option<u32>>,
    keeper: JoinHandle<()>,
}

impl Supervisor {
    /// Adopts the containerd of these directories, or starts one; returns when it answers.
    pub async fn start(config: SupervisorConfig) -> Result<Self, SupervisorError> {
        Self::start_probing(config, PROBE).await
    }

    pub(super) async fn start_probing(
        config: SupervisorConfig,
        probe: Probe,
    ) -> Result<Self, SupervisorError> {
        let binary = programs()?;
        // sun_path has 108 bytes, and containerd's other socket is named `….ttrpc`.
        if config.socket().as_os_str().len() + ".ttrpc".len() >= 108 {
            return Err(SupervisorError::PathTooLong(config.socket()));
        }
        let adopted = Self::adopt(&config).await;
        let process = match adopted {
            Some(p) => {
                tracing::info!(pid = p.pid, "adopted the containerd that was running");
                Watched::adopted(p)
            }
            None => {
                let mut process = spawn(&binary, &config)?;
                let socket = config.socket();
                let ready = tokio::select! {
                    ready = ready(&socket) => ready,
                    status = process.end() => Err(format!("it ended ({status})")),
                };
                if let Err(why) = ready {
                    process.name.signal(Signal::SIGKILL);
                    return Err(SupervisorError::NotReady { why, log: config.log() });
                }
                process
            }
        };
        let (send, pid) = watch::channel(u32::try_from(process.name.pid).ok());
        let keeper = tokio::spawn(keep(binary, config.clone(), process, send, probe));
        Ok(Self { config, pid, keeper })
    }

    async fn adopt(config: &SupervisorConfig) -> Option<ProcessName> {
        for found in config.running() {
            let deadline = Instant::now() + Duration::from_secs(10);
            while found.lives() {
                if answer(&config.socket()).await.is_ok() {
                    return Some(found);
                }
                if Instant::now() > deadline {
                    tracing::warn!(pid = found.pid, "containerd does not answer and is replaced");
                    found.signal(Signal::SIGKILL);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        None
    }

    /// The socket it listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.config.socket()
    }

    /// Its process; `None` while it is being restarted.
    #[must_use]
    pub fn pid(&self) -> watch::Receiver<Option<u32>> {
        self.pid.clone()
    }

    /// Ends containerd for good. Only for a reset: containers need it to be managed.
    pub async fn stop(self) {
        self.keeper.abort();
        end(&self.config).await;
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Ends the containerd of these directories, politely first.
pub(super) async fn end(config: &SupervisorConfig) {
    for process in config.running() {
        process.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while process.lives() {
            if Instant::now() > deadline {
                process.signal(Signal::SIGKILL);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Restarts it whenever it ends, and ends it when it hangs.
async fn keep(
    binary: PathBuf,
    config: SupervisorConfig,
    mut process: Watched,
    pid: watch::Sender<Option<u32>>,
    probe: Probe,
) {
    let socket = config.socket();
    let mut pause = FIRST_PAUSE;
    loop {
        let since = Instant::now();
        let hung = tokio::select! {
            status = process.end() => Err(status),
            () = hangs(&socket, probe) => Ok(()),
        };
        let status = match hung {
            Err(status) => status,
            Ok(()) => {
                tracing::error!(pid = process.name.pid, "containerd does not answer and is killed");
                process.name.signal(Signal::SIGKILL);
                process.end().await
            }
        };
        pid.send_replace(None);
        tracing::warn!(pid = process.name.pid, status, "containerd ended and is started again");
        if since.elapsed() > WELL {
            pause = FIRST_PAUSE;
        }
        process = loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match spawn(&binary, &config) {
                Ok(p) => break p,
                Err(e) => tracing::error!(error = %e, "containerd can not be started again yet"),
            }
        };
        pid.send_replace(u32::try_from(process.name.pid).ok());
    }
}

/// Returns when it does not answer any more.
async fn hangs(socket: &Path, probe: Probe) {
    let client = Client::new(socket, "warren");
    let (mut missed, mut allowed) = (0, probe.misses * LOADING);
    while missed < allowed {
        tokio::time::sleep(probe.every).await;
        match call(probe.answer, client.version().version(client.request(()))).await {
            // Whatever the answer is, it is one.
            Ok(_) | Err(CallError::Refused(_) | CallError::NotFound(_) | CallError::Exists(_)) => {
                (missed, allowed) = (0, probe.misses);
            }
            Err(CallError::Away(why)) => {
                missed += 1;
                tracing::debug!(why, missed, "containerd did not answer");
            }
        }
    }
}

async fn ready(socket: &Path) -> Result<(), String> {
    let deadline = Instant::now() + READY;
    loop {
        match answer(socket).await {
            Ok(_) => return Ok(()),
            Err(e) if Instant::now() > deadline => return Err(e.to_string()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// A containerd whose end is noticed, whoever started it.
#[derive(Debug)]
struct Watched {
    name: ProcessName,
    child: Option<tokio::process::Child>,
}

impl Watched {
    fn adopted(name: ProcessName) -> Self {
        Self { name, child: None }
    }

    /// Returns when it has ended, with a word on how.
    async fn end(&mut self) -> String {
        if let Some(child) = &mut self.child {
            return match child.wait().await {
                Ok(status) => status.to_string(),
                Err(e) => e.to_string(),
            };
        }
        // SAFETY: the descriptor is owned by the registration and closed with it.
        let registered = pidfd(self.name.pid).and_then(|fd| Ok(unsafe { AsyncFd::register(fd) }?));
        match registered {
            // The number may have been reused before it was opened.
            Ok(fd) if self.name.lives() => {
                let _ = fd.readable().await;
            }
            Ok(_) => {}
            Err(_) => {
                while self.name.lives() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        "it was not our child".to_owned()
    }
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn spawn(binary: &Path, config: &SupervisorConfig) -> Result<Watched, SupervisorError> {
    let at = |path: PathBuf| move |source| SupervisorError::File { path, source };
    for dir in [config.root(), config.state()] {
        fs::create_dir_all(&dir).map_err(at(dir))?;
    }
    fs::write(config.file(), config.text()).map_err(at(config.file()))?;
    let log = config.log();
    if log.metadata().is_ok_and(|m| m.len() > LOG) {
        fs::rename(&log, log.with_extension("log.1")).map_err(at(log.clone()))?;
    }
    let out = fs::OpenOptions::new().create(true).append(true).open(&log).map_err(at(log.clone()))?;
    let err = out.try_clone().map_err(at(log))?;
    let path = std::env::join_paths(search_path()).unwrap_or_default();
    let mut command = Command::new(binary);
    command
        .arg("--config")
        .arg(config.file())
        // The agent's environment is not its business: NOTIFY_SOCKET would have it report ready
        // in the agent's name.
        .env_clear()
        .env("PATH", path)
        // Collects memory twice as often as by default: measured, 1 to 3 MB less is resident, and
        // the import of an image takes no longer. At 25 it is 2 to 5 MB, but a third more work.
        .env("GOGC", "50")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    // SAFETY: only system calls are made between fork and exec, no memory is allocated.
    unsafe {
        command.pre_exec(|| {
            // An own session: signals for the agent's terminal or group pass it by.
            nix::unistd::setsid()?;
            // What the agent had inherited without close-on-exec stays with the agent.
            libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    let child = tokio::process::Command::from(command).spawn().map_err(SupervisorError::Spawn)?;
    let pid = child.id().and_then(|p| i32::try_from(p).ok());
    let name = pid.and_then(ProcessName::of);
    let name = name
        .ok_or_else(|| SupervisorError::NotReady { why: "it ended at once".to_owned(), log: config.log() })?;
    // Not allowed everywhere (containers): then it counts like any process.
    let _ = fs::write(format!("/proc/{}/oom_score_adj", name.pid), OOM_SCORE);
    Ok(Watched { name, child: Some(child) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_in_the_configuration() {
        let config = SupervisorConfig {
            data_dir: PathBuf::from("/var/lib/a \"b\""),
            state_dir: PathBuf::from("/run/w"),
        };
        let text = config.text();
        assert!(text.contains(r#"root = "/var/lib/a \"b\"/containerd""#), "{text}");
        assert!(text.contains(r#"address = "/run/w/containerd.sock""#), "{text}");
    }
}
