//! Not one rule of netfilter is Warren's, and no switch of the host is touched.

use anyhow::{Result, ensure};
use warren_tests::{Cluster, Node, image::Image, netns::Netns, program};

const SWITCHES: [&str; 6] = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/eth0/route_localnet",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/eth0/forwarding",
];

fn switches(ns: &Netns) -> Result<Vec<(String, String)>> {
    SWITCHES.iter().map(|s| Ok(((*s).to_owned(), ns.sysctl(s)?))).collect()
}

#[test]
#[ignore = "needs root"]
fn no_rule_and_no_forwarding_switch_is_touched() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let client = cluster.host("client")?;
    let host = cluster.host("node")?;
    let machine = program::host("nft", &["list", "ruleset"])?;
    let before = switches(&host.ns)?;
    let node = Node::start(host)?;
    node.import(&Image::web("web:1"))?;
    node.ok(&["service", "create", "--image", "web:1", "--replicas", "2", "-p", "8080:80", "web"])?;
    client.curl(&format!("http://{}:8080/", node.host.v4))?;
    node.host.curl("http://127.0.0.1:8080/")?;

    let inside = |program: &str, words: &[&str]| node.host.ns.run(program, words);
    for (program, words) in
        [("nft", &["list", "ruleset"][..]), ("iptables-legacy-save", &[]), ("ip6tables-legacy-save", &[])]
    {
        let rules = inside(program, words)?;
        ensure!(rules.trim().is_empty(), "{program} shows: {rules}");
    }
    ensure!(program::host("nft", &["list", "ruleset"])? == machine, "the machine's own rules changed");
    ensure!(switches(&node.host.ns)? == before, "was {before:?}, is {:?}", switches(&node.host.ns)?);
    node.ok(&["service", "rm", "web"])?;
    ensure!(switches(&node.host.ns)? == before);
    Ok(())
}
