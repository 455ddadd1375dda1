//! Signals to a program in a container and to what it has started.
//!
//! runc makes each program the leader of a session. Only processes in the container's cgroup are
//! looked at, so that a reused number never leads out of the container.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    model::TaskId,
    worker::runtime::{RuntimeConfig, remains},
};

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// The leader's process group.
    Group,
    /// All of its session.
    Session,
}

/// Sends a signal to those of `leader`'s that are in the task's cgroup.
pub(super) async fn signal(config: &RuntimeConfig, task: TaskId, leader: i32, whom: Whom, signal: Signal) {
    let cgroup = config.cgroup(task);
    let work = move || {
        // A process that forks while it is looked at has a child that is found the next time.
        for _ in 0..4 {
            let found = members(&cgroup, leader, whom);
            for &pid in &found {
                let _ = kill(Pid::from_raw(pid), signal);
            }
            if signal != Signal::SIGKILL || found.is_empty() {
                return;
            }
        }
    };
    let _ = tokio::task::spawn_blocking(work).await;
}

fn members(cgroup: &str, leader: i32, whom: Whom) -> Vec<i32> {
    let mut found: Vec<i32> = remains::cgroup_tree(cgroup)
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|procs| procs.lines().filter_map(|l| l.parse::<i32>().ok()).collect::<Vec<_>>())
        .filter(|&pid| pid > 1)
        .collect();
    found.sort_unstable();
    found.dedup();
    found.retain(|&pid| {
        let stat = procfs::process::Process::new(pid).and_then(|p| p.stat());
        stat.is_ok_and(|s| {
            !matches!(s.state, 'Z' | 'X')
                && match whom {
                    Whom::Group => s.pgrp == leader,
                    Whom::Session => s.session == leader,
                }
        })
    });
    found
}
