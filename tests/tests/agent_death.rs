//! The agent and its containerd may die at any moment: nobody who uses a service notices.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use warren_tests::{Node, eventually, load::Load, scenario::OneNode};

const SOON: Duration = Duration::from_secs(20);

/// A service under load: new connections to one port, a long stream to another.
struct UnderLoad {
    site: OneNode,
    connections: Load,
    stream: Load,
    web: Vec<(String, i64)>,
    echo: Vec<(String, i64)>,
}

impl UnderLoad {
    fn start(seconds: u64) -> Result<Self> {
        let site = OneNode::new()?;
        site.create("web", &["--replicas", "3", "-p", "8080:80"], &[])?;
        site.create("echo", &["-p", "7000:7"], &["tcp-echo"])?;
        let to = |port: u16| format!("{}:{port}", site.node.host.v4);
        let connections = Load::connections(&site.client, &to(8080), 500, seconds)?;
        let stream = Load::stream(&site.client, &to(7000), 200, seconds)?;
        let (web, echo) = (site.node.running("web")?, site.node.running("echo")?);
        ensure!(web.len() == 3 && echo.len() == 1, "{web:?} {echo:?}");
        thread::sleep(Duration::from_secs(1));
        Ok(Self { site, connections, stream, web, echo })
    }

    /// The same tasks in the same processes, and nothing beside them.
    fn same(&self) -> Result<()> {
        eventually("the same containers", SOON, || {
            let (web, echo) = (self.site.node.running("web")?, self.site.node.running("echo")?);
            if web == self.web && echo == self.echo {
                return Ok(());
            }
            bail!("{:?} and {:?} became {web:?} and {echo:?}", self.web, self.echo)
        })
    }

    fn finish(mut self) -> Result<()> {
        ensure!(self.connections.running()?, "the load ended before the faults did");
        self.same()?;
        let (connections, stream) = (self.connections.finish()?, self.stream.finish()?);
        ensure!(connections["failed"] == 0, "new connections: {connections}");
        ensure!(stream["error"] == "" && stream["wrong"] == 0, "the stream: {stream}");
        ensure!(stream["received"] == stream["sent"], "the stream: {stream}");
        ensure!(connections["ok"].as_u64().is_some_and(|n| n > 1000), "too little load: {connections}");
        Ok(())
    }
}

#[test]
#[ignore = "needs root"]
fn killing_the_agent_is_not_noticed() -> Result<()> {
    let mut load = UnderLoad::start(30)?;
    for _ in 0..3 {
        load.site.node.kill_agent()?;
        thread::sleep(Duration::from_secs(2));
        load.site.node.start_agent()?;
        load.same()?;
    }
    load.finish()
}

#[test]
#[ignore = "needs root"]
fn killing_containerd_is_not_noticed() -> Result<()> {
    let mut load = UnderLoad::start(30)?;
    for _ in 0..2 {
        let killed = load.site.node.kill_containerd()?;
        eventually("another containerd", SOON, || {
            let now = load.site.node.containerd()?;
            if now == killed { bail!("{now} is the killed one") } else { Ok(()) }
        })?;
        load.same()?;
    }
    // Both at once, and what is made afterwards works.
    load.site.node.kill_containerd()?;
    load.site.node.kill_agent()?;
    thread::sleep(Duration::from_secs(1));
    load.site.node.start_agent()?;
    load.same()?;
    load.site.create("after", &["-p", "8082:80"], &[])?;
    load.site.ask(8082, "/")?;
    load.finish()
}

#[test]
#[ignore = "needs root"]
fn stopping_the_agent_stops_only_the_agent() -> Result<()> {
    let mut load = UnderLoad::start(20)?;
    load.site.node.stop_agent()?;
    thread::sleep(Duration::from_secs(2));
    load.site.node.start_agent()?;
    load.finish()
}

#[test]
#[ignore = "needs root"]
fn the_agent_may_die_at_any_moment_of_its_start() -> Result<()> {
    let mut load = UnderLoad::start(45)?;
    load.site.node.kill_agent()?;
    for delay in [5, 20, 50, 90, 140, 200, 300, 450, 700, 1000] {
        start_and_kill(&load.site.node, Duration::from_millis(delay))?;
    }
    load.site.node.start_agent()?;
    load.finish()
}

fn start_and_kill(node: &Node, after: Duration) -> Result<()> {
    let mut agent = node
        .start_command()?
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    thread::sleep(after);
    agent.kill()?;
    agent.wait()?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_agent_may_die_at_any_moment_of_a_services_life() -> Result<()> {
    let mut site = OneNode::new()?;
    for (round, delay) in [10, 40, 80, 120, 180, 260, 400].into_iter().enumerate() {
        let name = format!("web-{round}");
        let port = format!("{}:80", 8100 + round);
        let created = site.node.cli(&[
            "service",
            "create",
            "--detach",
            "--image",
            "web:1",
            "--replicas",
            "2",
            "-p",
            &port,
            &name,
        ])?;
        ensure!(created.good(), "{}", created.stderr);
        thread::sleep(Duration::from_millis(delay));
        site.node.kill_agent()?;
        site.node.start_agent()?;
        let tasks = eventually("two replicas", SOON, || {
            let now = site.node.running(&name)?;
            if now.len() == 2 { Ok(now) } else { bail!("{now:?}") }
        })?;
        site.ask(8100 + round as u16, "/")?;
        // Removal, cut off in the same way.
        let start = Instant::now();
        let removed = site.node.cli(&["service", "rm", "--detach", &name])?;
        ensure!(removed.good(), "{}", removed.stderr);
        thread::sleep(Duration::from_millis(delay).saturating_sub(start.elapsed()));
        site.node.kill_agent()?;
        site.node.start_agent()?;
        eventually("the service is gone", SOON, || {
            let left = site.node.json(&["service", "ls"])?;
            if left.as_array().is_some_and(Vec::is_empty) { Ok(()) } else { bail!("{left}") }
        })?;
        for (task, pid) in tasks {
            let alive = warren_tests::process::one(pid as i32);
            ensure!(alive.is_none(), "container {task} runs without a service: {alive:?}");
        }
    }
    let id = site.node.id().context("the node still answers")?;
    ensure!(!id.is_empty());
    Ok(())
}
