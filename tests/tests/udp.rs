//! UDP published: from everywhere, and one stream through everything that happens to a service.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use warren_tests::{Host, eventually, load::Load, scenario::OneNode};

const SOON: Duration = Duration::from_secs(20);

/// Datagrams a second, of each stream of the node itself.
const OWN_RATE: u32 = 2000;

/// An echo service of two replicas on port 7000. It is asked whether it is there: a program that was
/// just started has no socket yet.
fn site() -> Result<OneNode> {
    let site = OneNode::new()?;
    let ready = r#"["/testbox","ask-udp","127.0.0.1:7"]"#;
    let flags = ["--replicas", "2", "-p", "7000:7/udp", "--health-cmd", ready, "--health-interval", "1s"];
    site.create("echo", &flags, &["udp-echo"])?;
    Ok(site)
}

/// Datagrams that sockets of the service's replicas, the client and the node had no room for, because
/// their programs did not get to read them: not the network's loss. Of a replica that has ended, what
/// had been when it was last looked at.
#[derive(Default)]
struct Overflows(BTreeMap<i64, u64>);

impl Overflows {
    fn look(&mut self, site: &OneNode) -> Result<()> {
        let read = |snmp: &str| -> Result<u64> {
            let mut udp = snmp.lines().filter_map(|l| l.strip_prefix("Udp: "));
            let (names, values) = (udp.next().context("no Udp")?, udp.next().context("no Udp")?);
            let mut found = names.split(' ').zip(values.split(' ')).filter(|(n, _)| *n == "RcvbufErrors");
            Ok(found.next().context("no RcvbufErrors")?.1.parse()?)
        };
        for (_, pid) in site.node.running("echo")? {
            if let Ok(snmp) = std::fs::read_to_string(format!("/proc/{pid}/net/snmp")) {
                self.0.insert(pid, read(&snmp)?);
            }
        }
        for (i, host) in [&site.client, &site.node.host].into_iter().enumerate() {
            let snmp = host.ns.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
            self.0.insert(-1 - i64::try_from(i)?, read(&snmp)?);
        }
        Ok(())
    }

    fn all(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Streams of numbered datagrams: of another host, and of the node itself, with and without a
/// connected socket.
struct Streams(Vec<(&'static str, Load)>);

impl Streams {
    /// `rate` of another host's, datagrams a second.
    fn start(site: &OneNode, rate: u32, seconds: u64) -> Result<Self> {
        let (node, own) = (format!("{}:7000", site.node.host.v4), "127.0.0.1:7000");
        let streams = vec![
            ("another host", Load::datagrams(&site.client, &node, rate, seconds)?),
            ("the node, not connected", Load::datagrams(&site.node.host, own, OWN_RATE, seconds)?),
            ("the node, connected", Load::connected_datagrams(&site.node.host, &node, OWN_RATE, seconds)?),
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
    let streams = Streams::start(&site, 10_000, 25)?;
    for _ in 0..2 {
        site.node.kill_agent()?;
        thread::sleep(Duration::from_secs(2));
        site.node.start_agent()?;
    }
    site.node.stop_agent()?;
    site.node.start_agent()?;
    let ended = streams.finish()?;
    let mut overflows = Overflows::default();
    overflows.look(&site)?;
    let mut lost = 0;
    for (whose, result) in &ended {
        ensure!(result["reconnects"] == 0, "{whose}: {result}");
        lost += result["lost"].as_u64().context("no number")?;
    }
    let drops = site.node.json(&["net", "drops"])?;
    ensure!(lost == overflows.all(), "{lost} lost, {} for want of room, {drops}", overflows.all());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn scaling_and_redeploying_loses_no_datagram() -> Result<()> {
    let site = site()?;
    let before = site.node.running("echo")?;
    let streams = Streams::start(&site, 2000, 40)?;
    let mut overflows = Overflows::default();
    for replicas in ["echo=4", "echo=1", "echo=2"] {
        site.node.ok(&["service", "scale", replicas])?;
        overflows.look(&site)?;
    }
    // One of the two after the other.
    site.node.ok(&["service", "update", "--force", "echo"])?;
    let after = eventually("two replicas", SOON, || {
        let now = site.node.running("echo")?;
        if now.len() == 2 { Ok(now) } else { bail!("{now:?}") }
    })?;
    ensure!(after.iter().all(|t| !before.contains(t)), "{after:?} after {before:?}");
    let ended = streams.finish()?;
    overflows.look(&site)?;
    for (whose, result) in ended {
        // Five replicas were stopped while they were being sent to. A connected socket of the node is
        // ended with its backend, and with it the answer that was on its way.
        let lost = result["lost"].as_u64().context("no number")?;
        let allowed = if whose.ends_with(", connected") { 5 } else { 0 };
        ensure!(lost <= allowed + overflows.all(), "{whose}: {result}, {}", overflows.all());
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_killed_replica_takes_only_what_was_on_its_way() -> Result<()> {
    let site = site()?;
    let streams = Streams::start(&site, 2000, 15)?;
    let (_, pid) = site.node.running("echo")?.pop().context("no replica")?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    eventually("two replicas", SOON, || {
        let now = site.node.running("echo")?;
        let whole = now.len() == 2 && now.iter().all(|(_, p)| *p != i64::from(pid.as_raw()));
        if whole { Ok(()) } else { bail!("{now:?}") }
    })?;
    for (whose, result) in streams.finish()? {
        // Until the agent hears of the death from containerd: some ten milliseconds.
        let (lost, sent) = (result["lost"].as_u64(), result["sent"].as_u64());
        let (lost, sent) = (lost.context("no number")?, sent.context("no number")?);
        ensure!(lost <= sent / 15 / 4, "{whose}: a quarter of a second was lost: {result}");
    }
    Ok(())
}

/// There is no replica for a while: the node refuses, and the same socket goes on with the next one.
#[test]
#[ignore = "needs root"]
fn without_a_replica_the_node_refuses() -> Result<()> {
    const SECONDS: u64 = 8;
    const RATE: u64 = 200;
    let site = OneNode::new()?;
    site.create("echo", &["-p", "7000:7/udp"], &["udp-echo"])?;
    let to = format!("{}:7000", site.node.host.v4);
    // Connected, so that it is told.
    let stream = Load::connected_datagrams(&site.client, &to, u32::try_from(RATE)?, SECONDS)?;
    thread::sleep(Duration::from_secs(1));
    site.node.ok(&["service", "scale", "echo=0"])?;
    thread::sleep(Duration::from_secs(1));
    site.node.ok(&["service", "scale", "echo=1"])?;
    let result = stream.finish()?;
    let gaps = result["gaps"].as_array().context("no gaps")?;
    let [gap] = &gaps[..] else { bail!("not one gap: {result}") };
    let (at, lost) = (gap[0].as_u64().context("when")?, gap[1].as_u64().context("how many")?);
    let back = at + lost * 1000 / RATE;
    ensure!((500..4000).contains(&at) && back < (SECONDS - 1) * 1000, "{result}");
    // Not each one is: the kernel says so to one host now and then only.
    ensure!(result["wrong"] == 0 && result["errors"] != 0, "{result}");
    Ok(())
}

/// The only replica is replaced, the old one first: nobody answers for as long as a new one takes to start.
#[test]
#[ignore = "needs root"]
fn the_only_replica_is_away_for_as_long_as_the_next_one_starts() -> Result<()> {
    const SECONDS: u64 = 10;
    const RATE: u64 = 500;
    let site = OneNode::new()?;
    let to = format!("{}:7000", site.node.host.v4);
    let stream = Load::datagrams(&site.client, &to, u32::try_from(RATE)?, SECONDS)?;
    thread::sleep(Duration::from_secs(1));
    site.create("echo", &["-p", "7000:7/udp"], &["udp-echo"])?;
    thread::sleep(Duration::from_secs(1));
    site.node.ok(&["service", "update", "--force", "echo"])?;
    let result = stream.finish()?;
    let gaps = result["gaps"].as_array().context("no gaps")?;
    let [first, second] = &gaps[..] else { bail!("not two gaps: {result}") };
    let lasted = |gap: &Value| Some(Duration::from_millis(gap[1].as_u64()? * 1000 / RATE));
    let (before, away) = (lasted(first).context("a gap")?, lasted(second).context("a gap")?);
    // From the command to the first answer.
    let start = before.saturating_sub(Duration::from_secs(1));
    println!("a start takes {start:?}; away for {away:?}");
    // What stops the old one, and a busy machine, come on top.
    ensure!(
        away < 3 * start.max(Duration::from_millis(200)) + Duration::from_millis(400),
        "{away:?}, {start:?}: {result}"
    );
    Ok(())
}
