//! A look into running containers: programs in them, their files, what they use, their ports.

#[path = "exec/copies.rs"]
mod copies;
#[path = "exec/deaths.rs"]
mod deaths;
#[path = "exec/forwards.rs"]
mod forwards;
#[path = "exec/programs.rs"]
mod programs;
#[path = "exec/terminals.rs"]
mod terminals;
#[path = "exec/usage.rs"]
mod usage;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use warren_tests::{Node, process, scenario::OneNode};

const SOON: Duration = Duration::from_secs(20);

/// A node with a running service `web`: its only task.
fn site() -> Result<(OneNode, Task)> {
    let site = OneNode::new()?;
    site.create("web", &[], &[])?;
    let task = Task::of(&site.node, "web")?;
    Ok((site, task))
}

/// A running task.
struct Task {
    id: String,
    pid: i64,
}

impl Task {
    fn of(node: &Node, service: &str) -> Result<Self> {
        let (id, pid) = node.running(service)?.into_iter().next().context("no running task")?;
        Ok(Self { id, pid })
    }

    /// Its root directory, as the host reaches it.
    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// Words of its processes besides its own.
    fn others(&self) -> Vec<String> {
        let all = process::all().into_iter();
        let inside = all.filter(|p| p.cgroups.contains(&self.id) && i64::from(p.pid) != self.pid);
        inside.map(|p| p.words).collect()
    }

    /// Whether a process of these words, besides its own, is ready for SIGTERM.
    fn catches_term(&self, words: &str) -> bool {
        let all = process::all().into_iter();
        let mut inside =
            all.filter(|p| p.cgroups.contains(&self.id) && i64::from(p.pid) != self.pid && p.words == words);
        let caught = |pid: i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let mask = status.lines().find_map(|l| l.strip_prefix("SigCgt:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        };
        // proc(5): bit n - 1 is signal n.
        inside.any(|p| caught(p.pid).is_some_and(|mask| mask & (1 << 14) != 0))
    }
}

/// `warren` with these words, running beside the test.
fn start(node: &Node, words: &[&str], stdin: Stdio) -> Result<Child> {
    let mut c = node.command()?;
    c.args(words).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    c.spawn().context("warren starts")
}

/// What the node has for programs it runs in containers.
fn exec_directories(node: &Node) -> Result<Vec<PathBuf>> {
    let dir = Path::new("/run/warren").join(node.id()?).join("exec");
    Ok(fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect())
}

/// Bytes that do not repeat soon.
fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut all = Vec::with_capacity(count + 8);
    while all.len() < count {
        all.extend(next());
    }
    all.truncate(count);
    all
}
