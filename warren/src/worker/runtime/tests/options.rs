//! What a service says of its process and of what it may do, seen from inside.

use std::fs;

use super::{
    fixture::{TestNode, eventually, exit, removed},
    look::{Looked, look, looking, refusal, run},
};
use crate::{
    model::{Device, NetworkMode, Seccomp, Ulimit},
    worker::{
        executor::{Exit, Runtime},
        runtime::testing::{TestFile, TestImage},
    },
};

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|&w| w.to_owned()).collect()
}

fn capabilities(looked: &Looked) -> u64 {
    u64::from_str_radix(looked.line("cat:/proc/self/status", "CapEff:"), 16).unwrap()
}

/// What this machine can give on.
fn own_capabilities() -> u64 {
    procfs::process::Process::myself().unwrap().status().unwrap().capbnd.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn the_process_is_as_the_service_says() {
    let node = TestNode::with_image().await;
    let seen = look(
        &node,
        1,
        |s| {
            s.workdir = Some("/made/for/it".into());
            s.user = Some("web:log".to_owned());
            s.groups = texts(&["web", "77"]);
            s.hostname = Some("box.example.org".to_owned());
            s.env = vec![("A".to_owned(), "b=c".to_owned())];
            s.names.hosts = vec![("db".to_owned(), "10.1.2.3".parse().unwrap())];
            s.names.dns = vec!["192.0.2.53".parse().unwrap()];
            s.names.dns_search = texts(&["a.example", "b.example"]);
            s.names.dns_options = texts(&["ndots:3"]);
            s.ulimits = vec![
                Ulimit { name: "nofile".to_owned(), soft: 100, hard: 200 },
                Ulimit { name: "core".to_owned(), soft: 0, hard: 0 },
            ];
            s.security.no_new_privileges = true;
            s.resources.oom_score_adj = Some(321);
            _ = s.labels.insert("com.example/team".to_owned(), "blue".to_owned());
        },
        &[
            "cwd",
            "cat:/proc/self/status",
            "cat:/proc/self/limits",
            "cat:/proc/self/oom_score_adj",
            "cat:/proc/sys/kernel/hostname",
            "cat:/etc/hostname",
            "cat:/etc/hosts",
            "cat:/etc/resolv.conf",
            "tty",
        ],
    )
    .await;
    assert_eq!(seen.at("cwd"), "/made/for/it");
    let status = |field| seen.line("cat:/proc/self/status", field);
    assert_eq!(status("Uid:"), "101\t101\t101\t101");
    assert_eq!(status("Gid:"), "200\t200\t200\t200");
    assert_eq!(status("Groups:"), "77 102 200");
    assert_eq!(status("CapEff:"), "0000000000000000");
    assert_eq!(status("NoNewPrivs:"), "1");
    assert_eq!(seen.at("cat:/proc/sys/kernel/hostname"), "box.example.org\n");
    assert_eq!(seen.at("cat:/etc/hostname"), "box.example.org\n");
    assert!(seen.at("cat:/etc/hosts").ends_with("10.1.2.3\tdb\n"));
    assert_eq!(seen.line("cat:/etc/resolv.conf", "nameserver"), "192.0.2.53");
    assert_eq!(seen.line("cat:/etc/resolv.conf", "search"), "a.example b.example");
    assert_eq!(seen.line("cat:/etc/resolv.conf", "options"), "ndots:3");
    let limit =
        |name| seen.line("cat:/proc/self/limits", name).split_whitespace().take(2).collect::<Vec<_>>();
    assert_eq!(limit("Max open files"), ["100", "200"]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(seen.at("cat:/proc/self/oom_score_adj"), "321\n");
    assert_eq!(seen.at("tty"), "false");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_terminal_an_init_and_labels_are_there_when_asked_for() {
    let node = TestNode::with_image().await;
    let terminal = look(&node, 1, |s| s.tty = true, &["tty", "cat:/proc/self/environ"]).await;
    assert_eq!(terminal.at("tty"), "true");
    assert!(terminal.at("cat:/proc/self/environ").contains("TERM=xterm "));

    let looks = ["cat:/proc/1/cmdline", "orphan", "ls:/sbin"];
    let without = look(&node, 2, |_| (), &looks).await;
    assert_eq!(without.at("orphan"), "Z", "nobody reaps");
    let with = run(&node, 3, looking(&node, 3, |s| s.init = true, &looks)).await;
    assert_eq!(with.at("orphan"), "gone");
    assert_eq!(with.at("ls:/sbin"), "docker-init");
    let first = fs::read_to_string(format!("/proc/{}/cmdline", with.pid)).unwrap();
    assert!(first.starts_with("/sbin/docker-init\0--\0/bin/probe\0look\0"), "{first:?}");
    // It passes signals on: the program has no handler, and ends.
    node.containerd.kill(with.task.id, libc::SIGTERM).await.unwrap();
    assert_eq!(exit(&node.containerd, &with.task).await, Exit::with(143));
    removed(&node, &with.task).await;

    let labelled = looking(&node, 4, |s| _ = s.labels.insert("warren.service".into(), "theirs".into()), &[]);
    node.containerd.prepare(&labelled, &node.network).await.unwrap();
    let record = std::process::Command::new("ctr")
        .args(["--address", node.config.socket.to_str().unwrap(), "--namespace", &node.config.namespace])
        .args(["containers", "info", labelled.id.as_str()])
        .output()
        .unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record.stdout).unwrap();
    assert_eq!(record["Labels"]["warren.service"], "test");
    assert_eq!(record["Labels"]["warren.label.warren.service"], "theirs");
    removed(&node, &labelled).await;
    let why = refusal(&node, 5, |s| _ = s.labels.insert("long".into(), "x".repeat(5000))).await;
    assert!(why.contains("--container-label long"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_container_is_stopped_with_its_own_signal() {
    let node = TestNode::with_image().await;
    let image = TestImage::new("docker.io/library/quits:1")
        .layer(&[TestFile::program("bin/probe", super::fixture::binary())])
        .config(serde_json::json!({ "Entrypoint": ["/bin/probe"], "StopSignal": "SIGQUIT" }));
    node.containerd.images().import(&image.oci()[..], None).await.unwrap();
    let quits = "quits:1".parse::<crate::model::ImageReference>().unwrap();
    for (number, image, signal, code) in [
        (1, None, Some(libc::SIGUSR1), 10),
        (2, Some(&quits), None, 3),
        (3, Some(&quits), Some(libc::SIGUSR1), 10),
    ] {
        let change = |s: &mut crate::model::TaskSpec| {
            s.args = texts(&["signals"]);
            s.stop_signal = signal;
            s.image = image.cloned().unwrap_or_else(|| s.image.clone());
        };
        let running = run(&node, number, looking(&node, number, change, &[])).await;
        node.containerd.stop(running.task.id).await.unwrap();
        assert_eq!(exit(&node.containerd, &running.task).await, Exit::with(code), "{number}");
        removed(&node, &running.task).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn what_a_container_may_do_is_dockers_default_and_what_its_service_says() {
    let node = TestNode::with_image().await;
    let looks = [
        "cat:/proc/self/status",
        "unshare",
        "keyctl",
        "write:/proc/sys/net/core/somaxconn=1",
        "stat:/proc/interrupts",
        "mkdir:/new",
        "mknod:/tty0 4 0",
        "write:/tty0=",
        "stat:/dev/mine",
        "write:/dev/mine=x",
        "cat:/proc/sys/net/core/somaxconn",
        "ls:/sys/firmware",
        "stat:/dev/kmsg",
    ];
    const EPERM: &str = "1";
    let plain = look(&node, 1, |_| (), &looks).await;
    assert_eq!(capabilities(&plain), 0xa804_25fb);
    assert_eq!(plain.line("cat:/proc/self/status", "Seccomp:"), "2");
    assert_eq!((plain.at("unshare"), plain.at("keyctl")), (EPERM, EPERM));
    assert_eq!(plain.at("write:/proc/sys/net/core/somaxconn=1"), libc::EROFS.to_string());
    // A character device: /dev/null is bound over it.
    assert!(plain.at("stat:/proc/interrupts").starts_with("20"), "{}", plain.at("stat:/proc/interrupts"));
    assert_eq!(plain.at("mkdir:/new"), "ok");
    assert_eq!(plain.at("mknod:/tty0 4 0"), "ok");
    assert_eq!(plain.at("write:/tty0="), EPERM, "a device that is not the container's");
    assert!(plain.at("stat:/dev/mine").starts_with("error"));
    assert!(plain.at("stat:/dev/kmsg").starts_with("error"));

    let changed = look(
        &node,
        2,
        |s| {
            s.security.cap_add = texts(&["NET_ADMIN"]);
            s.security.cap_drop = texts(&["CHOWN"]);
            s.security.unmasked_paths = true;
            s.security.devices = vec![Device {
                host: "/dev/null".into(),
                container: "/dev/mine".into(),
                access: "rw".to_owned(),
            }];
            _ = s.security.sysctls.insert("net.core.somaxconn".to_owned(), "77".to_owned());
            s.security.seccomp = Seccomp::Profile(
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                    {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":99}]}"#
                    .to_owned(),
            );
        },
        &looks,
    )
    .await;
    assert_eq!(capabilities(&changed), 0xa804_25fb & !1 | 1 << 12);
    assert_eq!(changed.at("mkdir:/new"), "99");
    assert_ne!(changed.at("keyctl"), EPERM);
    assert_eq!(changed.at("cat:/proc/sys/net/core/somaxconn"), "1\n", "it was set to 77, then by the look");
    assert_eq!(changed.at("write:/proc/sys/net/core/somaxconn=1"), "ok");
    assert_eq!(changed.at("stat:/dev/mine"), "20666 0:0 259");
    assert_eq!(changed.at("write:/dev/mine=x"), "ok");
    assert!(!changed.at("stat:/proc/interrupts").starts_with("20"));

    let open = look(&node, 3, |s| s.security.seccomp = Seccomp::Unconfined, &looks).await;
    assert_eq!(open.line("cat:/proc/self/status", "Seccomp:"), "0");
    assert_ne!(open.at("keyctl"), EPERM);

    let all = look(&node, 4, |s| s.security.privileged = true, &looks).await;
    assert_eq!(capabilities(&all), own_capabilities() & ((1 << 41) - 1));
    assert_eq!(all.line("cat:/proc/self/status", "Seccomp:"), "0");
    assert_eq!(all.at("unshare"), "ok");
    assert_eq!(all.at("write:/proc/sys/net/core/somaxconn=1"), "ok");
    assert_eq!(all.at("stat:/dev/kmsg").starts_with("error"), !std::path::Path::new("/dev/kmsg").exists());
    let none = look(&node, 5, |s| s.security.cap_drop = texts(&["ALL"]), &looks).await;
    assert_eq!(capabilities(&none), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_container_may_be_on_the_nodes_network_or_on_none() {
    let node = TestNode::with_image().await;
    let looks = ["cat:/proc/net/dev", "cat:/proc/sys/kernel/hostname", "cat:/etc/hosts"];
    let netns = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let own = run(&node, 1, looking(&node, 1, |s| s.network = NetworkMode::None, &looks)).await;
    let devices: Vec<_> = own.at("cat:/proc/net/dev").lines().skip(2).collect();
    assert!(devices.len() == 1 && devices[0].trim().starts_with("lo:"), "{devices:?}");
    assert_ne!(netns(own.pid), netns(std::process::id()));
    let up = std::process::Command::new("nsenter")
        .args([format!("--net=/proc/{}/ns/net", own.pid).as_str(), "ip", "-br", "link", "show", "lo"])
        .output()
        .unwrap();
    let up = String::from_utf8_lossy(&up.stdout).into_owned();
    assert!(up.contains("LOOPBACK,UP"), "{up}");
    removed(&node, &own.task).await;

    let host = run(&node, 2, looking(&node, 2, |s| s.network = NetworkMode::Host, &looks)).await;
    assert_eq!(netns(host.pid), netns(std::process::id()));
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(host.at("cat:/proc/sys/kernel/hostname"), name);
    assert_eq!(host.at("cat:/etc/hosts"), fs::read_to_string("/etc/hosts").unwrap());
    let uts = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/uts")).unwrap();
    assert_ne!(uts(host.pid), uts(std::process::id()), "a host name of its own, which begins as the node's");
    removed(&node, &host.task).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn what_the_node_cannot_give_is_refused_by_name() {
    let node = TestNode::with_image().await;
    let absent = (0..41).find(|n| own_capabilities() & (1 << n) == 0);
    for (number, says, change) in [
        (
            1,
            "--device /dev/nope",
            (|s| {
                s.security.devices =
                    vec![Device { host: "/dev/nope".into(), container: "/dev/x".into(), access: "r".into() }];
            }) as fn(&mut crate::model::TaskSpec),
        ),
        (2, "--sysctl vm.swappiness", |s| _ = s.security.sysctls.insert("vm.swappiness".into(), "1".into())),
        (3, "user \"nobody\"", |s| s.user = Some("nobody".into())),
        (4, "group \"nogroup\"", |s| s.groups = vec!["nogroup".into()]),
        (5, "seccomp", |s| s.security.seccomp = Seccomp::Profile("{".into())),
    ] {
        let why = refusal(&node, number, change).await;
        assert!(why.contains(says), "{why}");
    }
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let why = refusal(&node, 6, |s| s.security.apparmor = Some("mine".into())).await;
        assert!(why.contains("apparmor=mine"), "{why}");
    }
    if absent == Some(24) {
        let why = refusal(&node, 7, |s| s.security.cap_add = vec!["SYS_RESOURCE".into()]).await;
        assert!(why.contains("--cap-add SYS_RESOURCE"), "{why}");
    }
    eventually("nothing is left", async || node.leftovers().await.is_empty()).await;
}
