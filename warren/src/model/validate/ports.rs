//! Published ports.

use std::{collections::HashMap, net::IpAddr};

use super::{Invalid, no};
use crate::model::{NetworkMode, PortSpec, Protocol, ServiceSpec};

/// Most ports that a cluster publishes: what the datapath has room for.
pub const MAX_PORTS: usize = 16_384;
/// Most networks in `from=` of one port.
pub const MAX_SOURCES: usize = 256;

/// Most networks in all different `from=` of a cluster's ports: what the datapath has room for.
pub const MAX_ALL_SOURCES: usize = 8_000;

/// Most services of a cluster whose published ports have limits per client: half of what the datapath has room
/// for, since new ones come before old ones go.
pub const MAX_LIMITED: usize = 2_048;

pub(super) fn check(spec: &ServiceSpec) -> Result<(), Invalid> {
    let publish: &[PortSpec] = &spec.publish;
    let Some(first) = publish.first() else { return Ok(()) };
    match spec.task.network {
        NetworkMode::Cluster => {}
        NetworkMode::Host => {
            return no(format!(
                "--publish {first} is not possible with --network host: the container's own ports are the node's already; leave --publish away"
            ));
        }
        NetworkMode::None => {
            return no(format!(
                "--publish {first} is not possible with --network none: nothing can reach the container; leave one of them away"
            ));
        }
    }
    if publish.len() > MAX_PORTS {
        return no(format!("{} published ports are too many: a cluster may have {MAX_PORTS}", publish.len()));
    }
    publish.iter().try_for_each(port)?;
    match conflict(publish, publish) {
        Some((p, q)) => no(format!("port {p} is already published as {q} by this service: leave one away")),
        None => Ok(()),
    }
}

/// The first of `ports` that cannot be beside one of `others`, which comes before it where both are
/// one list.
#[must_use]
pub fn conflict<'a>(
    ports: &'a [PortSpec],
    others: impl IntoIterator<Item = &'a PortSpec>,
) -> Option<(&'a PortSpec, &'a PortSpec)> {
    let mut by_number: HashMap<(Protocol, u16), Vec<&PortSpec>> = HashMap::new();
    for port in ports {
        by_number.entry((port.protocol, port.published)).or_default().push(port);
    }
    others.into_iter().find_map(|other| {
        let near = by_number.get(&(other.protocol, other.published))?;
        let port = near.iter().find(|p| !std::ptr::eq(**p, other) && p.conflicts(other))?;
        Some((*port, other))
    })
}

fn port(p: &PortSpec) -> Result<(), Invalid> {
    if p.target == 0 {
        return no(format!("bad port {p}: the target is 0; ports are 1 to 65535"));
    }
    if let Some(ip) = p.host_ip {
        address(p, ip)?;
    }
    if p.from.len() > MAX_SOURCES {
        return no(format!("port {p} has too many sources: from= takes up to {MAX_SOURCES} networks"));
    }
    for net in &p.from {
        if *net != net.trunc() {
            return no(format!(
                "bad port {p}: {net} in from= is no network; write {} (or {} for this one address)",
                net.trunc(),
                net.addr()
            ));
        }
        if p.host_ip.is_some_and(|ip| ip.is_ipv4() != net.addr().is_ipv4()) {
            return no(format!("bad port {p}: nobody from {net} can reach ip={}", show(p.host_ip)));
        }
    }
    Ok(())
}

fn show(ip: Option<IpAddr>) -> String {
    ip.map(|ip| ip.to_string()).unwrap_or_default()
}

fn address(p: &PortSpec, ip: IpAddr) -> Result<(), Invalid> {
    let why = match ip {
        IpAddr::V4(ip) if ip.is_broadcast() => "is the broadcast address",
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => "is an IPv4 address in disguise; write it as one",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            "is link-local: there may be one on each device; leave it away or write another one"
        }
        ip if ip.is_multicast() => "is a multicast address",
        _ => return Ok(()),
    };
    no(format!("bad port {p}: {ip} {why}"))
}
