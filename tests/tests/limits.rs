//! What one client gets of a published port, and clients that get nothing, as clients see it.

use std::{
    io::{BufRead as _, BufReader},
    net::IpAddr,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use warren_tests::{Host, Node, eventually, load::Load, scenario::OneNode};

const SOON: Duration = Duration::from_secs(10);

/// curl's status for a connection that was refused, and for one that nobody answered.
const REFUSED: i32 = 7;
const SILENCE: i32 = 28;

fn asks(host: &Host, to: &str) -> Result<i32> {
    let mut c = host.ns.command("curl")?;
    c.args(["-sS", "--noproxy", "*", "--max-time", "2", "-o", "/dev/null", &format!("http://{to}/")]);
    c.output()?.status.code().context("curl was killed")
}

fn expect(host: &Host, to: &str, status: i32) -> Result<()> {
    let got = asks(host, to)?;
    ensure!(got == status, "{to} from {}: curl ended with {got}, not {status}", host.v4);
    Ok(())
}

/// What `net drops` says of a reason: how many, and the last one.
fn drops(node: &Node, reason: &str) -> Result<(u64, String)> {
    let all = node.json(&["net", "drops", "--all"])?;
    let rows = all.as_array().context("a list")?;
    let row = rows.iter().find(|r| r["reason"] == reason).with_context(|| format!("no {reason} in {all}"))?;
    Ok((row["packets"].as_u64().context("a number")?, row["last"].to_string()))
}

#[test]
#[ignore = "needs root"]
fn one_client_s_flood_is_cut_to_its_limit_and_another_is_served() -> Result<()> {
    let mut site = OneNode::new()?;
    let other = site.cluster.host("other")?;
    let (node, client) = (&site.node, &site.client);
    site.create("web", &["-p", "8080:80", "--limit-conn-rate", "20/10"], &[])?;
    site.create("echo", &["-p", "7000:7/udp", "--limit-pps", "200/50"], &["udp-echo"])?;
    let limits = &node.json(&["service", "inspect", "web"])?["limits"];
    ensure!(limits["conn_rate"] == serde_json::json!({ "per_second": 20, "burst": 10 }), "{limits}");
    ensure!(limits["packet_rate"].is_null(), "{limits}");
    let web = format!("{}:8080", node.host.v4);
    let echo = format!("{}:7000", node.host.v4);

    // Its workers wait for answers that do not come: this takes some fifteen seconds.
    let flood = Load::connections(client, &web, 200, 1)?;
    thread::sleep(Duration::from_millis(500));
    // Half of what it may have, while the other has none left.
    let modest = Load::connections(&other, &web, 10, 4)?.finish()?;
    ensure!(modest["ok"] == 40 && modest["failed"] == 0, "the one who keeps to the limit: {modest}");
    let flood = flood.finish()?;
    let (ok, took) = (flood["ok"].as_u64().context("ok")?, flood["seconds"].as_f64().context("seconds")?);
    ensure!((30..=(11.0 + 20.0 * took) as u64).contains(&ok), "the one who floods: {flood}");
    let (dropped, last) = drops(node, "conn-rate")?;
    ensure!(dropped > 50 && last.contains(&client.v4.to_string()), "{dropped} dropped, the last {last}");

    let begun = Instant::now();
    let flood = Load::datagrams(client, &echo, 2000, 5)?;
    let modest = Load::datagrams(&other, &echo, 100, 3)?.finish()?;
    ensure!(modest["received"] == 300, "the one who keeps to the limit: {modest}");
    let flood = flood.finish()?;
    let received = flood["received"].as_u64().context("received")?;
    // Five seconds of sending, and 50 at once; a loaded machine may send for longer.
    let most = 50.0 + 200.0 * begun.elapsed().as_secs_f64();
    ensure!((1040..=most as u64 + 3).contains(&received), "the one who floods: {flood}");
    let (dropped, last) = drops(node, "packet-rate")?;
    ensure!(dropped >= 8000 && last.contains(&client.v4.to_string()), "{dropped} dropped, the last {last}");

    // Lifted, limits are gone; tasks are not replaced for it.
    let before = node.running("web")?;
    let (before_flood, _) = drops(node, "conn-rate")?;
    node.ok(&["service", "update", "--limit-conn-rate", "none", "web"])?;
    ensure!(node.running("web")? == before, "the container was replaced");
    let free = Load::connections(client, &web, 200, 2)?.finish()?;
    ensure!(free["ok"] == 400 && free["failed"] == 0, "{free}");
    ensure!(drops(node, "conn-rate")?.0 == before_flood);
    node.ok(&["net", "check"])?;
    Ok(())
}

/// A connection that is held; it ends with this.
struct Held(Child);

impl Held {
    /// The status of the shell if there is no connection within two seconds.
    fn open(host: &Host, to: IpAddr, port: u16) -> Result<Self> {
        let mut c = host.ns.command("bash")?;
        c.args(["-c", &format!("exec 3<>/dev/tcp/{to}/{port} && echo open && exec sleep 60")]);
        let mut child = c.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let said = child.stdout.take().context("its output")?;
        let held = Self(child);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let _ = BufReader::new(said).read_line(&mut line);
            let _ = tell.send(line);
        });
        match told.recv_timeout(Duration::from_secs(2)) {
            Ok(line) if line == "open\n" => Ok(held),
            other => anyhow::bail!("no connection to {to} port {port}: {other:?}"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root"]
fn a_client_has_so_many_connections_at_a_time() -> Result<()> {
    let mut site = OneNode::new()?;
    let other = site.cluster.host("other")?;
    let client = &site.client;
    site.create("echo", &["-p", "7000:7", "--limit-conns", "3"], &["tcp-echo"])?;
    site.create("web", &["-p", "8080:80", "--limit-conns", "1"], &[])?;
    let web = format!("{}:8080", site.node.host.v4);
    for to in [IpAddr::from(site.node.host.v4), IpAddr::from(site.node.host.v6)] {
        let open = |host: &Host| Held::open(host, to, 7000);
        let mut held = (0..3).map(|_| open(client)).collect::<Result<Vec<_>>>()?;
        ensure!(open(client).is_err(), "a fourth connection to {to}");
        // In IPv6 whoever has the first half of the address is one client.
        let others: Vec<_> = (0..3).filter_map(|_| open(&other).ok()).collect();
        ensure!(
            others.len() == if to.is_ipv4() { 3 } else { 0 },
            "{} of another client to {to}",
            others.len()
        );
        held.pop();
        held.push(open(client).context("one ended, so one may begin")?);
        ensure!(open(client).is_err(), "again a fourth connection to {to}");

        // It holds while there is no agent, and the next one goes on with it.
        site.node.kill_agent()?;
        ensure!(open(client).is_err(), "a fourth connection to {to} while there is no agent");
        site.node.start_agent()?;
        ensure!(open(client).is_err(), "a fourth connection to {to} with another agent");
        site.node.ok(&["service", "update", "--limit-conns", "4", "echo"])?;
        held.push(open(client).context("the limit was raised")?);
        ensure!(open(client).is_err(), "a fifth connection to {to}");
        site.node.ok(&["service", "update", "--limit-conns", "3", "echo"])?;
    }
    let (dropped, last) = drops(&site.node, "conns")?;
    ensure!(dropped >= 10 && last.contains(&client.v6.to_string()), "{dropped} dropped, the last {last}");
    let limits = &site.node.json(&["service", "inspect", "echo"])?["limits"];
    ensure!(limits["conns"] == 3 && limits["conn_rate"].is_null(), "{limits}");

    // One after the other is one at a time.
    let (before, _) = drops(&site.node, "conns")?;
    for _ in 0..30 {
        expect(client, &web, 0)?;
    }
    ensure!(drops(&site.node, "conns")?.0 == before, "refused though none was open");
    site.node.ok(&["net", "check"])?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn denied_clients_are_cut_off_at_once_and_stay_so() -> Result<()> {
    let mut site = OneNode::new()?;
    let other = site.cluster.host("other")?;
    site.create("web", &["-p", "8080:80"], &[])?;
    site.create("echo", &["-p", "7000:7"], &["tcp-echo"])?;
    let (v4, v6) = (site.node.host.v4, site.node.host.v6);
    let (to, to6) = (format!("{v4}:8080"), format!("[{v6}]:8080"));
    expect(&site.client, &to, 0)?;
    expect(&site.client, &to6, 0)?;
    let stream = Load::stream(&site.client, &format!("{v4}:7000"), 100, 5)?;
    thread::sleep(Duration::from_secs(1));

    let (client4, client6) = (site.client.v4.to_string(), format!("{}/128", site.client.v6));
    site.node.ok(&["net", "deny", "add", &client4, &client6])?;
    expect(&site.client, &to, SILENCE)?;
    expect(&site.client, &to6, SILENCE)?;
    expect(&other, &to, 0)?;
    expect(&site.node.host, &to, 0)?;
    let stream = stream.finish()?;
    let (sent, received) = (stream["sent"].as_u64(), stream["received"].as_u64());
    ensure!(received > Some(50) && received < Some(300), "a connection that was there: {sent:?} {stream}");
    let (dropped, last) = drops(&site.node, "denied")?;
    ensure!(dropped > 0 && last.contains(&client4), "{dropped} dropped, the last {last}");
    let list = site.node.json(&["net", "deny", "ls"])?;
    let expected = serde_json::json!([{ "network": format!("{client4}/32") }, { "network": client6 }]);
    ensure!(list == expected, "{list}");

    // The rest of the node is the host's own matter.
    expect(&site.client, &format!("{v4}:81"), REFUSED)?;

    // Nobody needs the agent for it, and another one goes on with it.
    site.node.kill_agent()?;
    expect(&site.client, &to, SILENCE)?;
    expect(&other, &to, 0)?;
    site.node.start_agent()?;
    expect(&site.client, &to, SILENCE)?;
    ensure!(site.node.json(&["net", "deny", "ls"])? == expected);
    site.node.ok(&["net", "check"])?;

    let why = site.node.refused(&["net", "deny", "rm", "203.0.113.0/24"])?;
    ensure!(why.contains("203.0.113.0/24 is not on the deny list"), "{why}");
    site.node.ok(&["net", "deny", "rm", &client4])?;
    eventually("it is let in again", SOON, || expect(&site.client, &to, 0))?;
    expect(&site.client, &to6, SILENCE)?;

    // A list that was damaged is not taken for an empty one.
    site.node.stop_agent()?;
    let file = site.node.data_dir().join("deny");
    let whole = std::fs::read(&file)?;
    std::fs::write(&file, &whole[..whole.len() - 1])?;
    let failed = site.node.start_agent();
    ensure!(failed.is_err(), "it started on a damaged list");
    ensure!(site.node.log_text().contains("is damaged: restore it"), "{}", site.node.log_tail());
    expect(&site.client, &to6, SILENCE)?;
    std::fs::write(&file, &whole)?;
    site.node.start_agent()?;
    site.node.ok(&["net", "deny", "rm", &client6])?;
    expect(&site.client, &to6, 0)?;
    site.node.ok(&["net", "check"])?;
    Ok(())
}
