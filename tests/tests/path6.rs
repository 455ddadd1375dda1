//! The same path over IPv6: from another host, from the node itself, among containers and out.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use warren_tests::{
    eventually, image,
    scenario::{OneNode, field},
};

const SOON: Duration = Duration::from_secs(10);

/// Asks a published port over IPv6 from the client.
fn ask6(site: &OneNode, port: u16, path: &str) -> Result<String> {
    site.client.curl(&format!("http://[{}]:{port}{path}", site.node.host.v6))
}

#[test]
#[ignore = "needs root"]
fn another_host_reaches_every_replica_over_ipv6_and_is_seen_as_itself() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "3", "-p", "8080:80"], &[])?;
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let answer = ask6(&site, 8080, "/")?;
        let client = field(&answer, "client")?;
        ensure!(client.starts_with(&format!("[{}]:", site.client.v6)), "the container saw {client}");
        seen.insert(field(&answer, "host")?.to_owned());
    }
    ensure!(seen.len() == 3, "60 connections reached {seen:?} of 3 replicas");
    // The same port, the same service.
    site.ask(8080, "/")?;
    let flows = site.node.ok(&["net", "flows"])?;
    ensure!(flows.contains(&format!("[{}]:", site.client.v6)), "{flows}");
    site.node.ok(&["net", "check"])?;
    site.node.ok(&["service", "rm", "web"])?;
    let refused = ask6(&site, 8080, "/").err().context("a removed service answered")?;
    ensure!(refused.to_string().contains("(7)"), "should be refused at once: {refused:#}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_node_itself_reaches_it_on_loopback_and_on_its_own_address_of_ipv6() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    for host in ["::1".to_owned(), site.node.host.v6.to_string(), "::ffff:127.0.0.1".into()] {
        for _ in 0..10 {
            let answer = site.node.host.curl(&format!("http://[{host}]:8080/"))?;
            ensure!(answer.contains("path=/"), "{host}: {answer}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn containers_have_ipv6_and_reach_others_themselves_and_the_outside_with_it() -> Result<()> {
    let mut site = OneNode::new()?;
    let server = site.cluster.host("server")?;
    let mut helpers = Vec::new();
    for (command, port) in [("http", "80"), ("udp-echo", "7")] {
        let mut c = server.ns.command(image::testbox()?)?;
        helpers.push(c.args([command, port]).stdin(Stdio::null()).spawn()?);
    }
    site.create("web", &["-p", "8080:80"], &[])?;
    site.create("other", &["-p", "8081:80"], &[])?;
    let from = |port: u16, path: String| eventually("a way", SOON, || ask6(&site, port, &path));
    let node = site.node.host.v6;

    // The server sees the node: masquerade.
    let seen = from(8080, format!("/tcp?to=[{}]:80", server.v6))?;
    ensure!(seen.trim().trim_matches(['[', ']']) == node.to_string(), "the server saw {seen}");
    // A datagram comes back from where it was sent.
    let answered = from(8080, format!("/udp?to=[{}]:7", server.v6))?;
    ensure!(answered.trim() == format!("[{}]:7", server.v6), "the datagram came back from {answered}");
    from(8080, format!("/ping?to={}", server.v6))?;
    // Through published ports: another container, and itself.
    from(8081, format!("/tcp?to=[{node}]:8080"))?;
    from(8080, format!("/tcp?to=[{node}]:8080"))?;
    // Nothing of it depends on the node forwarding for everybody.
    ensure!(site.node.host.ns.sysctl("net/ipv6/conf/all/forwarding")? == "0");
    drop(server);
    for mut helper in helpers {
        helper.wait()?;
    }
    Ok(())
}
