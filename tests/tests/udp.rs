//! UDP published: from everywhere, and one stream through everything that happens to a service.

use std::{process::Stdio, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use warren_tests::{Host, eventually, image, load::Load, scenario::OneNode};

const SOON: Duration = Duration::from_secs(20);

/// Datagrams a second.
const RATE: u32 = 2000;

/// An echo service of two replicas on port 7000.
fn site() -> Result<OneNode> {
    let site = OneNode::new()?;
    site.create("echo", &["--replicas", "2", "-p", "7000:7/udp"], &["udp-echo"])?;
    Ok(site)
}

/// Streams of numbered datagrams: of another host, and of the node itself, with and without a
/// connected socket.
struct Streams(Vec<(&'static str, Load)>);

impl Streams {
    fn start(site: &OneNode, seconds: u64) -> Result<Self> {
        let (node, own) = (format!("{}:7000", site.node.host.v4), "127.0.0.1:7000");
        let streams = vec![
            ("another host", Load::datagrams(&site.client, &node, RATE, seconds)?),
            ("the node, not connected", Load::datagrams(&site.node.host, own, RATE, seconds)?),
            ("the node, connected", Load::connected_datagrams(&site.node.host, &node, RATE, seconds)?),
        ];
        thread::sleep(Duration::from_secs(1));
        Ok(Self(streams))
    }

    /// Their results; none may have ended before what happened to the service did.
    fn finish(mut self) -> Result<Vec<(&'static str, Value)>> {
        for (whose, load) in &mut self.0 {
            ensure!(load.running()?, "the stream of {whose} ended too early");
        }
        let ended: Result<Vec<_>> = self.0.into_iter().map(|(whose, l)| Ok((whose, l.finish()?))).collect();
        let ended = ended?;
        for (whose, result) in &ended {
            println!("{whose}: {result}");
            ensure!(result["wrong"] == 0 && result["doubled"] == 0, "{whose}: {result}");
        }
        Ok(ended)
    }
}

/// Asks with one datagram; the answer must come from where it was sent.
fn ask(host: &Host, to: &str) -> Result<()> {
    let result = Load::datagrams(host, to, 10, 1)?.finish()?;
    ensure!(result["received"] == 10 && result["wrong"] == 0, "{to}: {result}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn it_answers_from_everywhere() -> Result<()> {
    let site = site()?;
    let node = site.node.host.v4;
    ask(&site.client, &format!("{node}:7000"))?;
    for host in ["127.0.0.1".to_owned(), node.to_string()] {
        ask(&site.node.host, &format!("{host}:7000"))?;
        let connected = Load::connected_datagrams(&site.node.host, &format!("{host}:7000"), 10, 1)?;
        let result = connected.finish()?;
        ensure!(result["received"] == 10 && result["reconnects"] == 0, "{host}: {result}");
    }
    // From a container, whose helper tells who answered.
    site.create("web", &["-p", "8080:80"], &[])?;
    let from =
        eventually("a container is answered", SOON, || site.ask(8080, &format!("/udp?to={node}:7000")))?;
    ensure!(from.trim() == format!("{node}:7000"), "{from}");
    // What is live, is shown.
    let flows = site.node.json(&["net", "flows"])?;
    let ours = flows.as_array().context("net flows prints an array")?.iter().any(|f| {
        f["protocol"] == "udp"
            && f["state"] == "both ways"
            && f["published"] == format!("{node}:7000")
            && f["client"].as_str().is_some_and(|c| c.starts_with(&format!("{}:", site.client.v4)))
    });
    ensure!(ours, "{flows}");
    let ports = site.node.json(&["net", "ls"])?;
    ensure!(ports[0]["protocol"] == "udp" || ports[1]["protocol"] == "udp", "{ports}");
    // TCP to the same port is not published.
    let refused = site.ask(7000, "/").err().context("TCP was answered")?;
    ensure!(refused.to_string().contains("(7)"), "should be refused: {refused:#}");
    site.node.ok(&["net", "check"])?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn killing_and_restarting_the_agent_loses_no_datagram() -> Result<()> {
    let mut site = site()?;
    let streams = Streams::start(&site, 25)?;
    for _ in 0..2 {
        site.node.kill_agent()?;
        thread::sleep(Duration::from_secs(2));
        site.node.start_agent()?;
    }
    site.node.stop_agent()?;
    site.node.start_agent()?;
    for (whose, result) in streams.finish()? {
        ensure!(result["lost"] == 0 && result["reconnects"] == 0, "{whose}: {result}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn scaling_and_redeploying_loses_no_datagram() -> Result<()> {
    let site = site()?;
    let before = site.node.running("echo")?;
    let streams = Streams::start(&site, 40)?;
    site.node.ok(&["service", "scale", "echo=4"])?;
    site.node.ok(&["service", "scale", "echo=1"])?;
    site.node.ok(&["service", "scale", "echo=2"])?;
    // One of the two after the other.
    site.node.ok(&["service", "update", "--force", "echo"])?;
    let after = eventually("two replicas", SOON, || {
        let now = site.node.running("echo")?;
        if now.len() == 2 { Ok(now) } else { bail!("{now:?}") }
    })?;
    ensure!(after.iter().all(|t| !before.contains(t)), "{after:?} after {before:?}");
    for (whose, result) in streams.finish()? {
        // Four replicas were stopped while they were being sent to: what one has read and not yet
        // answered when it is told to end, or what its socket still holds, goes with it.
        let lost = result["lost"].as_u64().context("no number")?;
        ensure!(lost <= 4 * 4, "{whose}: {result}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_killed_replica_takes_only_what_was_on_its_way() -> Result<()> {
    let site = site()?;
    let streams = Streams::start(&site, 15)?;
    let (_, pid) = site.node.running("echo")?.pop().context("no replica")?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    eventually("two replicas", SOON, || {
        let now = site.node.running("echo")?;
        let whole = now.len() == 2 && now.iter().all(|(_, p)| *p != i64::from(pid.as_raw()));
        if whole { Ok(()) } else { bail!("{now:?}") }
    })?;
    for (whose, result) in streams.finish()? {
        // Until the agent hears of the death from containerd.
        let lost = result["lost"].as_u64().context("no number")?;
        ensure!(lost <= u64::from(RATE) / 2, "{whose}: half a second was lost: {result}");
    }
    Ok(())
}

/// The only replica is replaced: nobody answers for a moment, the node refuses, and the same socket
/// goes on with the next one.
#[test]
#[ignore = "needs root"]
fn the_only_replica_is_refused_while_it_is_away() -> Result<()> {
    let site = OneNode::new()?;
    site.create("echo", &["-p", "7000:7/udp"], &["udp-echo"])?;
    let to = format!("{}:7000", site.node.host.v4);
    let stream = Load::datagrams(&site.client, &to, 200, 20)?;
    thread::sleep(Duration::from_secs(1));
    site.node.ok(&["service", "scale", "echo=0"])?;
    eventually("the node refuses", SOON, || {
        let mut c = site.client.ns.command(image::testbox()?)?;
        let out = c.args(["datagrams", &to, "10", "1", "connected"]).stdin(Stdio::null()).output()?;
        let said: Value = serde_json::from_slice(&out.stdout)?;
        if said["received"] == 0 && said["errors"] != 0 { Ok(()) } else { bail!("{said}") }
    })?;
    site.node.ok(&["service", "scale", "echo=1"])?;
    let result = stream.finish()?;
    ensure!(result["wrong"] == 0 && result["gaps"].as_array().is_some_and(|g| g.len() <= 2), "{result}");
    Ok(())
}
