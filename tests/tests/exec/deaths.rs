use std::{fs, process::Stdio, thread, time::Duration};

use anyhow::{Result, bail, ensure};
use warren_tests::eventually;

use super::{SOON, exec_directories, programs::running, site, start};

#[test]
#[ignore = "needs root"]
fn a_client_that_is_killed_leaves_nothing() -> Result<()> {
    let (site, task) = site()?;
    let node = &site.node;
    for words in [
        &["exec", "web", "/testbox", "ignore-term"][..],
        &["exec", "-i", "web", "/testbox", "echo"],
        &["exec", "-i", "web", "/testbox", "ignore-term"],
        &["exec", "-t", "web", "/testbox", "size", "2"],
    ] {
        let mut client = start(node, words, Stdio::piped())?;
        let at = words.iter().position(|w| *w == "/testbox").unwrap_or_default();
        running(&task, &words[at..].join(" "))?;
        client.kill()?;
        client.wait()?;
        eventually("nothing is left", SOON, || {
            let (others, left) = (task.others(), exec_directories(node)?);
            if others.is_empty() && left.is_empty() {
                Ok(())
            } else {
                bail!("{words:?}: {others:?} {left:?}")
            }
        })?;
    }
    // At any moment of its start.
    for ms in [0, 3, 10, 20, 40, 70, 110, 160] {
        let mut client = start(node, &["exec", "-i", "web", "/testbox", "ignore-term"], Stdio::piped())?;
        thread::sleep(Duration::from_millis(ms));
        client.kill()?;
        client.wait()?;
    }
    eventually("nothing is left", SOON, || {
        let (others, left) = (task.others(), exec_directories(node)?);
        if others.is_empty() && left.is_empty() { Ok(()) } else { bail!("{others:?} {left:?}") }
    })
}

#[test]
#[ignore = "needs root"]
fn an_agent_that_is_killed_leaves_nothing_once_there_is_another() -> Result<()> {
    let (mut site, task) = site()?;
    let exec = ["exec", "-i", "web", "/testbox", "ignore-term"];
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(start(&site.node, &exec, Stdio::piped())?);
    }
    site.node.ok(&["exec", "-d", "web", "/testbox", "sleep", "600"])?;
    eventually("all run", SOON, || {
        if task.others().len() == 4 { Ok(()) } else { bail!("{:?}", task.others()) }
    })?;
    site.node.kill_agent()?;
    for client in &mut clients {
        // It says so, and does not hang.
        ensure!(client.wait()?.code() == Some(125));
    }
    ensure!(task.others().len() == 4, "{:?}", task.others());
    site.node.start_agent()?;
    eventually("only the detached one is left", SOON, || {
        let (others, left) = (task.others(), exec_directories(&site.node)?);
        if others == ["/testbox sleep 600"] && left.len() == 1 {
            Ok(())
        } else {
            bail!("{others:?} {left:?}")
        }
    })?;
    site.node.ok(&["exec", "web", "/testbox", "id"])?;
    // With its task goes what runs beside it.
    site.node.ok(&["service", "rm", "web"])?;
    eventually("all is gone", SOON, || {
        let (others, left) = (task.others(), exec_directories(&site.node)?);
        if others.is_empty() && left.is_empty() { Ok(()) } else { bail!("{others:?} {left:?}") }
    })
}

#[test]
#[ignore = "needs root"]
fn containerd_may_die_under_a_program() -> Result<()> {
    let (site, task) = site()?;
    let words = ["exec", "-i", "web", "/testbox", "echo"];
    let mut client = start(&site.node, &words, Stdio::piped())?;
    running(&task, "/testbox echo")?;
    let killed = site.node.kill_containerd()?;
    eventually("another containerd", SOON, || {
        let now = site.node.containerd()?;
        if now == killed { bail!("{now} is the killed one") } else { Ok(()) }
    })?;
    let sent = super::bytes(1 << 20, 3);
    let mut stdin = client.stdin.take().expect("a pipe");
    let input = sent.clone();
    let feeding = thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let mut back = Vec::new();
    std::io::Read::read_to_end(&mut client.stdout.take().expect("a pipe"), &mut back)?;
    feeding.join().expect("no panic")?;
    ensure!(client.wait()?.success() && back == sent, "{} of {}", back.len(), sent.len());
    eventually("nothing is left", SOON, || {
        let left = exec_directories(&site.node)?;
        if left.is_empty() { Ok(()) } else { bail!("{left:?}") }
    })
}

#[test]
#[ignore = "needs root"]
fn a_copy_that_is_cut_off_leaves_no_thread_or_file_open() -> Result<()> {
    let (mut site, task) = site()?;
    let big = site.node.dir().join("big");
    fs::write(&big, vec![7; 200 << 20])?;
    let agent = site.node.agent()?;
    let inside = || -> Result<usize> {
        // Threads whose root is the container's.
        let root = fs::metadata(task.root())?;
        let same = |p: std::path::PathBuf| {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(p.join("root")).is_ok_and(|m| (m.dev(), m.ino()) == (root.dev(), root.ino()))
        };
        Ok(fs::read_dir(format!("/proc/{agent}/task"))?.flatten().filter(|t| same(t.path())).count())
    };
    let mut client = start(&site.node, &["cp", &big.display().to_string(), "web:/tmp/big"], Stdio::null())?;
    eventually("it is under way", SOON, || if inside()? == 1 { Ok(()) } else { bail!("not yet") })?;
    client.kill()?;
    client.wait()?;
    let mut client = start(&site.node, &["cp", "web:/testbox", "-"], Stdio::null())?;
    thread::sleep(Duration::from_millis(100)); // nobody reads it
    client.kill()?;
    client.wait()?;
    eventually("no thread is inside", SOON, || if inside()? == 0 { Ok(()) } else { bail!("still") })
}
