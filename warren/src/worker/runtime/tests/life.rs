use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::fixture::{TestNode, again, eventually, exit, program, removed, trapping};
use crate::{
    model::Attachment,
    worker::{
        executor::{ContainerState, Exit, Runtime, RuntimeError},
        runtime::remains,
    },
};

fn proc_file(pid: u32, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned()
}

fn status(pid: u32, field: &str) -> String {
    let status = proc_file(pid, "status");
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_container_lives_as_its_image_and_service_say() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let mut task = program(1, &["trap"]);
    task.spec.env = vec![("FROM".to_owned(), "service".to_owned())];
    task.attachment = Some(Attachment {
        address: "10.9.8.7".parse().unwrap(),
        address6: "fd00::7".parse().unwrap(),
        backend: 1,
        generation: 1,
    });
    c.prepare(&task, &node.network).await.unwrap();
    c.prepare(&task, &node.network).await.unwrap();
    assert_eq!(c.list().await.unwrap(), [(task.id, ContainerState::Created)]);
    let pid = c.start(task.id).await.unwrap();
    assert_eq!(c.start(task.id).await.unwrap(), pid, "starting again changes nothing");
    c.prepare(&task, &node.network).await.unwrap();
    assert_eq!(c.list().await.unwrap(), [(task.id, ContainerState::Running { pid })]);

    eventually("the program runs", async || proc_file(pid, "cmdline") == "/bin/probe\0trap\0").await;
    let mut env: Vec<_> = proc_file(pid, "environ").split_terminator('\0').map(str::to_owned).collect();
    env.sort();
    assert_eq!(env, ["FROM=service", "HOME=/root", "HOSTNAME=test-1", "KEPT=yes", "PATH=/bin"]);
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/made/by/runc"));
    assert_eq!(status(pid, "CapEff"), "00000000a80425fb", "Docker's default set");
    assert_eq!(status(pid, "NoNewPrivs"), "0");
    assert!(proc_file(pid, "root/etc/hosts").contains("10.9.8.7\ttest-1\n"));
    assert_eq!(proc_file(pid, "root/etc/hostname"), "test-1\n");
    assert!(!proc_file(pid, "root/etc/resolv.conf").is_empty());
    assert!(proc_file(pid, "cgroup").contains(&format!("{}/{}", node.config.cgroup_parent, task.id)));
    let netns = |p: &str| fs::metadata(p).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
    assert_eq!(netns(&format!("/proc/{pid}/ns/net")), netns(node.network.path.to_str().unwrap()));
    let mounts = proc_file(pid, "mounts");
    for line in ["sysfs /sys sysfs ro,", "mqueue /dev/mqueue", "shm /dev/shm", "devpts /dev/pts"] {
        assert!(mounts.contains(line), "{line} is not in {mounts}");
    }
    for line in [" /sys/fs/cgroup", " /proc/keys ", " /proc/sys proc ro,"] {
        assert!(mounts.contains(line), "{line} is not in {mounts}");
    }

    trapping(pid).await;
    c.kill(task.id, libc::SIGTERM).await.unwrap();
    assert_eq!(exit(c, &task).await, Exit::with(7));
    assert_eq!(exit(c, &task).await, Exit::with(7), "waiting again changes nothing");
    assert_eq!(node.state(&task).await, Some(ContainerState::Stopped(Exit::with(7))));
    c.kill(task.id, libc::SIGTERM).await.unwrap();
    assert!(matches!(c.start(task.id).await, Err(RuntimeError::Fatal(_))), "it has ended");
    c.remove(task.id).await.unwrap();
    c.remove(task.id).await.unwrap();
    c.kill(task.id, libc::SIGKILL).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn exits_are_told_and_users_looked_up() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, _) = node.run(1, &["exit", "42"]).await;
    assert_eq!(exit(c, &task).await, Exit::with(42));
    let (task, pid) = node.run(2, &["sleep"]).await;
    let waiting = {
        let c = c.clone();
        tokio::spawn(async move { c.wait(task.id).await })
    };
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Exit::with(137));

    let web = super::fixture::test_image();
    let mut config = web.config.clone();
    config["User"] = "web".into();
    let mut web = web.config(config);
    web.name = Some("web:1".to_owned());
    c.images().import(&web.oci()[..], None).await.unwrap();
    let mut task = program(3, &["sleep"]);
    task.spec.image = "web:1".parse().unwrap();
    c.prepare(&task, &node.network).await.unwrap();
    let pid = c.start(task.id).await.unwrap();
    eventually("the program runs", async || proc_file(pid, "cmdline").starts_with("/bin/probe")).await;
    assert_eq!(status(pid, "Uid"), "101\t101\t101\t101");
    assert_eq!(status(pid, "Gid"), "102\t102\t102\t102");
    assert_eq!(status(pid, "Groups"), "102 200");
    assert_eq!(status(pid, "CapEff"), "0000000000000000");
    for n in 1..=3 {
        c.remove(program(n, &[]).id).await.unwrap();
    }
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn what_cannot_start_says_why() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    for (entrypoint, sentence) in [
        (
            "nope",
            "cannot start: \"nope\" is not in the image; name a program that is, as argument or with --entrypoint",
        ),
        (
            "/bin/nope",
            "cannot start: \"/bin/nope\" is not in the image; name a program that is, as argument or with --entrypoint",
        ),
        ("/etc/plain", "cannot start: \"/etc/plain\" is not executable; make it so in the image (chmod +x)"),
    ] {
        let mut task = program(1, &[]);
        task.spec.entrypoint = Some(vec![entrypoint.to_owned()]);
        let Err(RuntimeError::Fatal(said)) = c.prepare(&task, &node.network).await else {
            panic!("{entrypoint} was started")
        };
        assert_eq!(said, sentence);
        c.remove(task.id).await.unwrap();
        assert_eq!(node.leftovers().await, [] as [String; 0]);
    }
    let mut task = program(2, &[]);
    task.spec.image = "nothere:3".parse().unwrap();
    task.spec.pull = crate::model::PullPolicy::Never;
    let e = c.prepare(&task, &node.network).await.unwrap_err();
    assert_eq!(
        e.to_string(),
        "image nothere:3 is not on this node; bring it with `warren image pull` or `warren image import`, or let it be pulled (--pull missing)"
    );
    assert!(matches!(e, RuntimeError::Fatal(_)));
    assert!(matches!(c.start(task.id).await, Err(RuntimeError::Fatal(_))), "never prepared");
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

/// The agent dies at any moment of a call; the same call, later, completes it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_call_cut_off_anywhere_is_completed_by_the_same_call() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    for step in 0..24u64 {
        let cut = Duration::from_millis(if step < 12 { step } else { 12 + (step - 12) * 15 });
        let task = program(u128::from(step) + 1, &["trap"]);
        let _ = tokio::time::timeout(cut, c.prepare(&task, &node.network)).await;
        // One that would never be asked for again must be found.
        let listed = c.list().await.unwrap();
        if step % 4 == 3 {
            println!("cut after {cut:?}, listed {listed:?}");
            removed(&node, &task).await;
            continue;
        }
        again("prepare", async || c.prepare(&task, &node.network).await).await;
        let _ = tokio::time::timeout(cut / 4, c.start(task.id)).await;
        let pid = again("start", async || c.start(task.id).await).await;
        assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }));
        let _ = tokio::time::timeout(cut / 2, c.remove(task.id)).await;
        removed(&node, &task).await;
    }
}

/// Prepared, never started, and then the machine was restarted: no process, no shim, no cgroup.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_prepared_container_without_process_can_still_be_started() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let task = program(1, &["trap"]);
    c.prepare(&task, &node.network).await.unwrap();
    for shim in remains::shims(&node.config, Some(task.id)) {
        shim.signal(Signal::SIGKILL);
    }
    eventually("containerd has noticed", async || {
        node.state(&task).await == Some(ContainerState::Created)
            && remains::shims(&node.config, None).is_empty()
    })
    .await;
    eventually("it starts", async || c.start(task.id).await.is_ok()).await;
    assert!(matches!(node.state(&task).await, Some(ContainerState::Running { .. })));
    c.remove(task.id).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

/// The shim is killed: its container can not be watched any more and counts as ended.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_lost_shim_is_an_end_and_leaves_nothing() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, _) = node.run(1, &["sleep"]).await;
    let waiting = {
        let c = c.clone();
        tokio::spawn(async move { c.wait(task.id).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let shims = remains::shims(&node.config, Some(task.id));
    assert_eq!(shims.len(), 1);
    shims[0].signal(Signal::SIGKILL);
    // containerd may still tell that it was killed, or know nothing of it any more.
    let ends = [Exit::with(137), Exit::UNSEEN];
    assert!(ends.contains(&waiting.await.unwrap().unwrap()));
    eventually("it is listed as ended", async || {
        let state = node.state(&task).await;
        ends.iter().any(|e| state == Some(ContainerState::Stopped(*e)))
    })
    .await;
    assert!(matches!(c.start(task.id).await, Err(RuntimeError::Fatal(_))));
    c.remove(task.id).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn twenty_rounds_leave_nothing() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let before = node.snapshots();
    let (mut made, mut started) = (Vec::new(), Vec::new());
    for round in 0..20 {
        let task = program(round, &["trap"]);
        let at = std::time::Instant::now();
        c.prepare(&task, &node.network).await.unwrap();
        made.push(at.elapsed());
        let at = std::time::Instant::now();
        let pid = c.start(task.id).await.unwrap();
        started.push(at.elapsed());
        if round % 2 == 0 {
            trapping(pid).await;
            c.kill(task.id, libc::SIGTERM).await.unwrap();
            exit(c, &task).await;
        }
        c.remove(task.id).await.unwrap();
    }
    made.sort();
    started.sort();
    println!("prepare: median {:?}, start: median {:?}", made[10], started[10]);
    assert_eq!(node.leftovers().await, [] as [String; 0]);
    eventually("the layers of the tasks are gone from the disk", async || node.snapshots() == before).await;
}

/// Same image, same task ids, one kernel.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn two_nodes_do_not_touch_each_other() {
    let (a, b) = tokio::join!(TestNode::with_image(), TestNode::with_image());
    let ((task, pid_a), (_, pid_b)) = tokio::join!(a.run(1, &["trap"]), b.run(1, &["trap"]));
    assert_ne!(pid_a, pid_b);
    a.containerd.remove(task.id).await.unwrap();
    assert_eq!(a.leftovers().await, [] as [String; 0]);
    assert_eq!(b.state(&task).await, Some(ContainerState::Running { pid: pid_b }));
    let (_, pid_a) = a.run(1, &["trap"]).await;
    drop(b);
    assert_eq!(a.state(&task).await, Some(ContainerState::Running { pid: pid_a }));
    a.containerd.kill(task.id, libc::SIGTERM).await.unwrap();
    assert_eq!(exit(&a.containerd, &task).await, Exit::with(7));
}
