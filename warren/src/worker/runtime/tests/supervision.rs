use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::fixture::{TestNode, again, eventually, program, removed};
use crate::worker::{
    executor::{ContainerState, Exit, Runtime},
    runtime::{Ends, Supervisor, remains, reset, supervisor::Probe},
};

fn resident(pid: i32) -> u64 {
    let process = procfs::process::Process::new(pid).unwrap();
    process.statm().unwrap().resident * procfs::page_size() / 1024
}

fn kill_9(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn containers_and_waits_outlive_containerd() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, pid) = node.run(1, &["trap"]).await;
    let (other, _) = node.run(2, &["trap"]).await;
    let waits = [task.id, other.id].map(|id| {
        let c = c.clone();
        tokio::spawn(async move { c.wait(id).await })
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    println!(
        "resident: containerd {} KiB, shim {} KiB",
        resident(node.containerd_pid()),
        resident(remains::shims(&node.config, Some(task.id))[0].pid)
    );
    for _ in 0..2 {
        let killed = node.containerd_pid();
        kill_9(killed);
        eventually("there is another containerd", async || {
            node.own.running().first().is_some_and(|p| p.pid != killed) && c.list().await.is_ok()
        })
        .await;
        assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }));
        assert_eq!(c.start(task.id).await.unwrap(), pid);
    }
    // One ends while nobody looks.
    kill_9(node.containerd_pid());
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
    let [first, second] = waits;
    assert_eq!(first.await.unwrap().unwrap(), Exit::with(7));
    assert!(!second.is_finished());
    eventually("signals get through", async || c.kill(other.id, libc::SIGKILL).await.is_ok()).await;
    assert_eq!(second.await.unwrap().unwrap(), Exit::with(137));
    c.remove(task.id).await.unwrap();
    c.remove(other.id).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

/// The agent and containerd are both away when containers end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn ends_that_nobody_was_there_to_see_are_known_to_the_next_agent() {
    let mut node = TestNode::with_image().await;
    let mut tasks = Vec::new();
    for number in 1..=3 {
        let (task, pid) = node.run(number, &["trap"]).await;
        tasks.push((task, Pid::from_raw(i32::try_from(pid).unwrap())));
    }
    let [(asked, ended), (shot, killed), (other, _)] = tasks.try_into().unwrap();
    drop(node.supervisor.take());
    let containerd = node.containerd_pid();
    kill_9(containerd);
    eventually("containerd is away", async || node.own.running().is_empty()).await;
    kill(ended, Signal::SIGTERM).unwrap();
    kill(killed, Signal::SIGKILL).unwrap();
    eventually("they have ended", async || {
        [ended, killed].iter().all(|p| remains::ProcessName::of(p.as_raw()).is_none())
    })
    .await;
    let ends = Ends::watch(&node.config).await;
    node.supervisor = Some(Supervisor::start(node.own.clone()).await.unwrap());
    ends.containerd_is_up().await;
    for (task, code) in [(&asked, 7), (&shot, 137)] {
        assert_eq!(node.state(task).await, Some(ContainerState::Stopped(Exit::with(code))));
        assert_eq!(node.containerd.wait(task.id).await.unwrap(), Exit::with(code));
        assert!(node.containerd.start(task.id).await.is_err(), "it is not started again");
    }
    assert!(matches!(node.state(&other).await, Some(ContainerState::Running { .. })));
    for task in [asked, shot, other] {
        node.containerd.remove(task.id).await.unwrap();
    }
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

/// containerd is killed at any moment of a call; the call says "later" or succeeds, and the same
/// call completes it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn calls_survive_containerd_being_killed_under_them() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    for step in 0..6u32 {
        let task = program(u128::from(step), &["trap"]);
        let (pid, after) = (node.containerd_pid(), Duration::from_millis(u64::from(step) * 25));
        let killer = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            kill_9(pid);
        });
        again("prepare", async || c.prepare(&task, &node.network).await).await;
        killer.await.unwrap();
        let running = again("start", async || {
            c.prepare(&task, &node.network).await?;
            c.start(task.id).await
        })
        .await;
        assert_eq!(
            again("list", async || c.list().await).await,
            [(task.id, ContainerState::Running { pid: running })]
        );
        eventually("containerd runs", async || node.own.running().len() == 1).await;
        let pid = node.containerd_pid();
        let killer = tokio::spawn(async move {
            tokio::time::sleep(after / 2).await;
            kill_9(pid);
        });
        again("remove", async || c.remove(task.id).await).await;
        killer.await.unwrap();
        removed(&node, &task).await;
        eventually("containerd runs", async || node.own.running().len() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn the_next_agent_adopts_containerd() {
    let mut node = TestNode::with_image().await;
    let (task, pid) = node.run(1, &["trap"]).await;
    let containerd = node.containerd_pid();
    let session = procfs::process::Process::new(containerd).unwrap().stat().unwrap().session;
    assert_eq!(session, containerd, "it has a session of its own");
    drop(node.supervisor.take());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let supervisor = Supervisor::start(node.own.clone()).await.unwrap();
    assert_eq!(*supervisor.pid().borrow(), u32::try_from(containerd).ok());
    assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }));
    // An adopted one is watched as well as an own child.
    let mut pids = supervisor.pid();
    kill_9(containerd);
    pids.changed().await.unwrap();
    assert_eq!(*pids.borrow_and_update(), None);
    pids.changed().await.unwrap();
    assert_ne!(*pids.borrow(), u32::try_from(containerd).ok());
    eventually("it answers", async || node.containerd.list().await.is_ok()).await;
    assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }));
    // One that hangs can not be adopted and is replaced.
    drop(supervisor);
    let hung = node.containerd_pid();
    kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
    let supervisor = Supervisor::start(node.own.clone()).await.unwrap();
    assert_ne!(*supervisor.pid().borrow(), u32::try_from(hung).ok());
    assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }));
    node.supervisor = Some(supervisor);
}

/// One that stops answering while the agent runs is replaced; a short pause is none.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_containerd_that_hangs_is_replaced() {
    let mut node = TestNode::with_image().await;
    let (task, pid) = node.run(1, &["trap"]).await;
    let hung = node.containerd_pid();
    drop(node.supervisor.take());
    let (every, answer) = (Duration::from_millis(200), Duration::from_millis(500));
    let probe = Probe { every, answer, misses: 3 };
    let supervisor = Supervisor::start_probing(node.own.clone(), probe).await.unwrap();
    let mut pids = supervisor.pid();
    tokio::time::sleep(every * 3).await;
    kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
    tokio::time::sleep(answer * 2).await;
    kill(Pid::from_raw(hung), Signal::SIGCONT).unwrap();
    tokio::time::sleep(every * 3).await;
    assert!(!pids.has_changed().unwrap(), "it only paused");
    kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
    let another = pids.wait_for(|p| p.is_some_and(|p| i32::try_from(p) != Ok(hung)));
    tokio::time::timeout(Duration::from_secs(20), another).await.unwrap().unwrap();
    eventually("it answers", async || node.containerd.list().await.is_ok()).await;
    assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }));
    node.supervisor = Some(supervisor);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_reset_leaves_nothing() {
    let mut node = TestNode::with_image().await;
    node.run(1, &["sleep"]).await;
    node.containerd.prepare(&program(2, &["sleep"]), &node.network).await.unwrap();
    drop(node.supervisor.take());
    reset(&node.config, Some(&node.own)).await.unwrap();
    assert_eq!(node.kernel_leftovers(true), [] as [String; 0]);
    let mut left: Vec<_> = Vec::new();
    for dir in ["run", "data"] {
        left.extend(fs::read_dir(node.dir.join(dir)).unwrap().map(|e| e.unwrap().path()));
    }
    left.retain(|p| !p.ends_with("tasks"));
    assert_eq!(left, [] as [std::path::PathBuf; 0]);
    reset(&node.config, Some(&node.own)).await.unwrap();
}

/// A containerd that is not the node's keeps nothing of it, and all that is another's.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_reset_within_a_foreign_containerd_takes_only_its_own() {
    let node = TestNode::with_image().await;
    let (task, pid) = node.run(1, &["sleep"]).await;
    let mut guest = node.config.clone();
    guest.node = crate::model::NodeId::from_random(u128::from(std::process::id()) << 64 | 99);
    let dir = node.dir.join("guest");
    let guest = crate::worker::runtime::RuntimeConfig::new(
        guest.node,
        guest.socket.clone(),
        dir.join("run"),
        dir.join("data"),
    );
    let other = crate::worker::runtime::Containerd::new(guest.clone());
    other.images().import(&super::fixture::test_image().oci()[..], None).await.unwrap();
    other.prepare(&task, &node.network).await.unwrap();
    other.start(task.id).await.unwrap();
    reset(&guest, None).await.unwrap();
    assert_eq!(other.list().await.unwrap(), []);
    assert_eq!(other.images().list().await.unwrap(), []);
    assert_eq!(remains::cgroup_dirs(&guest.cgroup_parent), [] as [std::path::PathBuf; 0]);
    assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }));
    assert_eq!(node.containerd.images().list().await.unwrap().len(), 1);
}
