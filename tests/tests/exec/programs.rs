use std::{
    io::{Read as _, Write as _},
    process::Stdio,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use warren_tests::{eventually, node::one_line, process};

use super::{SOON, Task, bytes, exec_directories, site, start};

#[test]
#[ignore = "needs root"]
fn the_exit_code_is_the_programs_and_streams_are_apart() -> Result<()> {
    let (site, task) = site()?;
    let node = &site.node;
    let codes: &[(&[&str], i32, &str)] = &[
        (&["exec", "web", "/testbox", "exit", "0"], 0, ""),
        (&["exec", "web", "/testbox", "exit", "7"], 7, ""),
        (&["exec", "web.1", "testbox", "exit", "255"], 255, ""),
        (&["exec", &task.id, "/testbox", "cat", "/nothing"], 2, "/nothing"),
        (&["exec", &task.id[..8], "nope"], 127, "\"nope\" is not in the container"),
        (&["exec", "web", "/etc/greeting"], 126, "not executable"),
        (&["exec", "-w", "/nowhere", "web", "/testbox", "id"], 126, "\"/nowhere\""),
        (&["exec", "-w", "etc", "web", "/testbox", "id"], 125, "absolute"),
        (&["exec", "-u", "nobody", "web", "/testbox", "id"], 125, "\"nobody\""),
        (&["exec", "nobody", "/testbox", "id"], 125, "no task or service nobody"),
        (&["exec", "web.2", "/testbox", "id"], 125, "no task web.2"),
        (&["exec", "-it", "web", "/testbox", "id"], 125, "no terminal"),
    ];
    for (words, code, said) in codes {
        let ended = node.cli(words)?;
        ensure!(ended.status == Some(*code), "{words:?}: {ended:?}");
        if *code != 0 && !said.is_empty() {
            ensure!(ended.stderr.contains(said) && ended.stdout.is_empty(), "{words:?}: {ended:?}");
        }
        if *code >= 125 && *code < 255 {
            one_line(&ended)?;
        }
    }
    // What is given reaches it; what is not is the container's.
    let id = node.ok(&["exec", "web", "/testbox", "id"])?;
    ensure!(id.starts_with("uid=0 gid=0"), "{id}");
    let id = node.ok(&["exec", "-u", "app", "web", "/testbox", "id"])?;
    ensure!(id.starts_with("uid=1000 gid=1000 groups=") && id.contains("29"), "{id}");
    let id = node.ok(&["exec", "--user", "7:8", "web", "/testbox", "id"])?;
    ensure!(id.starts_with("uid=7 gid=8"), "{id}");
    let text = node.ok(&["exec", "-w", "/etc", "-e", "A=b c", "web", "/testbox", "cat", "greeting"])?;
    ensure!(text == "hello from the image\n", "{text}");
    let env = node.ok(&["exec", "-e", "A=b c", "web", "/testbox", "cat", "/proc/self/environ"])?;
    ensure!(env.split('\0').any(|v| v == "A=b c") && env.split('\0').any(|v| v == "PATH=/"), "{env:?}");
    let caps = |flags: &[&str]| -> Result<u64> {
        let words = [&["exec"], flags, &["web", "/testbox", "cat", "/proc/self/status"]].concat();
        let status = node.ok(&words)?;
        let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:")).context("no CapEff")?;
        Ok(u64::from_str_radix(mask.trim(), 16)?)
    };
    let sys_admin = 1 << 21;
    ensure!(caps(&[])? & sys_admin == 0 && caps(&["--privileged"])? & sys_admin != 0);
    ensure!(caps(&["-u", "app"])? == 0);

    // One that is detached goes on by itself.
    node.ok(&["exec", "-d", "web", "/testbox", "sleep", "3"])?;
    ensure!(task.others() == ["/testbox sleep 3"], "{:?}", task.others());
    eventually("it has ended and left nothing", SOON, || {
        let (others, left) = (task.others(), exec_directories(node)?);
        if others.is_empty() && left.is_empty() { Ok(()) } else { bail!("{others:?} {left:?}") }
    })
}

#[test]
#[ignore = "needs root"]
fn a_service_of_several_tasks_says_which_one_it_is() -> Result<()> {
    let (site, _) = site()?;
    let node = &site.node;
    node.ok(&["service", "scale", "web=2"])?;
    let ended = node.cli(&["exec", "web", "/testbox", "cat", "/etc/hostname"])?;
    ensure!(ended.good() && ended.stdout == "web-1\n", "{ended:?}");
    ensure!(ended.stderr.contains("2 running tasks") && ended.stderr.contains("web.1"), "{ended:?}");
    let ended = node.cli(&["exec", "web.2", "/testbox", "cat", "/etc/hostname"])?;
    ensure!(ended.good() && ended.stdout == "web-2\n" && ended.stderr.is_empty(), "{ended:?}");
    // One that has ended.
    site.create("once", &["--detach", "--entrypoint", "/no/such"], &[])?;
    let said = eventually("it is known why", SOON, || {
        let ended = node.cli(&["exec", "once.1", "/testbox", "id"])?;
        let good = ended.status == Some(125) && ended.stderr.contains("/no/such");
        if good { Ok(ended.stderr) } else { bail!("{ended:?}") }
    })?;
    ensure!(said.starts_with("warren: task once.1 is not running: it is "), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn ten_megabytes_go_in_and_come_back() -> Result<()> {
    let (site, task) = site()?;
    let sent = bytes(10 << 20, 77);
    let mut client = start(&site.node, &["exec", "-i", "web", "/testbox", "echo"], Stdio::piped())?;
    let mut stdin = client.stdin.take().context("stdin")?;
    let input = sent.clone();
    let feeding = thread::spawn(move || stdin.write_all(&input));
    let mut back = Vec::new();
    client.stdout.take().context("stdout")?.read_to_end(&mut back)?;
    feeding.join().expect("no panic")?;
    ensure!(client.wait()?.success());
    ensure!(back == sent, "{} bytes of {} came back, or others", back.len(), sent.len());

    // A program that does not read to the end ends all the same; and without -i there is no input.
    let mut client = start(&site.node, &["exec", "-i", "web", "/testbox", "exit", "4"], Stdio::piped())?;
    let _ = client.stdin.take().context("stdin")?.write_all(&sent);
    ensure!(client.wait()?.code() == Some(4));
    ensure!(site.node.ok(&["exec", "web", "/testbox", "echo"])?.is_empty());
    // A reader of the output who has seen enough ends it.
    let mut client = start(&site.node, &["exec", "-i", "web", "/testbox", "echo"], Stdio::piped())?;
    drop(client.stdout.take());
    let mut stdin = client.stdin.take().context("stdin")?;
    let feeding = thread::spawn(move || stdin.write_all(&sent));
    ensure!(client.wait()?.code() == Some(141), "as a program killed by SIGPIPE");
    let _ = feeding.join();
    eventually("nothing is left in the container", SOON, || {
        let others = task.others();
        if others.is_empty() { Ok(()) } else { bail!("{others:?}") }
    })
}

#[test]
#[ignore = "needs root"]
fn signals_are_the_programs() -> Result<()> {
    let (site, task) = site()?;
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGHUP, 129), (Signal::SIGTERM, 0)] {
        let mut client = start(&site.node, &["exec", "web", "/testbox", "sleep"], Stdio::null())?;
        eventually("it runs", SOON, || {
            if task.catches_term("/testbox sleep") { Ok(()) } else { bail!("{:?}", task.others()) }
        })?;
        process::signal(client.id().cast_signed(), signal);
        ensure!(client.wait()?.code() == Some(code), "{signal} gave another status than {code}");
    }
    // One that does not read its input gets a signal behind much of it.
    let words = ["exec", "-i", "web", "/testbox", "sleep"];
    let mut client = start(&site.node, &words, Stdio::piped())?;
    let mut stdin = client.stdin.take().context("stdin")?;
    let feeding = thread::spawn(move || stdin.write_all(&bytes(4 << 20, 5)));
    eventually("it runs", SOON, || {
        if task.others() == ["/testbox sleep"] { Ok(()) } else { bail!("{:?}", task.others()) }
    })?;
    thread::sleep(std::time::Duration::from_millis(500));
    process::signal(client.id().cast_signed(), Signal::SIGINT);
    ensure!(client.wait()?.code() == Some(130));
    let _ = feeding.join();
    Ok(())
}

/// Used by others too.
pub(super) fn running(task: &Task, words: &str) -> Result<()> {
    eventually("it runs", SOON, || {
        if task.others().iter().any(|w| w == words) { Ok(()) } else { bail!("{:?}", task.others()) }
    })
}
