//! nftables that drop.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use warren_tests::scenario::OneNode;

use crate::{
    talk::{Listener, ask},
    whole,
};

/// What a careful administrator has: in only what belongs to something that went out, neighbours of
/// IPv6, and loopback; nothing is forwarded; anything may go out.
const USUAL: &str = "table inet host {
    chain input { type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
    chain forward { type filter hook forward priority 0; policy drop; }
    chain output { type filter hook output priority 0; policy accept; }
}";

/// Nothing at all but neighbours of IPv6.
const CLOSED: &str = "flush ruleset; table inet host {
    chain input { type filter hook input priority 0; policy drop;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
    chain forward { type filter hook forward priority 0; policy drop; }
    chain output { type filter hook output priority 0; policy drop;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}";

#[test]
#[ignore = "needs root"]
fn a_firewall_that_drops_is_the_hosts_own() -> Result<()> {
    let site = OneNode::new()?;
    let (node, client) = (&site.node, &site.client);
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    site.create("echo", &["-p", "7000:7/udp"], &["udp-echo"])?;
    let (v4, v6) = (node.host.v4, node.host.v6);
    let _own = Listener::on(&node.host, ([0u16; 8], 9100).into(), "own")?;
    let _far = Listener::on(client, ([0u16; 8], 9200).into(), "far")?;
    let own: SocketAddr = (v4, 9100).into();
    whole(&site, "without a firewall")?;
    ensure!(ask(client, "tcp", own)? == "own");
    ensure!(site.ask(8080, &format!("/udp?to={v4}:9100"))?.contains("9100"));

    node.host.ns.run("nft", &[USUAL])?;
    whole(&site, "with the usual firewall")?;
    let outside = || -> Result<()> {
        for to in [SocketAddr::from((v4, 7000)), (v6, 7000).into()] {
            ensure!(ask(client, "udp", to)? == "?");
        }
        for to in [format!("{v4}:8080"), format!("[{v6}]:8080")] {
            client.curl(&format!("http://{to}/"))?;
        }
        // Containers go out, to each other and to published ports.
        for to in [format!("{}:9200", client.v4), format!("[{}]:9200", client.v6), format!("{v4}:7000")] {
            site.ask(8080, &format!("/udp?to={to}"))?;
        }
        site.ask(8080, &format!("/tcp?to={v4}:8080")).map(drop)
    };
    outside()?;
    // What is the host's is the firewall's, also from a container.
    for way in ["tcp", "udp"] {
        ensure!(ask(client, way, own).is_err(), "{way} came in to the host's own port");
    }
    ensure!(site.ask(8080, &format!("/udp?to={v4}:9100")).is_err(), "a container came in to the host");
    ensure!(ask(&node.host, "tcp", (client.v4, 9200).into())? == "far");

    // A firewall that lets nothing out, either: what is published is served, the host itself is cut off.
    node.host.ns.run("nft", &[CLOSED])?;
    outside()?;
    for to in [SocketAddr::from((client.v4, 9200)), ([127, 0, 0, 1], 7000).into(), (v4, 7000).into()] {
        ensure!(ask(&node.host, "udp", to).is_err(), "the host's own datagram to {to} came through");
    }
    node.ok(&["net", "check"])?;
    node.host.ns.run("nft", &["flush ruleset"])?;
    whole(&site, "without a firewall again")
}
