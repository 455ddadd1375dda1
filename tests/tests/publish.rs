//! Each form of a published port in effect: who is answered, and who is not.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use warren_tests::{Host, Node, eventually, scenario::OneNode};

const SOON: Duration = Duration::from_secs(10);

/// curl's status for a connection that was refused, and for one that nobody answered.
const REFUSED: i32 = 7;
const SILENCE: i32 = 28;

/// Asks and does not wait long; curl's status.
fn asks(host: &Host, from: Option<&str>, to: &str) -> Result<i32> {
    let mut c = host.ns.command("curl")?;
    c.args(["-sS", "--noproxy", "*", "--max-time", "2", "-o", "/dev/null"]);
    c.args(from.into_iter().flat_map(|from| ["--interface", from])).arg(format!("http://{to}/"));
    c.output()?.status.code().context("curl was killed")
}

fn expect(host: &Host, from: Option<&str>, to: &str, status: i32) -> Result<()> {
    let got = asks(host, from, to)?;
    ensure!(got == status, "{to} from {from:?}: curl ended with {got}, not {status}");
    Ok(())
}

fn ports(node: &Node, service: &str) -> Result<Vec<String>> {
    let list = node.json(&["service", "ls"])?;
    let all = list.as_array().context("a list")?;
    let found = all.iter().find(|s| s["name"] == service).context("the service is listed")?;
    strings(&found["ports"])
}

fn strings(list: &Value) -> Result<Vec<String>> {
    let list = list.as_array().context("a list")?;
    list.iter().map(|p| Ok(p.as_str().context("a text")?.to_owned())).collect()
}

/// What the datapath has dropped for this reason.
fn drops(node: &Node, reason: usize) -> Result<u64> {
    let maps = Path::new("/sys/fs/bpf/warren").join(node.id()?).join("v1/maps");
    let pin = std::fs::read_dir(&maps)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("DROPS-")))
        .context("no map DROPS")?;
    let out = Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(&pin).output()?;
    ensure!(out.status.success(), "bpftool: {}", String::from_utf8_lossy(&out.stderr));
    let rows: Value = serde_json::from_slice(&out.stdout)?;
    let row = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| &row["formatted"])
        .find(|row| row["key"] == reason)
        .with_context(|| format!("no row {reason} in {rows}"))?;
    Ok(row["values"].as_array().into_iter().flatten().filter_map(|v| v["value"]["packets"].as_u64()).sum())
}

#[test]
#[ignore = "needs root"]
fn a_range_leads_each_port_to_its_own() -> Result<()> {
    let site = OneNode::new()?;
    let (node, client) = (&site.node, &site.client);
    site.create("web", &["-p", "8090-8092:80-82"], &["http", "81"])?;
    let list = node.ok(&["service", "ls"])?;
    ensure!(list.contains("8090-8092:80-82/tcp"), "{list}");
    let at = |port: u16| format!("{}:{port}", node.host.v4);
    for (port, status) in [(8090, REFUSED), (8091, 0), (8092, REFUSED), (8093, REFUSED)] {
        expect(client, None, &at(port), status)?;
    }
    // What the datapath says of a packet to each.
    let known = node.json(&["net", "flows"])?.as_array().map(Vec::len);
    for (port, verdict, target) in [(8091, "container", ":81"), (8093, "passed", "")] {
        let trace = node.json(&["net", "trace", "tcp", &client.v4.to_string(), &at(port)])?;
        let to = trace["destination"].as_str().unwrap_or_default();
        ensure!(trace["verdict"] == verdict && to.ends_with(target), "{trace}");
        ensure!(trace["program"] == "node_in_l2" && trace["tag"] == trace["running_tag"], "{trace}");
    }
    ensure!(node.json(&["net", "flows"])?.as_array().map(Vec::len) == known, "a trace is no flow");
    node.ok(&["service", "update", "--publish-rm", "81", "--publish-add", "8093:81", "web"])?;
    ensure!(ports(node, "web")? == ["8090:80/tcp", "8092:82/tcp", "8093:81/tcp"]);
    eventually("the ports are as they should be", SOON, || {
        expect(client, None, &at(8091), REFUSED)?;
        expect(client, None, &at(8093), 0)
    })
}

#[test]
#[ignore = "needs root"]
fn a_free_port_is_chosen_shown_and_kept() -> Result<()> {
    let site = OneNode::new()?;
    let (node, client) = (&site.node, &site.client);
    let create =
        ["service", "create", "--image", "web:1", "-p", "80", "--publish", "target=80,ip=127.0.0.1", "web"];
    let said = node.cli(&create)?;
    ensure!(said.good(), "{}", said.stderr);
    let chosen = ports(node, "web")?;
    let [open, own] = chosen.as_slice() else { bail!("{chosen:?}") };
    let number = |text: &str| -> Result<u16> {
        let port: u16 = text.strip_suffix(":80/tcp").context("a port")?.parse()?;
        ensure!((30_000..=32_767).contains(&port), "{text}");
        Ok(port)
    };
    let (port, own_port) = (number(open)?, number(own.strip_prefix("127.0.0.1:").context("an address")?)?);
    ensure!(said.stderr.contains(&format!("{open} answers everyone")), "{}", said.stderr);
    ensure!(said.stderr.contains(&format!("{own} answers processes of the node itself")), "{}", said.stderr);
    for words in [&["service", "ps", "web"][..], &["service", "ls"]] {
        let shown = node.ok(words)?;
        ensure!(shown.contains(open) && shown.contains(own), "{words:?}: {shown}");
    }
    let inspected: Value = serde_json::from_str(&node.ok(&["service", "inspect", "web"])?)?;
    let inspected = inspected.get(0).unwrap_or(&inspected);
    ensure!(strings(&inspected["ports"])? == chosen, "{inspected}");
    let tasks = node.json(&["service", "ps", "web"])?;
    ensure!(strings(&tasks[0]["ports"])? == chosen, "{tasks}");

    expect(client, None, &format!("{}:{port}", node.host.v4), 0)?;
    expect(&node.host, None, &format!("127.0.0.1:{own_port}"), 0)?;
    expect(client, None, &format!("{}:{own_port}", node.host.v4), REFUSED)?;
    // It stays over updates, also over one that asks for the same again.
    node.ok(&["service", "update", "--env", "A=1", "--publish-add", "80", "web"])?;
    ensure!(ports(node, "web")? == chosen, "the ports have changed");
    expect(client, None, &format!("{}:{port}", node.host.v4), 0)?;
    // Another service gets another one.
    site.create("other", &["-p", "80"], &[])?;
    let other = ports(node, "other")?;
    ensure!(number(&other[0])? != port, "{other:?}");
    expect(client, None, &format!("{}:{}", node.host.v4, number(&other[0])?), 0)
}

#[test]
#[ignore = "needs root"]
fn a_port_answers_only_the_sources_it_was_published_for() -> Result<()> {
    let mut site = OneNode::new()?;
    let other = site.cluster.host("other")?;
    let (node, client) = (&site.node, &site.client);
    let to = format!("{}:8080", node.host.v4);
    let port = |from: &str| format!("published=8080,target=80,from={from}");
    let said = node.cli(&[
        "service",
        "create",
        "--image",
        "web:1",
        "--publish",
        &port(&format!("{}", client.v4)),
        "--publish",
        "8081:80",
        "web",
    ])?;
    ensure!(said.good(), "{}", said.stderr);
    ensure!(
        said.stderr.contains(&format!("8080:80/tcp answers clients from {}/32", client.v4)),
        "{}",
        said.stderr
    );

    let refused = drops(node, REASON_REFUSED)?;
    expect(client, None, &to, 0)?;
    expect(&other, None, &to, SILENCE)?;
    ensure!(drops(node, REASON_REFUSED)? > refused, "the drop was not counted");
    // The other port of the same service is everybody's.
    expect(&other, None, &format!("{}:8081", node.host.v4), 0)?;
    // The node itself is let in, a container is not.
    expect(&node.host, None, "127.0.0.1:8080", 0)?;
    expect(&node.host, None, &to, 0)?;
    site.create("asker", &["-p", "8082:80"], &[])?;
    let from_container = |port: u16| site.ask(8082, &format!("/tcp?to={}:{port}", node.host.v4));
    from_container(8081)?;
    ensure!(from_container(8080).is_err(), "a container came in");

    // Another set takes its place at once; established connections are another matter.
    let both = port(&format!("10.0.0.0/8,{}/32", other.v4));
    node.ok(&["service", "update", "--publish-add", &both, "web"])?;
    eventually("the other one is let in", SOON, || expect(&other, None, &to, 0))?;
    expect(client, None, &to, SILENCE)?;
    expect(&node.host, None, "127.0.0.1:8080", 0)?;
    // A network that holds both.
    node.ok(&["service", "update", "--publish-add", &port("198.18.0.0/24"), "web"])?;
    eventually("the network is let in", SOON, || expect(client, None, &to, 0))?;
    expect(&other, None, &to, 0)?;
    // `net ls` says so from the live maps.
    let list = node.json(&["net", "ls"])?;
    let row = |port: u16| -> Result<&Value> {
        let rows = list.as_array().context("a list")?;
        rows.iter().find(|r| r["published"] == port).with_context(|| format!("no {port} in {list}"))
    };
    ensure!(row(8080)?["sources"] == serde_json::json!(["198.18.0.0/24"]), "{list}");
    ensure!(row(8081)?["sources"].is_null(), "{list}");
    // Nobody's port refuses at once.
    node.ok(&["service", "update", "--publish-rm", "8080:80", "web"])?;
    eventually("the port is closed", SOON, || expect(client, None, &to, REFUSED))?;
    node.ok(&["net", "check"])?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_nodes_default_decides_who_a_bare_port_answers() -> Result<()> {
    let mut site = OneNode::new()?;
    // Somebody who is in no subnet of the node's.
    let stranger = "203.0.113.5";
    site.client.ns.ip(&["addr", "add", &format!("{stranger}/32"), "dev", "eth0"])?;
    let v4 = site.node.host.v4;
    let said = site.node.cli(&[
        "service",
        "create",
        "--image",
        "web:1",
        "-p",
        "8080:80",
        "-p",
        "0.0.0.0:8081:80",
        "-p",
        &format!("{v4}:8082:80"),
        "--publish",
        "published=8083,target=80,from=203.0.113.0/24",
        "web",
    ])?;
    ensure!(said.good(), "{}", said.stderr);
    let (bare, every, one, from) =
        (format!("{v4}:8080"), format!("{v4}:8081"), format!("{v4}:8082"), format!("{v4}:8083"));
    for (default, neighbours, strangers) in [("any", 0, 0), ("lan", 0, SILENCE), ("none", SILENCE, SILENCE)] {
        site.node.stop_agent()?;
        site.node.set_flags(&["--publish-default", default]);
        site.node.start_agent()?;
        let client = &site.client;
        eventually(&format!("{default} is in effect"), SOON, || {
            expect(client, None, &bare, neighbours)?;
            expect(client, Some(stranger), &bare, strangers)
        })?;
        // What says for whom it is does not ask for a default.
        for to in [&every, &one] {
            expect(client, None, to, 0)?;
            expect(client, Some(stranger), to, 0)?;
        }
        expect(client, None, &from, SILENCE)?;
        expect(client, Some(stranger), &from, 0)?;
        for to in ["127.0.0.1:8080", &bare] {
            expect(&site.node.host, None, to, 0)?;
        }
        let shown = site.node.json(&["node", "ls"])?;
        ensure!(shown[0]["publish_default"] == default, "{shown}");
        site.node.ok(&["net", "check"])?;
    }
    // A subnet that a device gets later is the node's, too.
    site.node.stop_agent()?;
    site.node.set_flags(&["--publish-default", "lan"]);
    site.node.start_agent()?;
    let client = &site.client;
    expect(client, Some(stranger), &bare, SILENCE)?;
    site.node.host.ns.ip(&["addr", "add", "203.0.113.1/24", "dev", "eth0"])?;
    eventually("the stranger is a neighbour", SOON, || expect(client, Some(stranger), &bare, 0))?;
    let said = site.node.cli(&["service", "create", "--image", "web:1", "-p", "8084:80", "late"])?;
    ensure!(said.stderr.contains("8084:80/tcp answers private addresses"), "{}", said.stderr);
    Ok(())
}

/// Row of `DROPS`.
const REASON_REFUSED: usize = warren_ebpf::abi::Reason::Refused as usize;
