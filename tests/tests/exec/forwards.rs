use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Stdio},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use warren_tests::{Node, eventually, node::one_line, process, program::Ended};

use super::{SOON, bytes, programs::running, site, start};

/// A running `warren port-forward`, and where it listens.
struct Forward {
    client: Child,
    at: Vec<SocketAddr>,
}

impl Forward {
    fn start(node: &Node, words: &[&str], lines: usize) -> Result<Self> {
        let all: Vec<&str> = ["port-forward"].into_iter().chain(words.iter().copied()).collect();
        let mut client = start(node, &all, Stdio::null())?;
        let out = BufReader::new(client.stdout.take().context("stdout")?);
        let mut at = Vec::new();
        for line in out.lines().take(lines) {
            let line = line?;
            let (here, _) = line.split_once(" -> ").with_context(|| line.clone())?;
            at.push(here.parse()?);
        }
        ensure!(at.len() == lines, "{:?}", client.wait_with_output());
        Ok(Self { client, at })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

#[test]
#[ignore = "needs root"]
fn ports_of_a_task_are_reached_from_here() -> Result<()> {
    let (site, task) = site()?;
    let node = &site.node;
    // One port of the service, one of a program that listens on its loopback only, one of nobody.
    node.ok(&["exec", "-d", "web", "/testbox", "http-local", "81"])?;
    node.ok(&["exec", "-d", "web", "/testbox", "tcp-echo", "7"])?;
    running(&task, "/testbox tcp-echo 7")?;
    let mut f = Forward::start(node, &["web", "0:80", "18081:81", "0:7", "0:9"], 4)?;
    ensure!(f.at.iter().all(|a| a.ip().is_loopback()) && f.at[1].port() == 18081, "{:?}", f.at);
    for at in &f.at[..2] {
        let answer = eventually("an answer", SOON, || node.host.curl(&format!("http://{at}/hostname")))?;
        ensure!(answer.trim() == "web-1", "{answer}");
    }
    // Many at once, through one.
    let urls: Vec<String> = (0..20).map(|_| format!("http://{}/", f.at[0])).collect();
    thread::scope(|s| {
        let asks: Vec<_> = urls.iter().map(|u| s.spawn(|| node.host.curl(u))).collect();
        asks.into_iter().try_for_each(|a| a.join().expect("no panic").map(drop))
    })?;
    // Each direction is closed by itself, and nothing is lost.
    let sent = bytes(5 << 20, 21);
    let mut stream = node.host.ns.enter(|| TcpStream::connect(f.at[2]))??;
    let (mut writer, input) = (stream.try_clone()?, sent.clone());
    let writing = thread::spawn(move || -> std::io::Result<()> {
        writer.write_all(&input)?;
        writer.shutdown(Shutdown::Write)
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    writing.join().expect("no panic")?;
    ensure!(back == sent, "{} of {}", back.len(), sent.len());
    // Nobody listens there: the connection ends, the command goes on.
    ensure!(node.host.curl(&format!("http://{}/", f.at[3])).is_err());
    node.host.curl(&format!("http://{}/", f.at[0]))?;
    process::signal(f.client.id().cast_signed(), Signal::SIGTERM);
    let mut said = String::new();
    f.client.stderr.take().context("stderr")?.read_to_string(&mut said)?;
    ensure!(said.contains("nothing answers on port 9"), "{said}");
    f.client.wait()?;
    // What a killed one had open is closed in the container.
    let mut f = Forward::start(node, &["--address", "127.0.0.2", &task.id, "0:7"], 1)?;
    ensure!(f.at[0].ip().to_string() == "127.0.0.2", "{:?}", f.at);
    let _stream = node.host.ns.enter(|| TcpStream::connect(f.at[0]))??;
    let established = || -> Result<usize> {
        let pid = task.pid.to_string();
        let words = ["-t", pid.as_str(), "-n", "ss", "-Htn", "state", "established"];
        Ok(node.host.ns.run("nsenter", &words)?.lines().count())
    };
    eventually("it is open inside", SOON, || if established()? > 0 { Ok(()) } else { bail!("not yet") })?;
    f.client.kill()?;
    f.client.wait()?;
    eventually("it is closed inside", SOON, || match established()? {
        0 => Ok(()),
        n => bail!("{n} are open"),
    })
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_forwarded_is_said() -> Result<()> {
    let (site, _) = site()?;
    let node = &site.node;
    for (words, said) in [
        (&["port-forward", "web", "80:0"][..], "80:0"),
        (&["port-forward", "web"], "LOCAL:TARGET"),
        (&["port-forward", "nobody", "0:80"], "no task or service nobody"),
        (&["port-forward", "--address", "198.51.100.1", "web", "0:80"], "198.51.100.1"),
    ] {
        ensure!(node.refused(words)?.contains(said), "{words:?}");
    }
    // The task goes: so does the command, and says why.
    let mut f = Forward::start(node, &["web", "0:80"], 1)?;
    node.host.curl(&format!("http://{}/", f.at[0]))?;
    node.ok(&["service", "rm", "web"])?;
    ensure!(node.host.curl(&format!("http://{}/", f.at[0])).is_err());
    let status = f.client.wait()?.code();
    let mut stderr = String::new();
    f.client.stderr.take().context("stderr")?.read_to_string(&mut stderr)?;
    let shown = "port-forward".to_owned();
    let said = one_line(&Ended { status, stdout: String::new(), stderr, shown })?;
    ensure!(said.contains("no task") || said.contains("not running"), "{said}");
    Ok(())
}
