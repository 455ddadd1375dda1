//! Limits hold, and ends for lack of memory are named.

use std::{fs, path::PathBuf};

use super::{
    fixture::{TestNode, exit, removed},
    look::{Looked, looking, run},
};
use crate::worker::{
    executor::{ContainerState, Exit, Runtime},
    runtime::{Containerd, remains},
};

const MIB: u64 = 1 << 20;

/// The value of the first of these files that a container's cgroup has.
fn kept(node: &TestNode, looked: &Looked, files: &[&str]) -> String {
    let dirs = remains::cgroup_dirs(&node.config.cgroup(looked.task.id));
    let paths: Vec<PathBuf> = dirs.iter().flat_map(|d| files.iter().map(move |f| d.join(f))).collect();
    let found = paths.iter().find_map(|p| fs::read_to_string(p).ok());
    found.unwrap_or_else(|| panic!("none of {paths:?}")).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn limits_are_kept_by_the_kernel() {
    let node = TestNode::with_image().await;
    let task = looking(
        &node,
        1,
        |s| {
            s.resources.memory = Some(64 * MIB);
            s.resources.memory_swap = Some(96 << 20);
            s.resources.memory_reservation = Some(32 * MIB);
            s.resources.nano_cpus = Some(250_000_000);
            s.resources.pids = Some(20);
        },
        &["fork"],
    );
    let seen = run(&node, 1, task).await;
    let forked: u32 = seen.at("fork").parse().unwrap();
    assert!((10..20).contains(&forked), "{forked} children beside the first process and its threads");
    let kept = |files: &[&str]| kept(&node, &seen, files);
    assert_eq!(kept(&["memory.limit_in_bytes", "memory.max"]), (64 * MIB).to_string());
    assert_eq!(kept(&["memory.soft_limit_in_bytes", "memory.low"]), (32 * MIB).to_string());
    let swap = kept(&["memory.memsw.limit_in_bytes", "memory.swap.max"]);
    // Version 2 counts swap alone.
    assert!([96 * MIB, 32 * MIB].map(|n| n.to_string()).contains(&swap), "{swap}");
    assert!(["25000", "25000 100000"].contains(&kept(&["cpu.cfs_quota_us", "cpu.max"]).as_str()));
    assert_eq!(kept(&["pids.max"]), "20");
    removed(&node, &seen.task).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn an_end_for_lack_of_memory_is_named() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let limited = |s: &mut crate::model::TaskSpec| {
        s.resources.memory = Some(24 * MIB);
        s.resources.memory_swap = Some(24 << 20);
    };
    // The first process itself.
    let change = |s: &mut crate::model::TaskSpec| {
        limited(s);
        s.args = vec!["eat".to_owned(), (200 * MIB).to_string()];
    };
    let task = looking(&node, 1, change, &[]);
    c.prepare(&task, &node.network).await.unwrap();
    c.start(task.id).await.unwrap();
    let killed = Exit { code: 137, oom_killed: true };
    assert_eq!(exit(c, &task).await, killed);
    // An agent that starts again sees the same.
    let again = Containerd::new(node.config.clone());
    assert_eq!(again.list().await.unwrap(), [(task.id, ContainerState::Stopped(killed))]);
    assert_eq!(exit(&again, &task).await, killed);
    removed(&node, &task).await;

    // A child of it: the container goes on.
    let what = format!("starve:{}", 200 * MIB);
    let seen = run(&node, 2, looking(&node, 2, limited, &[&what])).await;
    assert!(seen.at(&what).contains("signal: 9"), "{}", seen.at(&what));
    c.kill(seen.task.id, libc::SIGKILL).await.unwrap();
    assert_eq!(exit(c, &seen.task).await, killed);
    removed(&node, &seen.task).await;

    // Killed by somebody: memory had no part in it.
    let seen = run(&node, 3, looking(&node, 3, limited, &["cwd"])).await;
    c.kill(seen.task.id, libc::SIGKILL).await.unwrap();
    assert_eq!(exit(c, &seen.task).await, Exit::with(137));
    removed(&node, &seen.task).await;
}
