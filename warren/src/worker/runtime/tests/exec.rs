use std::{
    fs,
    time::{Duration, Instant},
};

use containerd_client::services::v1::{ExecProcessRequest, GetContainerRequest, StartRequest};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};

use super::fixture::{TestNode, eventually};
use crate::{
    model::Task,
    worker::{
        executor::{Runtime, RuntimeError},
        runtime::{
            exec::{Exec, ExecEvent, ExecSpec, Streams, TerminalSize},
            remains,
        },
    },
};

const LONG: Duration = Duration::from_secs(60);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&w| w.to_owned()).collect()
}

fn probe(args: &[&str]) -> ExecSpec {
    let command = ["/bin/probe"].iter().chain(args).map(|&w| w.to_owned()).collect();
    ExecSpec { command, ..ExecSpec::default() }
}

/// Processes of a task's container.
fn processes(node: &TestNode, task: &Task) -> Vec<i32> {
    let mut found: Vec<i32> = remains::cgroup_dirs(&node.config.cgroup(task.id))
        .iter()
        .filter_map(|d| fs::read_to_string(d.join("cgroup.procs")).ok())
        .flat_map(|t| t.lines().map(|l| l.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn directories(node: &TestNode) -> usize {
    fs::read_dir(node.config.exec_dir()).map_or(0, Iterator::count)
}

/// All it tells until its end.
async fn all(exec: &mut Exec) -> (Vec<u8>, Vec<u8>, i32) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match tokio::time::timeout(LONG, exec.next()).await.expect("it tells something within a minute") {
            ExecEvent::Stdout(b) => out.extend(b),
            ExecEvent::Stderr(b) => err.extend(b),
            ExecEvent::Ended(code) => return (out, err, code),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_program_is_run_to_its_end_with_the_containers_settings() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, _) = node.run(1, &["sleep"]).await;
    let run = async |args: &[&str]| c.run_in(task.id, &words(args), LONG, 100).await.unwrap();

    let r = run(&["probe", "say", "one", "two", "5"]).await;
    let text = String::from_utf8(r.output).unwrap();
    assert!(text.contains("one\n") && text.contains("two\n"), "{text}");
    assert_eq!((r.code, r.timed_out), (5, false));

    let r = c.run_in(task.id, &words(&["/bin/probe", "env"]), LONG, 4096).await.unwrap();
    let text = String::from_utf8(r.output).unwrap();
    assert!(text.contains("FROM=image\n") && text.contains("cwd=/made/by/runc uid=0\n"), "{text}");

    // Only the beginning is kept, the program still comes to its end.
    let r = run(&["/bin/probe", "flood", "10000000"]).await;
    assert_eq!((r.code, r.output.len()), (0, 100));

    for (program, code, said) in [
        ("nope", 127, "\"nope\" is not in the container"),
        ("/no/such", 127, "\"/no/such\" is not in the container"),
        ("/etc/plain", 126, "\"/etc/plain\" is not executable"),
        ("/etc", 126, "\"/etc\" is "),
    ] {
        let r = run(&[program]).await;
        let text = String::from_utf8(r.output).unwrap();
        assert!(r.code == code && text.starts_with(said), "{program}: {} {text}", r.code);
    }
    // Something it leaves behind neither keeps the caller nor is killed.
    let at = Instant::now();
    let r = run(&["/bin/probe", "leave"]).await;
    assert_eq!((r.code, r.output), (0, b"left\n".to_vec()));
    // The shim of containerd 2 waits 12 s for the output of what is left.
    assert!(at.elapsed() < Duration::from_secs(20), "{:?}", at.elapsed());
    assert_eq!(processes(&node, &task).len(), 2);

    assert_eq!(directories(&node), 0);
    let e = c.run_in(super::fixture::program(9, &[]).id, &words(&["x"]), LONG, 1).await.unwrap_err();
    assert!(matches!(&e, RuntimeError::Fatal(m) if m.contains("is not running")), "{e}");
    c.kill(task.id, libc::SIGKILL).await.unwrap();
    super::fixture::exit(c, &task).await;
    let e = c.run_in(task.id, &words(&["x"]), LONG, 1).await.unwrap_err();
    assert!(matches!(&e, RuntimeError::Fatal(m) if m.contains("is not running")), "{e}");
    c.remove(task.id).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn at_the_limit_a_program_is_killed_with_all_it_started() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, pid) = node.run(1, &["sleep"]).await;
    let at = Instant::now();
    let family = words(&["/bin/probe", "family", "2"]);
    let r = c.run_in(task.id, &family, Duration::from_secs(1), 100).await.unwrap();
    assert!(r.timed_out && r.code == 137, "{r:?}");
    assert!(at.elapsed() < Duration::from_secs(8), "{:?}", at.elapsed());
    assert_eq!(processes(&node, &task), [i32::try_from(pid).unwrap()]);
    assert_eq!(directories(&node), 0);
    // A caller who goes away, at any moment, is the same.
    for ms in [0, 5, 20, 40, 80, 150, 300] {
        let run = c.run_in(task.id, &family, LONG, 100);
        let _ = tokio::time::timeout(Duration::from_millis(ms), run).await;
    }
    eventually("only the container's own process is left", async || {
        processes(&node, &task).len() == 1 && directories(&node) == 0
    })
    .await;
    c.remove(task.id).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn many_run_at_once() {
    let node = TestNode::with_image().await;
    let (task, _) = node.run(1, &["sleep"]).await;
    let at = Instant::now();
    let runs = (0..24).map(|n: i32| {
        let c = node.containerd.clone();
        tokio::spawn(async move {
            let (word, code) = (format!("w{n}"), n.to_string());
            let argv = words(&["/bin/probe", "say", &word, "", &code]);
            c.run_in(task.id, &argv, LONG, 100).await
        })
    });
    for (n, run) in runs.collect::<Vec<_>>().into_iter().enumerate() {
        let r = run.await.unwrap().unwrap();
        let text = String::from_utf8(r.output).unwrap();
        assert!(r.code as usize == n && text.contains(&format!("w{n}\n")), "{n}: {} {text}", r.code);
    }
    println!("24 at once: {:?}", at.elapsed());
    assert_eq!((processes(&node, &task).len(), directories(&node)), (1, 0));
}

/// containerd is killed at any moment; the program's output and status arrive all the same, or
/// the call says "later".
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn programs_survive_containerd_being_killed() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, _) = node.run(1, &["sleep"]).await;
    let back = async || {
        eventually("containerd runs", async || node.own.running().len() == 1 && c.list().await.is_ok()).await;
    };
    for step in 0..6u64 {
        back().await;
        let pid = node.containerd_pid();
        let killer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(step * 12)).await;
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        });
        let argv = words(&["/bin/probe", "say", "word", "", "3"]);
        match c.run_in(task.id, &argv, LONG, 100).await {
            Ok(r) => {
                assert!(r.code == 3 && r.output.windows(5).any(|w| w == b"word\n"), "step {step}: {r:?}");
            }
            Err(e) => assert!(matches!(e, RuntimeError::Temporary(_)), "step {step}: {e}"),
        }
        killer.await.unwrap();
    }
    // In the middle of one that has much to say. The last one killed may still be away.
    back().await;
    let mut exec = c.exec(task.id, probe(&["flood", "3000000"])).await.unwrap();
    assert!(matches!(exec.next().await, ExecEvent::Stdout(_)));
    eventually("containerd runs", async || node.own.running().len() == 1).await;
    kill(Pid::from_raw(node.containerd_pid()), Signal::SIGKILL).unwrap();
    let (out, _, code) = all(&mut exec).await;
    assert_eq!(code, 0);
    assert!(out.len() > 2_900_000, "{}", out.len());
    exec.close().await;
    eventually("nothing is left", async || processes(&node, &task).len() == 1 && directories(&node) == 0)
        .await;
    eventually("the task goes", async || c.remove(task.id).await.is_ok()).await;
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

/// As the next agent finds what a dead one had running.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn what_a_dead_agent_had_running_is_ended() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, _) = node.run(1, &["sleep"]).await;
    // The first agent: a runtime of its own, which ends without any of its tasks being asked.
    let (first, id) = (node.config.clone(), task.id);
    std::thread::spawn(move || {
        let agent = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        agent.block_on(async {
            let c = crate::worker::runtime::Containerd::new(first);
            let mut input = probe(&["echo"]);
            input.stdin = true;
            let mut detached = probe(&["sleep"]);
            detached.streams = Streams::Detached;
            let held = [c.exec(id, probe(&["family", "1"])).await, c.exec(id, input).await];
            c.exec(id, detached).await.unwrap().detach();
            std::mem::forget(held);
        });
        agent.shutdown_background();
    })
    .join()
    .unwrap();
    eventually("all run", async || processes(&node, &task).len() == 5).await;
    assert_eq!(directories(&node), 3);
    c.sweep_execs().await;
    eventually("only the detached one is left", async || {
        processes(&node, &task).len() == 2 && directories(&node) == 1
    })
    .await;
    let detached = *processes(&node, &task).last().unwrap();
    kill(Pid::from_raw(detached), Signal::SIGKILL).unwrap();
    eventually("it was adopted", async || directories(&node) == 0).await;
    c.remove(task.id).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

/// As an agent leaves it that dies after runc has started a program and before the shim has opened
/// its output: the shim waits for a reader then, and answers nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn what_a_dead_agent_was_starting_is_ended() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, _) = node.run(1, &["sleep"]).await;
    let id = task.id.to_string();
    let dir = node.config.exec_dir().join(format!("{id}.x0000000000000001"));
    fs::create_dir_all(&dir).unwrap();
    let [out, err] = ["out", "err"].map(|stream| {
        let path = dir.join(stream);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        path.display().to_string()
    });
    let record = GetContainerRequest { id: id.clone() };
    let record = c.client.containers().get(c.client.request(record)).await.unwrap().into_inner();
    let spec = record.container.unwrap().spec.unwrap();
    let mut process: serde_json::Value = serde_json::from_slice(&spec.value).unwrap();
    let mut process = process["process"].take();
    process["args"] = serde_json::json!(["/bin/probe", "sleep"]);
    process["terminal"] = false.into();
    let exec = ExecProcessRequest {
        container_id: id.clone(),
        exec_id: "x0000000000000001".into(),
        stdout: out,
        stderr: err,
        spec: Some(prost_types::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: serde_json::to_vec(&process).unwrap(),
        }),
        ..ExecProcessRequest::default()
    };
    c.client.tasks().exec(c.client.request(exec)).await.unwrap();
    let start = StartRequest { container_id: id, exec_id: "x0000000000000001".into() };
    let started = c.client.tasks();
    let started = tokio::spawn({
        let (mut tasks, request) = (started, c.client.request(start));
        async move { tasks.start(request).await }
    });
    eventually("it runs", async || processes(&node, &task).len() == 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!started.is_finished(), "the shim does not wait for a reader: {:?}", started.await);
    started.abort();
    c.sweep_execs().await;
    eventually("nothing of it is left", async || {
        processes(&node, &task).len() == 1 && directories(&node) == 0
    })
    .await;
    c.remove(task.id).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn streams_users_terminals_and_signals() {
    let node = TestNode::with_image().await;
    let c = &node.containerd;
    let (task, _) = node.run(1, &["sleep"]).await;
    // Input of some size comes back whole, and both streams stay apart.
    let mut spec = probe(&["echo"]);
    spec.stdin = true;
    let mut exec = c.exec(task.id, spec).await.unwrap();
    let mut input = exec.take_stdin().unwrap();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let sent = bytes.clone();
    tokio::spawn(async move {
        assert!(input.write(&sent).await);
        input.close().await;
    });
    let (out, err, code) = all(&mut exec).await;
    assert!(out == bytes && err.is_empty() && code == 0, "{} of {}", out.len(), bytes.len());
    exec.close().await;
    let mut exec = c.exec(task.id, probe(&["say", "a", "b", "0"])).await.unwrap();
    assert_eq!(all(&mut exec).await, (b"a\n".to_vec(), b"b\n".to_vec(), 0));
    exec.close().await;

    let mut spec = probe(&["env"]);
    spec.user = Some("web".into());
    spec.env = vec![("FROM".into(), "exec".into())];
    spec.workdir = Some("/etc".into());
    spec.streams = Streams::Terminal(TerminalSize { rows: 20, columns: 70 });
    let mut exec = c.exec(task.id, spec).await.unwrap();
    let (out, _, code) = all(&mut exec).await;
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("FROM=exec\r\n") && text.contains("TERM=xterm\r\n"), "{text}");
    assert!(text.contains("cwd=/etc uid=101\r\n") && code == 0, "{text}");
    exec.close().await;
    let mut spec = probe(&["env"]);
    spec.user = Some("nobody".into());
    let e = c.exec(task.id, spec).await.unwrap_err();
    assert!(e.to_string().starts_with("user \"nobody\" is not in the container's /etc/passwd"), "{e}");

    let mut exec = c.exec(task.id, probe(&["sleep"])).await.unwrap();
    exec.control().signal(Signal::SIGINT).await;
    assert_eq!(all(&mut exec).await.2, 130);
    exec.close().await;
    // The container ends: so does the program in it.
    let mut exec = c.exec(task.id, probe(&["sleep"])).await.unwrap();
    c.kill(task.id, libc::SIGKILL).await.unwrap();
    assert_eq!(all(&mut exec).await.2, 137);
    exec.close().await;
    c.remove(task.id).await.unwrap();
    assert_eq!(node.leftovers().await, [] as [String; 0]);
}
