//! What a container leaves in the kernel and on disk when somebody on the way to its end was
//! killed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sha2::{Digest, Sha256};

use super::RuntimeConfig;
use crate::model::TaskId;

/// Where runc's shims keep their sockets, whatever their containerd is configured to.
const SHIM_SOCKETS: &str = "/run/containerd/s";
/// A process, named so that a reused number is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessName {
    pub(super) pid: i32,
    started: u64,
}

impl ProcessName {
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = procfs::process::Process::new(pid).ok()?.stat().ok()?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(Self { pid, started: stat.starttime })
    }

    pub(super) fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still is this process.
    pub(super) fn signal(self, signal: Signal) {
        if self.lives() {
            // It may end in between: then there is nothing to signal.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// The processes whose command line `matches`.
pub(super) fn processes(matches: impl Fn(&[String]) -> bool) -> Vec<ProcessName> {
    let Ok(all) = procfs::process::all_processes() else { return Vec::new() };
    all.flatten()
        .filter(|p| p.cmdline().is_ok_and(|argv| matches(&argv)))
        .filter_map(|p| ProcessName::of(p.pid()))
        .collect()
}

fn option<'a>(argv: &'a [String], name: &str) -> Option<&'a str> {
    let at = argv.iter().position(|a| a == name)?;
    argv.get(at + 1).map(String::as_str)
}

/// The shims of a namespace behind a socket; of one task, or of all.
pub(super) fn shims(config: &RuntimeConfig, task: Option<TaskId>) -> Vec<ProcessName> {
    let socket = config.socket.display().to_string();
    processes(|argv| {
        argv.first().is_some_and(|a| a.ends_with("containerd-shim-runc-v2"))
            && option(argv, "-namespace") == Some(config.namespace.as_str())
            && option(argv, "-address") == Some(socket.as_str())
            && task.is_none_or(|t| option(argv, "-id") == Some(t.as_str()))
    })
}

/// Where the cgroup hierarchies are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found = BTreeSet::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(at), Some("cgroup" | "cgroup2")) = (words.next(), words.next()) {
            found.insert(PathBuf::from(at));
        }
    }
    found.into_iter().collect()
}

/// Directories of a cgroup in every hierarchy that has it.
pub(super) fn cgroup_dirs(cgroup: &str) -> Vec<PathBuf> {
    let relative = cgroup.trim_start_matches('/');
    if relative.is_empty() {
        return Vec::new(); // never the root: all processes are in it
    }
    hierarchies().into_iter().map(|h| h.join(relative)).filter(|d| d.is_dir()).collect()
}

/// How often the kernel killed in a cgroup, or below it, because memory ran out.
pub(super) fn oom_kills(cgroup: &str) -> u64 {
    let mut dirs = Vec::new();
    for dir in cgroup_dirs(cgroup) {
        below(&dir, &mut dirs);
    }
    // Version 2 counts what is below too, version 1 does not: whether there was any is the same.
    let files = dirs.iter().flat_map(|d| [d.join("memory.events"), d.join("memory.oom_control")]);
    files.filter_map(|f| oom_kill_count(&fs::read_to_string(f).ok()?)).sum()
}

fn oom_kill_count(text: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// A directory of a cgroup and those below it, deepest first.
fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            below(&entry.path(), found);
        }
    }
    found.push(dir.to_owned());
}

/// Directories of a cgroup and of those below it, in every hierarchy that has it.
pub(super) fn cgroup_tree(cgroup: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in cgroup_dirs(cgroup) {
        below(&dir, &mut found);
    }
    found
}

/// Kills everything in a cgroup and removes it, in every hierarchy.
pub(super) fn remove_cgroup(cgroup: &str) -> io::Result<()> {
    let mut dirs = Vec::new();
    for dir in cgroup_dirs(cgroup) {
        below(&dir, &mut dirs);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut pids = BTreeSet::new();
        for dir in &dirs {
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(procs.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|&p| p > 1));
        }
        for &pid in &pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let mut left = None;
        for dir in &dirs {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => left = Some((dir, e)),
                _ => {}
            }
        }
        match left {
            None => return Ok(()),
            Some((dir, e)) if Instant::now() > deadline => {
                return Err(io::Error::new(e.kind(), format!("cgroup {} stays: {e}", dir.display())));
            }
            // The kernel lets go of a cgroup a moment after its last process.
            Some(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Removes what a cgroup was in, unless other nodes are in it too.
pub(super) fn remove_empty_parent(cgroup: &str) {
    if let Some((parent, _)) = cgroup.rsplit_once('/') {
        for dir in cgroup_dirs(parent) {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Mount points that `matches`, the last made first.
pub(super) fn mount_points(matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = info
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| p.replace("\\040", " "))
        .filter(|p| matches(p))
        .map(PathBuf::from)
        .collect();
    found.reverse();
    found
}

/// Unmounts them.
pub(super) fn unmount(points: &[PathBuf]) {
    for point in points {
        if let Err(e) = umount2(point, MntFlags::MNT_DETACH) {
            tracing::warn!(mount = %point.display(), error = %e, "could not be unmounted");
        }
    }
}

/// Removes a directory, if it is there.
pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// The socket a task's shim listens on: named by a digest of what tells it from all others.
pub(super) fn shim_socket(config: &RuntimeConfig, task: &str) -> PathBuf {
    let name = format!("{}/{}/{task}", config.socket.display(), config.namespace);
    Path::new(SHIM_SOCKETS).join(hex::encode(Sha256::digest(name.as_bytes())))
}

fn runc_dir(config: &RuntimeConfig, task: TaskId) -> PathBuf {
    config.runc_root().join(&config.namespace).join(task.as_str())
}

/// The first process of a task's container, as runc wrote it down: for the moments in which nobody
/// else says. `None` when it is not there.
pub(super) fn first_process(config: &RuntimeConfig, task: TaskId) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct State {
        init_process_pid: u32,
    }
    let text = fs::read(runc_dir(config, task).join("state.json")).ok()?;
    let pid = serde_json::from_slice::<State>(&text).ok()?.init_process_pid;
    Path::new("/proc").join(pid.to_string()).exists().then_some(pid)
}

/// [`sweep`], when there is a sign that something was left.
pub(super) fn sweep_if_any(config: &RuntimeConfig, task: TaskId) -> io::Result<()> {
    let cgroup = config.cgroup(task);
    if runc_dir(config, task).exists()
        || !cgroup_dirs(&cgroup).is_empty()
        || shim_socket(config, task.as_str()).exists()
    {
        sweep(config, task)?;
    }
    Ok(())
}

/// Removes whatever a task left beside containerd's records: processes, shim, mounts, runc's
/// state, the shim's socket, cgroups. Nothing there is no error.
pub(super) fn sweep(config: &RuntimeConfig, task: TaskId) -> io::Result<()> {
    // The process first: a shim that still lives sees it end and reports it.
    remove_cgroup(&config.cgroup(task))?;
    let socket = shim_socket(config, task.as_str());
    if socket.exists() {
        let shims = shims(config, Some(task));
        // One whose work is done leaves by itself, a moment after its answer.
        let deadline = Instant::now() + Duration::from_millis(500);
        while shims.iter().any(|s| s.lives()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        for shim in &shims {
            shim.signal(Signal::SIGKILL);
        }
        let _ = fs::remove_file(&socket);
    }
    let bundle = format!("/io.containerd.runtime.v2.task/{}/{task}/", config.namespace);
    unmount(&mount_points(|p| p.contains(&bundle)));
    remove_dir(&runc_dir(config, task))
}

/// Removes a directory that a lost creation left in containerd's state and that `why`, an error of
/// containerd, names. Without `stale` only what can not be in use any more goes. Says whether
/// there is reason to try again.
pub(super) fn sweep_bundle(config: &RuntimeConfig, task: TaskId, why: &str, stale: bool) -> io::Result<bool> {
    let end = format!("/io.containerd.runtime.v2.task/{}/{task}", config.namespace);
    let named = why.split_whitespace().map(|w| w.trim_end_matches(':')).find(|w| w.ends_with(&end));
    let Some(bundle) = named.filter(|_| stale) else { return Ok(!stale) };
    sweep(config, task)?;
    remove_dir(Path::new(bundle))?;
    Ok(true)
}
