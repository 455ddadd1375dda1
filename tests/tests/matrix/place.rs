//! Where clients are: each place with the addresses it asks, and as whom the container sees it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use warren_tests::{netns::Netns, scenario::OneNode};

use crate::{
    ask::{Load, Means, enter},
    tun::Tunnel,
    wire::{self, Offload},
};

/// A way to a published port: one line of the table.
pub struct Row {
    pub place: String,
    /// The client's network namespace.
    pub from: PathBuf,
    /// What it asks; the port is the service's.
    pub to: SocketAddr,
    /// Who the container may say it sees.
    pub seen: Vec<IpAddr>,
    pub services: &'static [&'static str],
    pub means: &'static [Means],
    /// Whether every checksum is there when a packet arrives.
    pub plain: bool,
    /// Whether bundles stay bundles on the way; `None`: those of UDP do, TCP's do not.
    pub bundles: Option<bool>,
}

/// How names of the host's ends of containers' links begin.
const LINKS: &str = "wr";

pub const EVERY: &[Means] = &[Means::Tcp, Means::Connected, Means::Unconnected];
const BOTH: &[&str] = &["one", "many"];

/// What is sent by these means on a row.
pub fn loads(row: &Row, means: Means) -> Vec<Load> {
    let mut loads = match means {
        Means::Tcp => vec![Load::Small, Load::Big, Load::Bundled],
        _ => vec![Load::Small, Load::Fragmented, Load::Big, Load::Bundled],
    };
    if means != Means::Tcp && row.to.is_ipv4() {
        loads.push(Load::Unsummed);
    }
    loads
}

fn row(place: &str, from: &Path, to: IpAddr, seen: &[IpAddr]) -> Row {
    Row {
        place: place.to_owned(),
        from: from.to_owned(),
        to: (to, 0).into(),
        seen: seen.to_owned(),
        services: BOTH,
        means: EVERY,
        plain: false,
        bundles: Some(true),
    }
}

/// A host on another device than the first. Its device goes with its namespace.
pub struct Peer {
    ns: Netns,
    n: u8,
    place: &'static str,
    tunnel: Option<Tunnel>,
}

/// What joins a peer to the node.
#[derive(Clone, Copy)]
pub enum Device {
    /// A pair of veths of this MTU.
    Veth(u16),
    /// The same, into a bridge that has the address.
    Bridge,
    /// Packets carried by a program, with or without a link header.
    Tunnel { link: bool },
}

impl Peer {
    /// Joins a new host to the node by a device of this name, in the subnets number `n`.
    pub fn join(node: &Netns, place: &'static str, n: u8, name: &str, device: Device) -> Result<Self> {
        let ns = Netns::create(&format!("peer{n}"))?;
        let (mut theirs, mut ours, mut tunnel) = ("eth0", name, None);
        let mtu = match device {
            Device::Veth(mtu) => mtu,
            _ => 1500,
        }
        .to_string();
        match device {
            Device::Veth(_) | Device::Bridge => {
                node.ip(&[
                    "link",
                    "add",
                    name,
                    "mtu",
                    &mtu,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "mtu",
                    &mtu,
                    "netns",
                    ns.name(),
                ])?;
            }
            Device::Tunnel { link } => {
                tunnel = Some(Tunnel::dig([&node.path(), &ns.path()], name, link)?);
                theirs = name;
            }
        }
        if matches!(device, Device::Bridge) {
            // One that takes part by itself already, and then no more.
            node.ip(&["link", "set", name, "up"])?;
            thread::sleep(Duration::from_millis(500));
            ours = "lanbr";
            node.ip(&["link", "add", ours, "type", "bridge"])?;
            node.ip(&["link", "set", name, "master", ours, "up"])?;
        }
        for (place, device, end) in [(node, ours, 1), (&ns, theirs, 2)] {
            place.ip(&["addr", "add", &format!("198.19.{n}.{end}/24"), "dev", device])?;
            place.ip(&["addr", "add", &format!("fd19:{n}::{end}/64"), "dev", device, "nodad"])?;
            place.ip(&["link", "set", device, "up"])?;
        }
        Ok(Self { ns, n, place, tunnel })
    }

    /// Its ways to the node.
    pub fn rows(&self) -> Vec<Row> {
        let (n, from) = (self.n, self.ns.path());
        let six = |end| IpAddr::from(Ipv6Addr::new(0xfd19, hex16(n), 0, 0, 0, 0, 0, end));
        let mut rows = vec![
            row(self.place, &from, [198, 19, n, 1].into(), &[[198, 19, n, 2].into()]),
            row(self.place, &from, six(1), &[six(2)]),
        ];
        // A program in the place of the wire carries packets one by one.
        rows.iter_mut().for_each(|row| row.bundles = Some(self.tunnel.is_none()));
        rows
    }
}

/// A host whose packets are cut into pieces by a router on their way to the node.
pub struct Behind {
    client: Netns,
    _router: Netns,
    n: u8,
}

impl Behind {
    /// Puts a router on a device of this name, and a client behind it. TCP's packets leave the client
    /// without "don't fragment" and as large as its own link takes; the router's link to the node takes
    /// less. IPv6 has no such routers.
    pub fn join(node: &Netns, n: u8, name: &str) -> Result<Self> {
        let (router, client) = (Netns::create("router")?, Netns::create("behind")?);
        for (end, device, far) in [(node, name, "near"), (&client, "eth0", "far")] {
            end.ip(&["link", "add", device, "type", "veth", "peer", "name", far, "netns", router.name()])?;
        }
        for (place, device, address) in [
            (node, name, format!("198.19.{n}.1/24")),
            (&router, "near", format!("198.19.{n}.2/24")),
            (&router, "far", format!("198.19.10{n}.1/24")),
            (&client, "eth0", format!("198.19.10{n}.2/24")),
        ] {
            place.ip(&["addr", "add", &address, "dev", device])?;
            place.ip(&["link", "set", device, "up"])?;
        }
        router.set_sysctl("net/ipv4/ip_forward", "1")?;
        router.ip(&["link", "set", "near", "mtu", "900"])?;
        client.set_sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
        // What comes back is not cut: it would not fit into the router's link.
        let gateway = format!("198.19.10{n}.1");
        client.ip(&["route", "add", "default", "via", &gateway, "advmss", "800"])?;
        node.ip(&["route", "add", &format!("198.19.10{n}.0/24"), "via", &format!("198.19.{n}.2")])?;
        Ok(Self { client, _router: router, n })
    }

    /// Its way to the node.
    pub fn rows(&self) -> Vec<Row> {
        let seen = [198, 19, 100 + self.n, 2].into();
        let mut way = row("cutting router", &self.client.path(), [198, 19, self.n, 1].into(), &[seen]);
        way.means = &[Means::Tcp];
        way.bundles = Some(false);
        vec![way]
    }
}

/// `n` as it is read in an address of IPv6, where it stands in decimal digits.
fn hex16(n: u8) -> u16 {
    u16::from(n / 10) * 16 + u16::from(n % 10)
}

/// The addresses of a namespace, but those of its loopback.
fn addresses(ns: &Path) -> Result<Vec<IpAddr>> {
    let all = enter(ns, || nix::ifaddrs::getifaddrs().map(Iterator::collect::<Vec<_>>))??;
    let found = all.into_iter().filter_map(|a| {
        let address = a.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
    });
    Ok(found.filter(|a| !a.is_loopback()).collect())
}

/// Another host on the first device, with global and link-local addresses.
pub fn lan(site: &OneNode, place: &str) -> Result<Vec<Row>> {
    let (client, node) = (&site.client, &site.node.host);
    let from = client.ns.path();
    let mut rows = vec![
        row(place, &from, node.v4.into(), &[client.v4.into()]),
        row(place, &from, node.v6.into(), &[client.v6.into()]),
    ];
    let link_local = |ns: &Path| -> Result<Ipv6Addr> {
        let all = enter(ns, || nix::ifaddrs::getifaddrs().map(Iterator::collect::<Vec<_>>))??;
        let mut on = all.into_iter().filter(|a| a.interface_name == "eth0");
        let found =
            on.find_map(|a| Some(a.address?.as_sockaddr_in6()?.ip()).filter(Ipv6Addr::is_unicast_link_local));
        found.context("eth0 has no link-local address")
    };
    let index = enter(&from, || nix::net::if_::if_nametoindex("eth0"))??;
    let (theirs, ours) = (link_local(&node.ns.path())?, link_local(&from)?);
    let mut near = row(place, &from, theirs.into(), &[ours.into()]);
    near.to = SocketAddrV6::new(theirs, 0, 0, index).into();
    rows.push(near);
    Ok(rows)
}

/// The same host, when no device on the way does anything to packets by itself.
pub fn plain(site: &OneNode, containers: &[PathBuf]) -> Result<Vec<Row>> {
    everywhere(site, containers, &[])?;
    let mut rows = lan(site, "LAN, no offload")?;
    for row in &mut rows {
        row.plain = true;
        row.bundles = Some(false);
    }
    Ok(rows)
}

/// The same host, when devices on the way write checksums and look at them, and nothing else.
pub fn checksums_only(site: &OneNode, containers: &[PathBuf]) -> Result<Vec<Row>> {
    everywhere(site, containers, &[Offload::ReceiveChecksums, Offload::SendChecksums])?;
    let mut rows = lan(site, "LAN, checksums")?;
    // TCP's are cut up, those of UDP not.
    rows.iter_mut().for_each(|row| row.bundles = None);
    Ok(rows)
}

/// Sets what every device between the client and the containers does by itself.
fn everywhere(site: &OneNode, containers: &[PathBuf], on: &'static [Offload]) -> Result<()> {
    wire::offloads(&site.client.ns.path(), "eth0", on)?;
    // The host's ends of the containers' links are in the node's namespace, with its own devices.
    let node = site.node.host.ns.path();
    let all = enter(&node, || nix::ifaddrs::getifaddrs().map(Iterator::collect::<Vec<_>>))??;
    let names: BTreeSet<String> = all.into_iter().map(|a| a.interface_name).collect();
    for name in names.iter().filter(|name| *name == "eth0" || name.starts_with(LINKS)) {
        wire::offloads(&node, name, on)?;
    }
    containers.iter().try_for_each(|container| wire::offloads(container, "eth0", on))
}

/// The node's own processes.
pub fn node(site: &OneNode) -> Result<Vec<Row>> {
    let ns = site.node.host.ns.path();
    let own = addresses(&ns)?;
    let (v4, v6) = (site.node.host.v4, site.node.host.v6);
    let of = |to: IpAddr| row("node itself", &ns, to, &own);
    let mut rows: Vec<Row> = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "198.19.1.1", "fd19:1::1"]
        .iter()
        .map(|to| Ok(of(to.parse()?)))
        .collect::<Result<_>>()?;
    rows.extend([of(v4.into()), of(v6.into()), of(v4.to_ipv6_mapped().into())]);
    // An application without IPv6; a socket that is not connected does not get there (the docs say so).
    let mut old = of(Ipv6Addr::LOCALHOST.into());
    old.place = "node, IPv4 app".into();
    old.services = &["four"];
    old.means = &[Means::Tcp, Means::Connected];
    rows.push(old);
    Ok(rows)
}

/// A container that asks; with `itself`, it may be the one that is asked.
pub fn container(
    site: &OneNode,
    name: &str,
    from: &Path,
    services: &'static [&'static str],
    itself: Option<bool>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for to in [IpAddr::from(site.node.host.v4), site.node.host.v6.into()] {
        let own = enter(from, || -> Result<IpAddr> {
            let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
            let socket = UdpSocket::bind(any)?;
            socket.connect((to, 9))?;
            Ok(socket.local_addr()?.ip())
        })??;
        let hairpin: IpAddr = if to.is_ipv4() { "169.254.1.2".parse()? } else { "fe80::a9fe:102".parse()? };
        let mut way = row(
            name,
            from,
            to,
            &match itself {
                None => vec![own],
                Some(true) => vec![hairpin],
                Some(false) => vec![own, hairpin],
            },
        );
        way.services = services;
        rows.push(way);
    }
    Ok(rows)
}
