//! `node reset` removes every trace of a node.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use warren_tests::{eventually, leaks, node, process, program, scenario::OneNode, sweep};

/// Ids of everything BPF in the kernel that a pin below the node's directory leads to.
fn programs(node_id: &str) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for pin in leaks::pinned_maps(node_id)?.values() {
        let text = program::host("bpftool", &["-j", "map", "show", "pinned", &pin.display().to_string()])?;
        let map: serde_json::Value = serde_json::from_str(&text)?;
        found.insert(map["id"].as_u64().context("a map has an id")?);
    }
    Ok(found)
}

fn maps() -> Result<BTreeSet<u64>> {
    let maps: serde_json::Value = serde_json::from_str(&program::host("bpftool", &["-j", "map", "show"])?)?;
    Ok(maps.as_array().into_iter().flatten().filter_map(|m| m["id"].as_u64()).collect())
}

fn routes(site: &OneNode) -> Result<String> {
    site.node.host.ns.ip(&["route", "show", "table", "all"])
}

#[test]
#[ignore = "needs root"]
fn a_reset_leaves_nothing_at_all() -> Result<()> {
    let mut site = OneNode::new()?;
    let ns = site.node.host.ns.name().to_owned();
    site.create("web", &["--replicas", "3", "-p", "8080:80"], &[])?;
    site.ask(8080, "/")?;
    let id = site.node.id()?;
    let containers: Vec<i64> = site.node.running("web")?.into_iter().map(|(_, pid)| pid).collect();
    let ours = programs(&id)?;
    ensure!(!ours.is_empty(), "nothing is pinned for {id}");
    let with_services = routes(&site)?;
    site.node.stop_agent()?;
    for pid in &containers {
        ensure!(process::one(*pid as i32).is_some(), "containers outlive the agent");
    }

    node::reset(site.node.dir())?;

    for pid in containers {
        ensure!(process::one(pid as i32).is_none(), "container {pid} runs");
    }
    let left = process::naming(site.node.dir());
    ensure!(left.is_empty(), "processes: {left:?}");
    ensure!(leaks::pinned_maps(&id)?.is_empty(), "pins are left");
    ensure!(!Path::new("/sys/fs/bpf/warren").join(&id).exists(), "the pins' directory is left");
    // The kernel frees programs, and with them their maps, after a grace period.
    eventually("the maps are freed", Duration::from_secs(10), || {
        let alive: Vec<u64> = maps()?.intersection(&ours).copied().collect();
        ensure!(alive.is_empty(), "maps {alive:?} live on");
        Ok(())
    })?;
    ensure!(sweep::mounts_below(site.node.dir()).is_empty(), "mounts are left");
    let data = site.node.data_dir();
    let entries = fs::read_dir(&data).map(|d| d.count()).unwrap_or(0);
    ensure!(entries == 0, "{entries} entries are left in {}", data.display());
    let links: serde_json::Value = serde_json::from_str(&site.node.host.ns.ip(&["-j", "link"])?)?;
    let names: Vec<&str> =
        links.as_array().into_iter().flatten().filter_map(|l| l["ifname"].as_str()).collect();
    ensure!(names == ["lo", "eth0"], "links of {ns}: {names:?}");
    ensure!(!routes(&site)?.contains("10.88."), "routes: {} (were: {with_services})", routes(&site)?);
    let refused = site.ask(8080, "/").err().context("a reset node answered")?;
    ensure!(refused.to_string().contains("(7)"), "{refused:#}");

    // Once more is no error, and the node can be begun anew.
    node::reset(site.node.dir())?;
    site.node.start_agent()?;
    ensure!(site.node.json(&["service", "ls"])?.as_array().is_some_and(Vec::is_empty), "services survived");
    ensure!(site.node.id()? != id, "a new node has the old one's identity");
    Ok(())
}
