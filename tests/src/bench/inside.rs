//! A container by hand, for whoever is measured beside Warren: a namespace behind a veth, routed by its
//! host.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::{Host, netns::Netns};

/// Makes it, with `address` of a /24 and its host's `gateway` on the host's `device`.
pub fn container(host: &Host, device: &str, gateway: Ipv4Addr, address: Ipv4Addr) -> Result<Netns> {
    let container = Netns::create("inside")?;
    let inside = container.name();
    host.ns.ip(&["link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", inside])?;
    host.ns.ip(&["addr", "add", &format!("{gateway}/24"), "dev", device])?;
    host.ns.ip(&["link", "set", device, "up"])?;
    container.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
    container.ip(&["link", "set", "eth0", "up"])?;
    container.ip(&["route", "add", "default", "via", &gateway.to_string()])?;
    host.ns.set_sysctl("net/ipv4/ip_forward", "1")?;
    Ok(container)
}
