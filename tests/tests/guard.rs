//! `--guard xdp`: what limits and deny lists refuse is dropped in the device's driver, whoever is there to
//! look after it.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use warren_tests::{Cluster, Host, Node, eventually, image::Image, load::Load, node, scenario::OneNode};

const SOON: Duration = Duration::from_secs(15);
const XDP: [&str; 2] = ["--guard", "xdp"];

/// A node with a guard, and one beside it that is never limited by what the client does.
fn site() -> Result<(OneNode, Host)> {
    let mut cluster = Cluster::new()?;
    let (client, other) = (cluster.host("client")?, cluster.host("other")?);
    let mut node = Node::new(cluster.host("node")?, &XDP)?;
    node.start_agent()?;
    node.import(&Image::web("web:1"))?;
    Ok((OneNode { node, client, cluster }, other))
}

/// The devices of the node that have an XDP program in their driver, and its number, as `bpftool net` says.
fn programs(node: &Node) -> Result<BTreeMap<String, u64>> {
    let all: Value = serde_json::from_str(&node.host.ns.run("bpftool", &["-j", "net"])?)?;
    let xdp = all[0]["xdp"].as_array().context("a list")?;
    ensure!(xdp.iter().all(|x| x["mode"] == "driver"), "{xdp:?}");
    let of = |x: &Value| Some((x["devname"].as_str()?.to_owned(), x["id"].as_u64()?));
    Ok(xdp.iter().filter_map(of).collect())
}

fn guarded(node: &Node) -> Result<Vec<String>> {
    Ok(programs(node)?.into_keys().collect())
}

/// The link that holds the guard of the only device that has one.
fn link(node: &Node) -> Result<u64> {
    let program = programs(node)?.into_values().next().context("no device has one")?;
    let all: Value = serde_json::from_str(&node.host.ns.run("bpftool", &["-j", "link"])?)?;
    let links = all.as_array().context("a list")?.iter();
    let mut of = links.filter(|l| l["type"] == "xdp" && l["prog_id"] == program);
    let found = of.next().with_context(|| format!("no XDP link of program {program}: {all}"))?;
    ensure!(of.next().is_none(), "one is enough: {all}");
    found["id"].as_u64().context("an id")
}

/// What `net drops` says of a reason: how many, how many of them early, and the last one.
fn drops(node: &Node, reason: &str) -> Result<(u64, u64, String)> {
    let all = node.json(&["net", "drops", "--all"])?;
    let rows = all.as_array().context("a list")?;
    let row = rows.iter().find(|r| r["reason"] == reason).with_context(|| format!("no {reason} in {all}"))?;
    let number = |name: &str| row[name].as_u64().context("a number");
    Ok((number("packets")?, number("early")?, row["last"].to_string()))
}

/// The notes of a `net check` that finds nothing wrong.
fn notes(node: &Node) -> Result<Vec<String>> {
    let check = node.json(&["net", "check"])?;
    ensure!(check["problems"] == serde_json::json!([]), "{check}");
    let notes = check["notes"].as_array().context("notes")?;
    Ok(notes.iter().filter_map(|n| n.as_str()).map(str::to_owned).collect())
}

#[test]
#[ignore = "needs root"]
fn a_flood_is_dropped_early_and_to_the_same_limit() -> Result<()> {
    let (mut site, other) = site()?;
    ensure!(guarded(&site.node)? == ["eth0"], "{:?}", guarded(&site.node)?);
    let first = link(&site.node)?;
    ensure!(notes(&site.node)?.is_empty(), "{:?}", notes(&site.node)?);
    site.create("echo", &["-p", "7000:7/udp", "--limit-pps", "200/50"], &["udp-echo"])?;
    site.create("web", &["-p", "8080:80", "--limit-conn-rate", "20/10"], &[])?;
    let echo = format!("{}:7000", site.node.host.v4);

    let begun = Instant::now();
    let flood = Load::datagrams(&site.client, &echo, 2000, 4)?;
    let modest = Load::datagrams(&other, &echo, 100, 3)?.finish()?;
    ensure!(modest["received"] == 300, "the one who keeps to the limit: {modest}");
    let flood = flood.finish()?;
    let received = flood["received"].as_u64().context("received")?;
    // As without a guard: four seconds of sending, and 50 at once; a loaded machine may send for longer.
    let most = 50.0 + 200.0 * begun.elapsed().as_secs_f64();
    ensure!((842..=most as u64 + 3).contains(&received), "the one who floods: {flood}");
    let (all, early, last) = drops(&site.node, "packet-rate")?;
    ensure!(all >= 6000 && early * 10 >= all * 9, "{early} of {all} dropped early");
    ensure!(last.contains(&site.client.v4.to_string()) && last.contains("eth0"), "the last: {last}");

    let web = format!("{}:8080", site.node.host.v4);
    let flood = Load::connections(&site.client, &web, 200, 1)?;
    thread::sleep(Duration::from_millis(500));
    let modest = Load::connections(&other, &web, 10, 3)?.finish()?;
    ensure!(modest["ok"] == 30 && modest["failed"] == 0, "the one who keeps to the limit: {modest}");
    let (all, early, _) = drops(&site.node, "conn-rate")?;
    // What comes in one go passes the guard before the first of it is counted.
    ensure!(all > 50 && early * 2 >= all, "{early} of {all} dropped early");

    // Nobody needs the agent for it.
    site.node.kill_agent()?;
    let before = Load::datagrams(&site.client, &echo, 2000, 2)?.finish()?;
    ensure!(before["received"].as_u64() < Some(800), "while there is no agent: {before}");
    ensure!(link(&site.node)? == first);
    flood.finish()?;
    let (_, known, _) = {
        site.node.start_agent()?;
        drops(&site.node, "packet-rate")?
    };
    ensure!(known >= early.max(6000) + 2500, "{known} dropped early in all");
    ensure!(link(&site.node)? == first, "taken over, not made anew");
    ensure!(notes(&site.node)?.is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_guard_is_where_it_should_be_and_nowhere_else() -> Result<()> {
    let (mut site, other) = site()?;
    site.create("web", &["-p", "8080:80"], &[])?;
    let (v4, v6) = (site.client.v4.to_string(), format!("{}/128", site.client.v6));
    let asks = |site: &OneNode, host: &Host| -> Result<()> {
        let (v4, v6) = (site.node.host.v4, site.node.host.v6);
        host.curl(&format!("http://{v4}:8080/"))?;
        host.curl(&format!("http://[{v6}]:8080/")).map(drop)
    };
    asks(&site, &site.client)?;
    site.node.ok(&["net", "deny", "add", &v4, &v6])?;
    ensure!(asks(&site, &site.client).is_err(), "it is denied");
    asks(&site, &other)?;
    let (all, early, last) = drops(&site.node, "denied")?;
    ensure!(
        early > 0 && early == all && last.contains(&v4),
        "{early} of {all} dropped early, the last {last}"
    );

    // A device that comes later; one that has no driver for it; one whose guard somebody takes away.
    let ns = &site.node.host.ns;
    ns.ip(&["link", "add", "up1", "type", "veth", "peer", "name", "there"])?;
    ns.ip(&["link", "add", "none0", "type", "bridge"])?;
    eventually("both ends of a link have a guard", SOON, || {
        let all = guarded(&site.node)?;
        ensure!(all == ["eth0", "there", "up1"], "{all:?}");
        Ok(())
    })?;
    eventually("the one without is named", SOON, || {
        let notes = notes(&site.node)?;
        let sentence = "device none0 has no guard in XDP (its driver has no native XDP)";
        ensure!(notes.len() == 1 && notes[0].starts_with(sentence), "{notes:?}");
        ensure!(site.node.log_text().matches(sentence).count() == 1, "{}", site.node.log_tail());
        Ok(())
    })?;
    ns.ip(&["link", "del", "up1"])?;
    ns.ip(&["link", "del", "none0"])?;
    eventually("they are forgotten", SOON, || {
        let (all, notes) = (guarded(&site.node)?, notes(&site.node)?);
        ensure!(all == ["eth0"] && notes.is_empty(), "{all:?} {notes:?}");
        Ok(())
    })?;
    ns.run("bpftool", &["link", "detach", "id", &link(&site.node)?.to_string()])?;
    ensure!(guarded(&site.node)?.is_empty(), "somebody took it away");
    let missed = site.node.cli(&["net", "check"])?;
    ensure!(missed.status != Some(0), "nobody misses it");
    eventually("it is back", SOON, || {
        ensure!(guarded(&site.node)? == ["eth0"]);
        Ok(())
    })?;

    // Without it everything is as it was.
    site.node.stop_agent()?;
    ensure!(guarded(&site.node)? == ["eth0"], "it stays when the agent goes");
    site.node.set_flags(&[]);
    site.node.start_agent()?;
    ensure!(guarded(&site.node)?.is_empty(), "nobody asks for it any more");
    ensure!(notes(&site.node)?.is_empty());
    ensure!(asks(&site, &site.client).is_err(), "it is denied all the same");
    asks(&site, &other)?;
    let (late, before, _) = drops(&site.node, "denied")?;
    ensure!(before == early && late > all, "{before} of {late} early, before {early} of {all}");

    // A reset takes it away, too.
    site.node.stop_agent()?;
    site.node.set_flags(&XDP);
    site.node.start_agent()?;
    ensure!(guarded(&site.node)? == ["eth0"]);
    site.node.stop_agent()?;
    node::reset(site.node.dir())?;
    ensure!(guarded(&site.node)?.is_empty(), "a reset leaves it");
    Ok(())
}
