//! A node on a host without IPv6: everything works over IPv4, and it says so once.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};
use warren_tests::{
    Cluster, Node,
    image::{self, Image},
    node::warren,
    scenario::field,
};

/// One service, asked from another host and from the node itself.
fn serves(refused: bool) -> Result<()> {
    let mut cluster = Cluster::new()?;
    let client = cluster.host("client")?;
    let host = cluster.host("node")?;
    host.ns.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    let dir = tempfile::Builder::new().prefix("wtx-").tempdir()?;
    let mut node = Node::new(host, &[])?;
    if refused {
        // As with `ipv6.disable=1`, as far as one kernel can be both ways.
        let program = dir.path().join("warren");
        let (testbox, warren) = (image::testbox()?, warren()?);
        let text =
            format!("#!/bin/sh\nexec {} without-ipv6 {} \"$@\"\n", testbox.display(), warren.display());
        fs::write(&program, text)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        node.set_binary(program);
    }
    node.start_agent()?;
    node.import(&Image::web("web:1"))?;
    node.ok(&["service", "create", "--image", "web:1", "--replicas", "2", "-p", "8080:80", "web"])?;
    let answer = client.curl(&format!("http://{}:8080/", node.host.v4))?;
    ensure!(field(&answer, "client")?.starts_with(&format!("{}:", client.v4)), "{answer}");
    for to in ["127.0.0.1".to_owned(), node.host.v4.to_string()] {
        node.host.curl(&format!("http://{to}:8080/"))?;
    }
    let pid = node.running("web")?.first().context("a replica")?.1;
    let addresses = fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).unwrap_or_default();
    ensure!(!addresses.contains("eth0"), "the container has IPv6: {addresses}");
    let said = node.log_text();
    let lines: Vec<&str> = said.lines().filter(|l| l.contains("IPv6")).collect();
    ensure!(lines.len() == 1 && lines[0].contains("IPv6 is switched off here"), "{lines:?}");
    node.ok(&["net", "check"])?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn switched_off_by_sysctl() -> Result<()> {
    serves(false)
}

#[test]
#[ignore = "needs root"]
fn refused_by_the_kernel() -> Result<()> {
    serves(true)
}
