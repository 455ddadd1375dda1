//! What a container may use, and how much of its output is kept.

use crate::model::{LogLimits, TaskSpec, parse};

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct Limits {
    /// Most processors, such as 0.5; 0 for no limit.
    #[arg(long, visible_alias = "limit-cpu", value_name = "N", value_parser = parse::cpus)]
    cpus: Option<u64>,
    /// Most memory, such as 512m; 0 for no limit.
    #[arg(short, long, visible_alias = "limit-memory", value_name = "SIZE", value_parser = parse::size)]
    memory: Option<u64>,
    /// Memory that is left to it when memory gets short; 0 for none.
    #[arg(long, visible_alias = "reserve-memory", value_name = "SIZE", value_parser = parse::size)]
    memory_reservation: Option<u64>,
    /// Most memory and swap together; -1 for as much swap as there is, 0 for twice the memory.
    #[arg(long, value_name = "SIZE", value_parser = parse::swap, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Most processes and threads; 0 or -1 for no limit.
    #[arg(long, visible_alias = "limit-pids", value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pids_limit: Option<i64>,
    /// Who is killed first when memory runs out: -1000 (last) to 1000.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
    /// Size of /dev/shm; 0 for the default, 64m.
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    shm_size: Option<u64>,
}

impl Limits {
    pub(super) fn apply(&self, task: &mut TaskSpec) {
        let unless_zero = |n: u64| (n != 0).then_some(n);
        let r = &mut task.resources;
        if let Some(cpus) = self.cpus {
            r.nano_cpus = unless_zero(cpus);
        }
        if let Some(memory) = self.memory {
            r.memory = unless_zero(memory);
        }
        if let Some(memory) = self.memory_reservation {
            r.memory_reservation = unless_zero(memory);
        }
        if let Some(swap) = self.memory_swap {
            r.memory_swap = (swap != 0).then_some(swap);
        }
        if let Some(pids) = self.pids_limit {
            r.pids = u64::try_from(pids).ok().and_then(unless_zero);
        }
        if let Some(score) = self.oom_score_adj {
            r.oom_score_adj = Some(score);
        }
        if let Some(size) = self.shm_size {
            task.shm_size = unless_zero(size);
        }
    }
}

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Log")]
pub(super) struct Log {
    /// Size of one file of the container's output.
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    log_max_size: Option<u64>,
    /// Files of the container's output that are kept.
    #[arg(long, value_name = "N")]
    log_max_file: Option<u32>,
}

impl Log {
    pub(super) fn apply(&self, log: &mut LogLimits) {
        log.max_size = self.log_max_size.unwrap_or(log.max_size);
        log.max_files = self.log_max_file.unwrap_or(log.max_files);
    }
}
