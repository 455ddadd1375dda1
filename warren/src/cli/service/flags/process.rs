//! The process, its place, and what happens when it ends.

use std::{path::PathBuf, time::Duration};

use super::{Reset, Words, stop_signal};
use crate::model::{NetworkMode, PullPolicy, RestartCondition, RestartPolicy, TaskSpec, parse};

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Process")]
pub(super) struct Process {
    /// When to ask a registry for the image: always, missing or never.
    #[arg(long, value_name = "WHEN")]
    pull: Option<PullPolicy>,
    /// Replace the image's entrypoint; words as a shell splits them; "" clears it.
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<Words>,
    /// Replace the image's command: one word each time, in this order.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// Where the process starts; "" for the image's choice.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<Reset<PathBuf>>,
    /// Whose process it is, names or numbers; "" for the image's choice.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<Reset<String>>,
    /// The container's host name; "" for the service's name and the task's slot.
    #[arg(long, value_name = "NAME")]
    hostname: Option<Reset<String>>,
    /// What the container is joined to: cluster, host or none.
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkMode>,
    /// Run a small init as the first process: it reaps orphans and passes signals on.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init: Option<bool>,
    /// Give the process a terminal.
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: Option<bool>,
    /// The signal that asks it to stop, by name or number; "" for the image's choice.
    #[arg(long, value_name = "SIGNAL", value_parser = stop_signal)]
    stop_signal: Option<Reset<i32>>,
    /// How long it may take to stop before it is killed; a bare number is in seconds.
    #[arg(long, visible_alias = "stop-grace-period", value_name = "DURATION", value_parser = parse::seconds)]
    stop_timeout: Option<Duration>,
}

impl Process {
    pub(super) fn apply(&self, task: &mut TaskSpec) {
        if let Some(pull) = self.pull {
            task.pull = pull;
        }
        if let Some(Words(words)) = &self.entrypoint {
            task.entrypoint = Some(words.clone());
        }
        if !self.arg.is_empty() {
            task.args.clone_from(&self.arg);
        }
        if let Some(Reset(dir)) = &self.workdir {
            task.workdir.clone_from(dir);
        }
        if let Some(Reset(user)) = &self.user {
            task.user.clone_from(user);
        }
        if let Some(Reset(name)) = &self.hostname {
            task.hostname.clone_from(name);
        }
        if let Some(network) = self.network {
            task.network = network;
        }
        task.init = self.init.unwrap_or(task.init);
        task.tty = self.tty.unwrap_or(task.tty);
        if let Some(Reset(signal)) = self.stop_signal {
            task.stop_signal = signal;
        }
        if let Some(grace) = self.stop_timeout {
            task.stop_grace = grace;
        }
    }
}

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Restart")]
pub(super) struct Restart {
    /// Which ended tasks are replaced: none, on-failure or any.
    #[arg(long, value_name = "CONDITION")]
    restart_condition: Option<RestartCondition>,
    /// How long the first replacement waits; the wait doubles for each task that ended early.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    restart_delay: Option<Duration>,
    /// Replacements of one task within the window, after which it is given up; 0 for no limit.
    #[arg(long, value_name = "N")]
    restart_max_attempts: Option<u32>,
    /// How far back replacements are counted; 0 counts all of them.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    restart_window: Option<Duration>,
}

impl Restart {
    pub(super) fn apply(&self, policy: &mut RestartPolicy) {
        policy.condition = self.restart_condition.unwrap_or(policy.condition);
        policy.delay = self.restart_delay.unwrap_or(policy.delay);
        policy.max_attempts = self.restart_max_attempts.unwrap_or(policy.max_attempts);
        policy.window = self.restart_window.unwrap_or(policy.window);
    }
}
