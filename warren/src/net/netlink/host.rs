//! What the kernel has of devices, addresses and routes, as plain values, and what follows from
//! it for the datapath. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

/// How packets of a device begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// With an Ethernet header.
    Ethernet,
    /// With the IP header: tun, WireGuard, PPP, IP tunnels.
    Ip,
    /// Loopback.
    Loopback,
    /// As a port of another device: what comes in belongs to that one, which has the addresses and
    /// the neighbours.
    Port(Group),
    /// With something we do not know: no program is attached there.
    Other,
}

/// What a device can be a port of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// A bridge of the kernel's.
    Bridge,
    /// A bond.
    Bond,
    /// A team.
    Team,
    /// Open vSwitch: which of its devices has what comes in, the kernel does not say.
    Switch,
}

impl Group {
    /// What it is called.
    const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Bond => "bond",
            Self::Team => "team",
            Self::Switch => "Open vSwitch",
        }
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number of it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias: where we write whose our own devices are.
    pub alias: Option<String>,
    /// Its link-layer address.
    pub mac: Vec<u8>,
    /// Largest packet, link-layer header not counted.
    pub mtu: u32,
    /// How its packets begin.
    pub layer: Layer,
    /// The device that it belongs to, if it is in a group or a VRF.
    pub controller: Option<u32>,
    /// Whether it is up.
    pub up: bool,
}

impl Device {
    /// Whether it is the host end of a container's link, of this node or another. The MAC is set
    /// in the request that makes the device, so that it is never taken for a stranger's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.mac == super::super::attach::HOST_MAC && self.name.starts_with(super::super::attach::PREFIX)
    }
}

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Its device.
    pub device: u32,
    /// The address and the length of its prefix.
    pub net: IpNet,
    /// Whether it is of global scope (not link-local, not of the host only).
    pub global: bool,
    /// Whether others come first: a secondary address of its subnet; of IPv6 a temporary or
    /// deprecated one, or one that is not known to be nobody else's.
    pub secondary: bool,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through which device; `None`: nowhere (blackhole, unreachable, prohibit).
    pub device: Option<u32>,
    /// By which router, if not directly.
    pub gateway: Option<IpAddr>,
    /// The source address it asks for.
    pub source: Option<IpAddr>,
    /// The smallest wins.
    pub metric: u32,
}

/// All of it, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Devices.
    pub devices: Vec<Device>,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
}

/// Where a destination prefix leads, as the datapath wants to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Where to.
    pub destination: IpNet,
    /// How; `None`: nothing may leave this way.
    pub out: Option<Out>,
}

/// How packets leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Out {
    /// Through which device.
    pub device: u32,
    /// What masqueraded packets come from.
    pub source: IpAddr,
    /// Largest packet of the device.
    pub mtu: u32,
}

/// Used when no uplink says otherwise.
pub const DEFAULT_MTU: u32 = 1500;

impl Host {
    /// The device of this name.
    #[must_use]
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|d| d.name == name)
    }

    /// Devices that take part: not loopback, no port, not ours, of a kind we understand and, when
    /// `interfaces` is not empty, named there.
    pub fn uplinks<'a>(&'a self, interfaces: &'a [String]) -> impl Iterator<Item = &'a Device> {
        self.devices.iter().filter(move |d| {
            matches!(d.layer, Layer::Ethernet | Layer::Ip)
                && !d.is_ours()
                && (interfaces.is_empty() || interfaces.contains(&d.name))
        })
    }

    /// The devices by which frames of those that take part come in, and their link-layer addresses. A
    /// program in the driver of a bond or team runs in those of its ports.
    pub fn macs<'a>(&'a self, interfaces: &'a [String]) -> impl Iterator<Item = (u32, [u8; 6])> + 'a {
        let taking_part = |index| self.uplinks(interfaces).any(|d| Some(d.index) == index);
        let of_group = move |d: &&Device| {
            matches!(d.layer, Layer::Port(Group::Bond | Group::Team)) && taking_part(d.controller)
        };
        let own = self.uplinks(interfaces).filter(|d| d.layer == Layer::Ethernet);
        let all = own.chain(self.devices.iter().filter(of_group));
        all.filter_map(|d| Some((d.index, d.mac.as_slice().try_into().ok()?)))
    }

    /// One sentence for each of these names that brings no device with it: nothing is called so, or
    /// what comes in by it is another device's, which is not named.
    #[must_use]
    pub fn misnamed(&self, interfaces: &[String]) -> Vec<String> {
        let sentence = |name: &String| match self.device(name) {
            None => Some(format!(
                "there is no network device {name}: `ip link` shows those there are; correct --interface"
            )),
            Some(d) => self.port(d, interfaces),
        };
        interfaces.iter().filter_map(sentence).collect()
    }

    /// Why a device that is a port brings nothing with it, and what would.
    fn port(&self, device: &Device, interfaces: &[String]) -> Option<String> {
        let Layer::Port(mut group) = device.layer else { return None };
        let name = &device.name;
        let mut said = format!("--interface {name} does nothing: {name} is a port of");
        let mut port = device;
        // A bond may be a port of a bridge. Of more steps than devices, one would be in a circle.
        for step in 0..self.devices.len() {
            let controller = self.devices.iter().find(|d| Some(d.index) == port.controller);
            let Some(c) = controller.filter(|_| group != Group::Switch) else { break };
            let which = if step == 0 { " the" } else { ", and that one of the" };
            said.push_str(&format!("{which} {} {}", group.name(), c.name));
            let Layer::Port(next) = c.layer else {
                return (!interfaces.contains(&c.name)).then(|| format!("{said}; name {} instead", c.name));
            };
            (group, port) = (next, c);
        }
        let which = if std::ptr::eq(port, device) { "" } else { ", and that one of" };
        let article = if group == Group::Switch { "an" } else { "a" };
        Some(format!(
            "{said}{which} {article} {}; name the device instead that has the node's address",
            group.name()
        ))
    }

    /// The largest packet that fits through every uplink that is in use (up, and with an address
    /// or a route).
    #[must_use]
    pub fn smallest_mtu(&self, interfaces: &[String]) -> u32 {
        self.uplinks(interfaces)
            .filter(|d| d.up)
            .filter(|d| {
                self.addresses.iter().any(|a| a.device == d.index && a.global)
                    || self.routes.iter().any(|r| r.device == Some(d.index) && !of_the_link(&r.destination))
            })
            .map(|d| d.mtu)
            .min()
            .unwrap_or(DEFAULT_MTU)
            .clamp(576, 65535)
    }

    /// The node's own addresses and their devices, without those of loopback.
    pub fn locals(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        self.addresses.iter().map(|a| (a.net.addr(), a.device)).filter(|(ip, _)| !ip.is_loopback())
    }

    /// The routes of containers to the world: the best one for each destination, with its source
    /// address. A route that leads nowhere, through a device that takes no part (no answer would be
    /// brought back to the container), or that has no address to leave with, lets nothing pass.
    /// Routes to our own containers, through loopback and to neighbours on a link are left out.
    #[must_use]
    pub fn ways(&self, interfaces: &[String]) -> Vec<Way> {
        let skipped = |index: u32| {
            self.devices.iter().any(|d| d.index == index && (d.is_ours() || d.layer == Layer::Loopback))
        };
        let mut best: BTreeMap<IpNet, &Route> = BTreeMap::new();
        for r in self.routes.iter().filter(|r| !r.device.is_some_and(skipped)) {
            if of_the_link(&r.destination) {
                continue;
            }
            let b = best.entry(r.destination.trunc()).or_insert(r);
            if r.metric < b.metric {
                *b = r;
            }
        }
        best.into_iter()
            .map(|(destination, r)| Way { destination, out: self.out(r, destination, interfaces) })
            .collect()
    }

    /// The routers of IPv6 by device, where there are default routes through several: that of the best one
    /// through each.
    #[must_use]
    pub fn routers6(&self, interfaces: &[String]) -> BTreeMap<u32, Ipv6Addr> {
        let defaults = || {
            self.routes.iter().filter(|r| r.destination.prefix_len() == 0 && r.destination.addr().is_ipv6())
        };
        // Of a single device the kernel finds the router by itself.
        let through: BTreeSet<u32> = defaults().filter_map(|r| r.device).collect();
        let mut best: BTreeMap<u32, (u32, Ipv6Addr)> = BTreeMap::new();
        for r in defaults().filter(|_| through.len() > 1) {
            let (Some(device), Some(IpAddr::V6(router))) = (r.device, r.gateway) else { continue };
            if !self.uplinks(interfaces).any(|d| d.index == device) {
                continue;
            }
            let b = best.entry(device).or_insert((r.metric, router));
            if r.metric < b.0 {
                *b = (r.metric, router);
            }
        }
        best.into_iter().map(|(device, (_, router))| (device, router)).collect()
    }

    fn out(&self, r: &Route, destination: IpNet, interfaces: &[String]) -> Option<Out> {
        let device = self.uplinks(interfaces).find(|d| Some(d.index) == r.device)?;
        Some(Out { device: device.index, source: self.source(r, destination)?, mtu: device.mtu })
    }

    /// The address the kernel would send from: the route's own, else one of the device in the
    /// subnet of the next hop, else one that reaches as far as the destination, else the device's
    /// first, else the node's first.
    fn source(&self, route: &Route, destination: IpNet) -> Option<IpAddr> {
        let v4 = destination.addr().is_ipv4();
        if let Some(source) = route.source.filter(|s| s.is_ipv4() == v4) {
            return Some(source);
        }
        // A route of IPv4 may have a router of IPv6.
        let next_hop = route.gateway.filter(|g| g.is_ipv4() == v4).unwrap_or(destination.addr());
        let fit = |a: &&Address| a.global && !a.secondary && a.net.addr().is_ipv4() == v4;
        let of_device = || self.addresses.iter().filter(fit).filter(|a| Some(a.device) == route.device);
        let as_far = |a: &&Address| is_private6(a.net.addr()) == is_private6(destination.addr());
        let found = of_device()
            .find(|a| a.net.contains(&next_hop))
            .or_else(|| of_device().find(as_far))
            .or_else(|| of_device().next())
            .or_else(|| self.addresses.iter().filter(fit).find(as_far))
            .or_else(|| self.addresses.iter().find(fit))?;
        Some(found.net.addr())
    }
}

/// Whether a destination is on a link only: the datapath asks nothing about those.
fn of_the_link(destination: &IpNet) -> bool {
    let IpAddr::V6(a) = destination.addr() else { return false };
    destination.prefix_len() >= 8 && (a.is_multicast() || a.is_unicast_link_local())
}

/// Whether it is a unique local address: of IPv6, and routed within a site at most.
fn is_private6(address: IpAddr) -> bool {
    let IpAddr::V6(a) = address else { return false };
    Ipv6Addr::is_unique_local(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, layer: Layer, mtu: u32) -> Device {
        Device {
            index,
            name: name.into(),
            alias: None,
            mac: vec![2, 0, 0, 0, 0, 1],
            mtu,
            layer,
            controller: None,
            up: true,
        }
    }

    fn address(device: u32, net: &str) -> Address {
        let net: IpNet = net.parse().unwrap();
        Address { device, net, global: !net.addr().is_loopback(), secondary: false }
    }

    fn route(device: u32, destination: &str, gateway: Option<&str>, metric: u32) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            device: Some(device),
            gateway: gateway.map(|g| g.parse().unwrap()),
            source: None,
            metric,
        }
    }

    #[test]
    fn routers_count_where_there_are_several() {
        let mut host = Host {
            devices: vec![
                device(2, "eth0", Layer::Ethernet, 1500),
                device(3, "wwan0", Layer::Ethernet, 1500),
                device(4, "tun0", Layer::Ip, 1400),
            ],
            routes: vec![
                route(2, "::/0", Some("fe80::1"), 100),
                route(2, "::/0", Some("fe80::2"), 50),
                route(2, "2001:db8::/32", Some("fe80::9"), 1),
                route(3, "0.0.0.0/0", Some("198.18.0.1"), 1),
            ],
            ..Host::default()
        };
        let found = |host: &Host, interfaces: &[String]| -> Vec<(u32, String)> {
            host.routers6(interfaces).into_iter().map(|(d, a)| (d, a.to_string())).collect()
        };
        assert_eq!(found(&host, &[]), [], "the kernel finds the only one");
        host.routes.push(route(3, "::/0", Some("fd19:1::2"), 700));
        let (eth0, wwan0) = ((2, "fe80::2".to_owned()), (3, "fd19:1::2".to_owned()));
        assert_eq!(found(&host, &[]), [eth0.clone(), wwan0]);
        assert_eq!(found(&host, &["eth0".into()]), std::slice::from_ref(&eth0), "of devices that take part");
        // A tunnel takes all and has no router.
        host.routes[4] = route(4, "::/0", None, 1);
        assert_eq!(found(&host, &[]), [eth0]);
    }

    fn host() -> Host {
        Host {
            devices: vec![
                device(1, "lo", Layer::Loopback, 65536),
                device(2, "eth0", Layer::Ethernet, 1500),
                device(3, "wg0", Layer::Ip, 1420),
                device(4, "can0", Layer::Other, 16),
                device(6, "eth1", Layer::Port(Group::Bridge), 1500),
                Device {
                    mac: crate::net::attach::HOST_MAC.to_vec(),
                    ..device(5, "wrabcdefghijklm", Layer::Ethernet, 1400)
                },
            ],
            addresses: vec![
                address(1, "127.0.0.1/8"),
                address(2, "192.0.2.7/24"),
                address(2, "198.51.100.7/24"),
                address(3, "10.9.0.2/32"),
            ],
            routes: vec![
                route(2, "0.0.0.0/0", Some("198.51.100.1"), 100),
                route(3, "0.0.0.0/0", None, 200),
                route(2, "192.0.2.0/24", None, 0),
                route(3, "10.9.0.0/24", None, 0),
                route(5, "10.20.0.5/32", None, 0),
            ],
        }
    }

    #[test]
    fn our_own_loopback_ports_and_unknown_devices_are_no_uplinks() {
        let host = host();
        let names = |i: &[String]| host.uplinks(i).map(|d| d.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["eth0", "wg0"]);
        assert_eq!(names(&["wg0".into()]), ["wg0"]);
    }

    #[test]
    fn the_addresses_of_devices_that_frames_come_in_by() {
        let port = |index, group, controller| Device {
            controller: Some(controller),
            mac: vec![2, 0, 0, 0, 0, 7],
            ..device(index, "port", Layer::Port(group), 1500)
        };
        let mut host = host();
        host.devices.extend([
            device(20, "bond0", Layer::Ethernet, 1500),
            port(21, Group::Bond, 20),
            port(22, Group::Bridge, 20),
            port(23, Group::Bond, 99),
            Device { mac: vec![2; 8], ..device(24, "ib0", Layer::Ethernet, 1500) },
        ]);
        let found = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            host.macs(&names).map(|(index, mac)| (index, mac[5])).collect::<Vec<_>>()
        };
        assert_eq!(found(&[]), [(2, 1), (20, 1), (21, 7)]);
        assert_eq!(found(&["bond0"]), [(20, 1), (21, 7)]);
        assert_eq!(found(&["eth0"]), [(2, 1)]);
    }

    #[test]
    fn a_name_that_brings_no_device_is_told_with_the_one_that_would() {
        let port = |index, name, group, controller| Device {
            controller: Some(controller),
            ..device(index, name, Layer::Port(group), 1500)
        };
        let mut host = host();
        host.devices.extend([
            device(20, "br0", Layer::Ethernet, 1500),
            port(21, "eth2", Group::Bridge, 20),
            port(22, "bond0", Group::Bridge, 20),
            port(23, "eth3", Group::Bond, 22),
            device(24, "ovs-system", Layer::Ethernet, 1500),
            port(25, "eth4", Group::Switch, 24),
            port(26, "eth5", Group::Team, 99),
            Device { controller: Some(20), ..device(27, "eth6", Layer::Ethernet, 1500) },
        ]);
        let told = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            host.misnamed(&names)
        };
        assert!(told(&["eth0", "br0", "eth6"]).is_empty(), "a VRF's device takes part itself");
        assert!(told(&["eth0", "eth9"])[0].starts_with("there is no network device eth9"));
        for (name, expected) in [
            ("eth2", "eth2 is a port of the bridge br0; name br0 instead"),
            ("eth3", "eth3 is a port of the bond bond0, and that one of the bridge br0; name br0 instead"),
            (
                "eth4",
                "eth4 is a port of an Open vSwitch; name the device instead that has the node's address",
            ),
            ("eth5", "eth5 is a port of a team; name the device instead that has the node's address"),
        ] {
            assert_eq!(told(&[name]), [format!("--interface {name} does nothing: {expected}")]);
        }
        assert!(told(&["eth2", "br0", "eth3"]).is_empty(), "what has it is named, too");
    }

    #[test]
    fn the_smallest_mtu_of_devices_in_use_counts() {
        let mut host = host();
        assert_eq!(host.smallest_mtu(&[]), 1420);
        host.devices[2].up = false;
        assert_eq!(host.smallest_mtu(&[]), 1500);
        assert_eq!(Host::default().smallest_mtu(&[]), DEFAULT_MTU);
    }

    #[test]
    fn ways_take_the_best_metric_and_the_source_of_the_next_hops_subnet() {
        let mut host = host();
        host.routes.push(Route { device: None, ..route(2, "192.0.2.128/25", None, 0) });
        let find = |ways: &[Way], d: &str| ways.iter().find(|w| w.destination == d.parse().unwrap()).copied();
        let ways = host.ways(&[]);
        let source = |d: &str| find(&ways, d).unwrap().out.map(|o| (o.device, o.source.to_string()));
        assert_eq!(source("0.0.0.0/0"), Some((2, "198.51.100.7".into())));
        assert_eq!(source("192.0.2.0/24"), Some((2, "192.0.2.7".into())));
        assert_eq!(source("10.9.0.0/24"), Some((3, "10.9.0.2".into())));
        assert_eq!(source("192.0.2.128/25"), None, "a blackhole lets nothing pass");
        assert_eq!(find(&ways, "10.20.0.5/32"), None, "a container's route is no way out");
        let narrowed = host.ways(&["eth0".into()]);
        assert_eq!(find(&narrowed, "10.9.0.0/24").unwrap().out, None, "no answer would come back");
    }

    #[test]
    fn ways_of_ipv6_leave_with_an_address_that_reaches_as_far() {
        let mut host = host();
        host.addresses.extend([
            Address { global: false, ..address(2, "fe80::7/64") },
            address(2, "fd12::7/64"),
            Address { secondary: true, ..address(2, "2001:db8::abcd/64") },
            address(2, "2001:db8::7/64"),
        ]);
        host.routes.extend([
            route(2, "::/0", Some("fe80::1"), 1024),
            route(2, "fd00::/8", Some("fe80::2"), 1024),
            route(2, "fd12::/64", None, 256),
            route(2, "2001:db8::/64", None, 256),
            route(2, "fe80::/64", None, 256),
            route(2, "ff00::/8", None, 256),
            route(3, "2001:db8:9::/48", None, 1024),
            Route { source: Some("fd12::7".parse().unwrap()), ..route(2, "2001:db8:5::/48", None, 1024) },
            route(5, "fd77::5/128", None, 1024),
            Route { device: None, ..route(2, "2001:db8:bad::/48", None, 1024) },
        ]);
        let ways = host.ways(&[]);
        let find = |d: &str| ways.iter().find(|w| w.destination == d.parse().unwrap()).copied();
        let source = |d: &str| find(d).unwrap().out.map(|o| (o.device, o.source.to_string()));
        assert_eq!(source("::/0"), Some((2, "2001:db8::7".into())));
        assert_eq!(source("fd00::/8"), Some((2, "fd12::7".into())));
        assert_eq!(source("fd12::/64"), Some((2, "fd12::7".into())));
        assert_eq!(source("2001:db8::/64"), Some((2, "2001:db8::7".into())), "no temporary address");
        assert_eq!(source("2001:db8:9::/48"), Some((3, "2001:db8::7".into())), "borrowed");
        assert_eq!(source("2001:db8:5::/48"), Some((2, "fd12::7".into())), "what the route asks for");
        assert_eq!(source("2001:db8:bad::/48"), None);
        for left_out in ["fe80::/64", "ff00::/8", "fd77::5/128"] {
            assert_eq!(find(left_out), None);
        }
        let locals: Vec<String> = host.locals().map(|(a, _)| a.to_string()).collect();
        assert!(locals.contains(&"fe80::7".into()) && locals.contains(&"192.0.2.7".into()));
    }
}
