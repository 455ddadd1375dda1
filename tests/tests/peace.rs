//! The host is left in peace: its own listeners and outgoing connections, addresses by DHCP, networkd
//! and others who touch links, Docker's engine, a firewall that drops. What is asserted here is what
//! docs/operations/node.md, "Beside other things on the host", says.

#[path = "peace/dhcp.rs"]
mod dhcp;
#[path = "peace/docker.rs"]
mod docker;
#[path = "peace/firewall.rs"]
mod firewall;
#[path = "peace/links.rs"]
mod links;
#[path = "peace/own.rs"]
mod own;
#[path = "peace/talk.rs"]
mod talk;

use std::time::Duration;

use anyhow::{Result, ensure};
use warren_tests::{eventually, scenario::OneNode};

/// How long what changes may take.
const SOON: Duration = Duration::from_secs(5);

/// Everything of a node with the service `web` on 8080 that others could disturb: the published port
/// over both families, from outside and from the node itself; a container's way out; one container to
/// another; and what the node says of itself.
fn whole(site: &OneNode, what: &str) -> Result<()> {
    eventually(what, SOON, || {
        let (v4, v6) = (site.node.host.v4, site.node.host.v6);
        let seen = site.client.curl(&format!("http://{v4}:8080/client"))?;
        ensure!(seen.trim() == site.client.v4.to_string(), "the container saw {seen}");
        site.client.curl(&format!("http://[{v6}]:8080/"))?;
        site.node.host.curl("http://127.0.0.1:8080/")?;
        for to in [format!("{}", site.client.v4), format!("{}", site.client.v6)] {
            site.ask(8080, &format!("/ping?to={to}"))?;
        }
        let tasks = site.node.json(&["service", "ps", "web"])?;
        for one in tasks.as_array().into_iter().flatten().filter(|t| t["state"] == "running") {
            let address = one["address"].as_str().unwrap_or_default();
            site.node.host.curl(&format!("http://{address}/"))?;
            site.ask(8080, &format!("/tcp?to={address}:80"))?;
        }
        site.node.ok(&["net", "check"]).map(drop)
    })
}
