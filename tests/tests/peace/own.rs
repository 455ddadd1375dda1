//! The host's own sockets.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use warren_tests::{Node, eventually, scenario::OneNode};

use crate::{
    SOON,
    talk::{Listener, Talk, WAYS, ask},
};

const ANY: [u16; 8] = [0; 8];

/// What a service's mirror answers to `?`, which is not "who?": the same; TCP first tells whom it sees.
fn is_container(said: &str) -> bool {
    said == "?" || said.starts_with("client=")
}

/// What answers from another host, by every way and both families.
fn all(site: &OneNode, addresses: &[IpAddr], port: u16, right: impl Fn(&str) -> bool) -> Result<()> {
    for way in WAYS {
        for to in addresses {
            let said = ask(&site.client, way, SocketAddr::from((*to, port)))
                .with_context(|| format!("{way} to {to}:{port}"))?;
            ensure!(right(&said), "{way} to {to}:{port}: {said:?} answered");
        }
    }
    Ok(())
}

fn publish(node: &Node, what: &str, port: impl std::fmt::Display) -> Result<()> {
    for protocol in ["tcp", "udp"] {
        node.ok(&["service", "update", what, &format!("{port}:7000/{protocol}"), "mirror"])?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_hosts_own_sockets_are_left_alone() -> Result<()> {
    let site = OneNode::new()?;
    let (node, client) = (&site.node, &site.client);
    let both: [IpAddr; 2] = [node.host.v4.into(), node.host.v6.into()];
    let mirror = |port| [format!("{port}:7000/tcp"), format!("{port}:7000/udp")];
    let [tcp, udp] = mirror(9000);
    site.create("mirror", &["-p", &tcp, "-p", &udp], &["mirror", "7000"])?;
    eventually("the service answers", SOON, || all(&site, &both, 9000, is_container))?;
    // A container that has conversations of its own through the masquerade all the while.
    site.create("asker", &["-p", "8080:80"], &[])?;

    // Listeners: also in the ranges of free and of masqueraded ports.
    for port in [9100, 30_000, 32_767, 61_000, 65_535] {
        let _own = Listener::on(&node.host, (ANY, port).into(), "own")?;
        all(&site, &both, port, |said| said == "own")?;
    }

    // Outgoing, from any port, the published one too, while containers go out.
    let _far = Listener::on(client, (ANY, 9200).into(), "far")?;
    let far: [SocketAddr; 2] = [(client.v4, 9200).into(), (client.v6, 9200).into()];
    for port in [9000, 30_000, 32_767, 61_000, 61_001, 65_535, 0] {
        for (way, to) in WAYS.iter().flat_map(|way| far.map(|to| (way, to))) {
            site.ask(8080, &format!("/udp?to={}:9200", client.v4))?;
            // Of datagrams to a published port, only a connected socket gets its own.
            if (*way, port) == ("udp", 9000) {
                continue;
            }
            let said = Talk::begin(&node.host, way, port, to).and_then(|mut t| t.ask());
            let said = said.with_context(|| format!("{way} from {port} to {to}"))?;
            ensure!(said == "far", "{way} from {port} to {to}: {said:?} answered");
        }
    }

    // Conversations that are older than the port which is published under them.
    let mut open: Vec<Talk> = ["tcp", "connected udp"]
        .iter()
        .flat_map(|way| far.map(|to| Talk::begin(&node.host, way, 9300, to)))
        .collect::<Result<_>>()?;
    publish(node, "--publish-add", 9300)?;
    eventually("the new port answers", SOON, || all(&site, &both, 9300, is_container))?;
    for talk in &mut open {
        ensure!(talk.ask().context("a conversation from a port that was published since")? == "far");
    }
    drop(open);

    // What listens first keeps its port: publishing is refused, and the process is named.
    let own = Listener::on(&node.host, (ANY, 9400).into(), "own")?;
    let refused = node.refused(&["service", "update", "--publish-add", "9400:7000/tcp", "mirror"])?;
    let pid = format!("(pid {})", std::process::id());
    ensure!(refused.contains("9400") && refused.contains(&pid), "{refused}");
    all(&site, &both, 9400, |said| said == "own")?;
    drop(own);

    // What listens later on a published port gets nothing, until the port is given back.
    let own = Listener::on(&node.host, (ANY, 9300).into(), "own")?;
    all(&site, &both, 9300, is_container)?;
    publish(node, "--publish-rm", 9300)?;
    eventually("the listener has its port", SOON, || all(&site, &both, 9300, |said| said == "own"))?;
    drop(own);

    // One port, two addresses.
    let second = "198.18.0.200";
    node.host.ns.ip(&["addr", "add", &format!("{second}/24"), "dev", "eth0"])?;
    let second: IpAddr = second.parse()?;
    let _own = Listener::on(&node.host, (second, 9500).into(), "own")?;
    let first = format!("{}:9500", node.host.v4);
    publish(node, "--publish-add", &first)?;
    eventually("the address answers", SOON, || all(&site, &both[..1], 9500, is_container))?;
    all(&site, &[second], 9500, |said| said == "own")
}
