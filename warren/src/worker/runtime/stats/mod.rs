//! What a task's container uses: numbers of its control groups and of its network namespace.

mod parse;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use self::parse::Hierarchies;
use super::{Containerd, RuntimeConfig};
use crate::model::TaskId;

/// What a container used up to a moment, or uses at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Nanoseconds of processors, since its start.
    pub cpu_ns: u64,
    /// Bytes, without what the kernel could drop at once.
    pub memory: u64,
    /// Its limit, or the node's memory.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes received by its network devices other than loopback, as it counts them; 0 in the
    /// node's own network.
    pub received: u64,
    /// The same, sent.
    pub sent: u64,
    /// Bytes read from block devices.
    pub read: u64,
    /// The same, written.
    pub written: u64,
}

impl Containerd {
    /// What tasks' containers use, given with their first processes; without those that have no
    /// control group here.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub async fn usage(&self, tasks: Vec<(TaskId, u32)>) -> io::Result<Vec<(TaskId, Usage)>> {
        let config = self.config.clone();
        let look = move || {
            let usages = Usages::new()?;
            let of = |(task, pid)| Some((task, usages.of(&config, task, pid)?));
            Ok(tasks.into_iter().filter_map(of).collect())
        };
        tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
    }
}

/// Reads what containers use. Made anew for each round, it finds hierarchies that were mounted
/// meanwhile.
#[derive(Debug)]
struct Usages {
    hierarchies: Hierarchies,
    node_memory: u64,
}

impl Usages {
    /// Finds where the control groups are.
    fn new() -> io::Result<Self> {
        Ok(Self {
            hierarchies: parse::hierarchies(&fs::read_to_string("/proc/self/mounts")?),
            node_memory: parse::total_memory(&fs::read_to_string("/proc/meminfo")?),
        })
    }

    /// What a task's container uses; `None` when it has no control group. `pid` is its first
    /// process.
    fn of(&self, config: &RuntimeConfig, task: TaskId, pid: u32) -> Option<Usage> {
        let cgroup = config.cgroup(task);
        let mut usage = self.of_cgroup(&cgroup)?;
        (usage.received, usage.sent) = network(pid, task).unwrap_or_default();
        Some(usage)
    }

    fn of_cgroup(&self, cgroup: &str) -> Option<Usage> {
        let mut files = Files { hierarchies: &self.hierarchies, cgroup, texts: BTreeMap::new() };
        let memory = match files.v1("memory", "memory.usage_in_bytes") {
            Some(used) => {
                let limit = files.v1("memory", "memory.limit_in_bytes");
                let stat = files.v1("memory", "memory.stat");
                parse::memory_v1(&used, limit.as_deref(), stat.as_deref())
            }
            None => {
                let used = files.v2("memory.current");
                let (limit, stat) = (files.v2("memory.max"), files.v2("memory.stat"));
                used.and_then(|used| parse::memory_v2(&used, limit.as_deref(), stat.as_deref()))
            }
        };
        let cpu = match files.v1("cpuacct", "cpuacct.usage") {
            Some(text) => parse::number(&text),
            None => files.v2("cpu.stat").and_then(|t| parse::cpu_v2(&t)),
        };
        let pids = files.v1("pids", "pids.current").or_else(|| files.v2("pids.current"));
        let blocks = match files.v1("blkio", "blkio.throttle.io_service_bytes_recursive") {
            Some(text) => parse::blocks_v1(&text),
            None => files.v2("io.stat").map(|t| parse::blocks_v2(&t)).unwrap_or_default(),
        };
        if cpu.is_none() && memory.is_none() && pids.is_none() {
            return None;
        }
        let (memory, limit) = memory.unwrap_or_default();
        Some(Usage {
            cpu_ns: cpu.unwrap_or_default(),
            memory,
            memory_limit: limit.unwrap_or(u64::MAX).min(self.node_memory),
            pids: pids.and_then(|t| parse::number(&t)).unwrap_or_default(),
            read: blocks.0,
            written: blocks.1,
            ..Usage::default()
        })
    }
}

/// The files of one control group.
struct Files<'a> {
    hierarchies: &'a Hierarchies,
    cgroup: &'a str,
    texts: BTreeMap<PathBuf, Option<String>>,
}

impl Files<'_> {
    /// A file where version 1 has this controller.
    fn v1(&mut self, controller: &str, file: &str) -> Option<String> {
        let root = self.hierarchies.v1.get(controller)?.clone();
        self.read(&root, file)
    }

    fn v2(&mut self, file: &str) -> Option<String> {
        let root = self.hierarchies.v2.clone()?;
        self.read(&root, file)
    }

    fn read(&mut self, root: &Path, file: &str) -> Option<String> {
        let path = root.join(self.cgroup.trim_start_matches('/')).join(file);
        self.texts.entry(path).or_insert_with_key(|p| fs::read_to_string(p).ok()).clone()
    }
}

/// Bytes received and sent in the network namespace of a process that is the task's.
fn network(pid: u32, task: TaskId) -> Option<(u64, u64)> {
    let file = |name: &str| format!("/proc/{pid}/{name}");
    // The number may be another's by now.
    fs::read_to_string(file("cgroup")).ok()?.contains(task.as_str()).then_some(())?;
    let theirs = fs::read_link(file("ns/net")).ok()?;
    if theirs == fs::read_link("/proc/self/ns/net").ok()? {
        return None;
    }
    Some(parse::network(&fs::read_to_string(file("net/dev")).ok()?))
}

/// The share of one processor, in percent, that was used between two looks.
#[must_use]
pub fn cpu_percent(before_ns: u64, now_ns: u64, passed: std::time::Duration) -> f64 {
    if passed.is_zero() {
        return 0.0;
    }
    now_ns.saturating_sub(before_ns) as f64 / passed.as_nanos() as f64 * 100.0
}
