//! What a container may use.

use super::{Invalid, no};
use crate::model::{LogLimits, Resources, TaskSpec};

/// Docker's least memory: less does not hold the runtime's own start.
const MIN_MEMORY: u64 = 6 << 20;
/// The kernel's least quota: 1 ms of a period of 100 ms.
const MIN_NANO_CPUS: u64 = 10_000_000;
/// A file that holds less than one page would be rotated at every line.
const MIN_LOG_SIZE: u64 = 4 << 10;
const MAX_LOG_FILES: u32 = 1000;

/// What setrlimit(2) knows, as Docker spells it.
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

pub(super) fn task(task: &TaskSpec) -> Result<(), Invalid> {
    resources(&task.resources)?;
    for (i, u) in task.ulimits.iter().enumerate() {
        let name = u.name.as_str();
        if !ULIMITS.contains(&name) {
            return no(format!("bad name \"{name}\" in --ulimit: there are {}", ULIMITS.join(", ")));
        }
        if u.soft > u.hard {
            return no(format!("bad --ulimit {name}: the soft limit is above the hard one"));
        }
        if task.ulimits[..i].iter().any(|v| v.name == u.name) {
            return no(format!("--ulimit {name} is given twice: leave one away"));
        }
    }
    if task.shm_size == Some(0) {
        return no("bad --shm-size: write more than 0 or leave it away");
    }
    log(&task.log)
}

fn resources(r: &Resources) -> Result<(), Invalid> {
    if r.nano_cpus.is_some_and(|n| n < MIN_NANO_CPUS) {
        return no("bad --cpus: a container needs at least 0.01 of a processor");
    }
    for (flag, bytes) in [("--memory", r.memory), ("--memory-reservation", r.memory_reservation)] {
        if bytes.is_some_and(|b| b < MIN_MEMORY) {
            return no(format!("bad {flag}: a container needs at least 6m"));
        }
    }
    if let (Some(memory), Some(reserved)) = (r.memory, r.memory_reservation)
        && reserved > memory
    {
        return no("--memory-reservation is more than --memory: it must not be");
    }
    if let Some(swap) = r.memory_swap {
        let Some(memory) = r.memory else {
            return no("--memory-swap is memory and swap together: it needs --memory");
        };
        match u64::try_from(swap) {
            Ok(both) if both < memory => {
                return no("--memory-swap is memory and swap together: it must not be less than --memory");
            }
            Err(_) if swap != -1 => {
                return no("bad --memory-swap: write a size, or -1 for as much swap as there is");
            }
            _ => {}
        }
    }
    if r.pids == Some(0) {
        return no("bad --pids-limit: a container needs at least one process");
    }
    if r.oom_score_adj.is_some_and(|n| !(-1000..=1000).contains(&n)) {
        return no("bad --oom-score-adj: it is from -1000 to 1000");
    }
    Ok(())
}

fn log(log: &LogLimits) -> Result<(), Invalid> {
    if log.max_size < MIN_LOG_SIZE {
        return no("bad --log-max-size: a file of a log has at least 4k");
    }
    if log.max_files == 0 || log.max_files > MAX_LOG_FILES {
        return no(format!("bad --log-max-file: a log has 1 to {MAX_LOG_FILES} files"));
    }
    Ok(())
}
