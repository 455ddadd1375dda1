//! Whom published ports answer: from what was said of them to the sets in `SRC4`. Pure.
//!
//! Ports for the same sources share a set. A set is never changed: another one is written, the ports
//! are pointed to it, the old one goes. So every packet between two writes finds a whole one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use warren_ebpf::abi::SOURCES_NOBODY;

use super::{super::netlink::host::Host, contents::Contents, desired::Settings};
use crate::model::{PortSpec, PublishDefault};

/// What is private by definition: RFC 1918, RFC 3927 (link-local), RFC 4193, RFC 4291 (link-local).
/// Not 100.64.0.0/10 (RFC 6598): a provider's other customers are in it.
const PRIVATE4: [[u8; 5]; 4] =
    [[10, 0, 0, 0, 8], [172, 16, 0, 0, 12], [192, 168, 0, 0, 16], [169, 254, 0, 0, 16]];
const PRIVATE6: [(u16, u8); 2] = [(0xfc00, 7), (0xfe80, 10)];

/// The networks whose clients a port answers; everybody when `None`.
#[must_use]
pub fn answered(port: &PortSpec, settings: &Settings, host: &Host) -> Option<Vec<IpNet>> {
    if !port.from.is_empty() {
        return Some(port.from.clone());
    }
    match settings.publish_default {
        _ if !port.is_bare() => None,
        PublishDefault::Any => None,
        PublishDefault::None => Some(Vec::new()),
        PublishDefault::Lan => Some(lan(settings, host)),
    }
}

/// What is private by definition, the subnets of the devices that take part, and the cluster's
/// containers.
fn lan(settings: &Settings, host: &Host) -> Vec<IpNet> {
    let private4 =
        PRIVATE4.iter().filter_map(|&[a, b, c, d, len]| Ipv4Net::new([a, b, c, d].into(), len).ok());
    let private6 = PRIVATE6.iter().filter_map(|&(first, len)| {
        Ipv6Net::new(std::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), len).ok()
    });
    let devices: BTreeSet<u32> = host.uplinks(&settings.interfaces).map(|d| d.index).collect();
    let subnets = host.addresses.iter().filter(|a| devices.contains(&a.device)).map(|a| a.net.trunc());
    private4
        .map(IpNet::from)
        .chain(private6.map(IpNet::from))
        .chain(settings.pools.iter().map(IpNet::trunc))
        // No network is everybody's.
        .chain(subnets.filter(|net| net.prefix_len() > 0))
        .collect()
}

/// A network as it lies in a key, behind the set's number.
type Prefix = (u8, Vec<u8>);

/// The sets of one family.
#[derive(Debug)]
pub struct Sets {
    map: &'static str,
    /// Sets in the map, by what is in them.
    current: BTreeMap<BTreeSet<Prefix>, u32>,
    /// Those that are wanted.
    wanted: BTreeMap<BTreeSet<Prefix>, u32>,
    /// Every number in use, also of sets that are the same.
    used: BTreeSet<u32>,
}

impl Sets {
    /// Those of `map`, of which none is wanted yet.
    #[must_use]
    pub fn new(map: &'static str, current: &Contents) -> Self {
        let mut by_number: BTreeMap<u32, BTreeSet<Prefix>> = BTreeMap::new();
        for key in current.rows(map).keys() {
            if let Some((set, prefix)) = read(key) {
                by_number.entry(set).or_default().insert(prefix);
            }
        }
        let used = by_number.keys().copied().collect();
        let current = by_number.into_iter().map(|(set, prefixes)| (prefixes, set)).collect();
        Self { map, current, wanted: BTreeMap::new(), used }
    }

    /// The number of the set of these networks, of which `desired` gets the rows; those of the other
    /// family are left out.
    pub fn number(&mut self, nets: &[IpNet], v4: bool, desired: &mut Contents) -> u32 {
        let prefixes: BTreeSet<Prefix> =
            nets.iter().filter(|net| net.addr().is_ipv4() == v4).map(prefix).collect();
        if prefixes.is_empty() {
            return SOURCES_NOBODY;
        }
        if let Some(set) = self.wanted.get(&prefixes) {
            return *set;
        }
        let set = match self.current.get(&prefixes) {
            Some(set) => *set,
            None => self.next(),
        };
        for prefix in &prefixes {
            desired.rows_mut(self.map).insert(key(set, prefix), 1u32.to_ne_bytes().to_vec());
        }
        self.wanted.insert(prefixes, set);
        set
    }

    /// A number that is in no row; one that just went out of use comes back last.
    fn next(&mut self) -> u32 {
        let after = self.used.last().map_or(1, |highest| highest + 1);
        let free = |set: &u32| !self.used.contains(set);
        let set = (after..SOURCES_NOBODY).chain(1..SOURCES_NOBODY).find(free).unwrap_or(SOURCES_NOBODY);
        self.used.insert(set);
        set
    }
}

fn prefix(net: &IpNet) -> Prefix {
    let address = match net.network() {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    (net.prefix_len(), address)
}

/// The length that the trie compares, the set, the address.
fn key(set: u32, (len, address): &Prefix) -> Vec<u8> {
    let bits = 32 + u32::from(*len);
    [&bits.to_ne_bytes()[..], &set.to_ne_bytes(), address].concat()
}

fn read(key: &[u8]) -> Option<(u32, Prefix)> {
    let (bits, rest) = key.split_first_chunk::<4>()?;
    let (set, address) = rest.split_first_chunk::<4>()?;
    let len = u8::try_from(u32::from_ne_bytes(*bits).checked_sub(32)?).ok()?;
    Some((u32::from_ne_bytes(*set), (len, address.to_vec())))
}

/// The networks of a set, as they are in the map.
#[must_use]
pub fn of_set(map: &str, contents: &Contents, set: u32) -> Vec<IpNet> {
    let rows = contents.rows(map).keys().filter_map(|key| read(key)).filter(|(s, _)| *s == set);
    let net = |(_, (len, address)): (u32, Prefix)| {
        if let Ok(v4) = <[u8; 4]>::try_from(address.as_slice()) {
            return Ipv4Net::new(v4.into(), len).ok().map(IpNet::from);
        }
        let v6 = <[u8; 16]>::try_from(address.as_slice()).ok()?;
        Ipv6Net::new(v6.into(), len).ok().map(IpNet::from)
    };
    let mut nets: Vec<IpNet> = rows.filter_map(net).collect();
    nets.sort();
    nets
}

#[cfg(test)]
mod tests {
    use warren_ebpf::abi::map;

    use super::*;
    use crate::{
        model::NodeId,
        net::netlink::host::{Address, Device, Layer},
    };

    fn settings(publish_default: PublishDefault, interfaces: &[&str]) -> Settings {
        Settings {
            node: NodeId::from_random(1),
            cookie: 1,
            interfaces: interfaces.iter().map(|i| (*i).to_owned()).collect(),
            publish_default,
            pools: nets(&["203.0.113.0/25", "2001:db8:86::/48"]),
        }
    }

    fn host() -> Host {
        let device = |index, name: &str, layer| Device {
            index,
            name: name.into(),
            alias: None,
            mac: vec![2, 0, 0, 0, 0, 1],
            mtu: 1500,
            layer,
            controller: None,
            up: true,
        };
        let address =
            |device, net: &str| Address { device, net: net.parse().unwrap(), global: true, secondary: false };
        Host {
            devices: vec![
                device(1, "lo", Layer::Loopback),
                device(2, "eth0", Layer::Ethernet),
                device(3, "wg0", Layer::Ip),
            ],
            addresses: vec![
                address(1, "127.0.0.1/8"),
                address(2, "192.0.2.7/24"),
                address(2, "2001:db8::7/64"),
                address(3, "198.51.100.1/30"),
                address(3, "198.51.100.9/0"),
            ],
            routes: vec![],
        }
    }

    fn said(port: &str, default: PublishDefault, interfaces: &[&str]) -> Option<Vec<String>> {
        let nets = answered(&port.parse().unwrap(), &settings(default, interfaces), &host())?;
        Some(nets.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_default_is_for_what_says_nothing() {
        use PublishDefault::{Any, Lan, None as Nobody};
        let private = [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "fc00::/7",
            "fe80::/10",
            "203.0.113.0/25",
            "2001:db8:86::/48",
        ];
        let with = |more: &[&str]| Some(private.iter().chain(more).map(ToString::to_string).collect());
        assert_eq!(said("80:80", Any, &[]), None);
        assert_eq!(said("80:80", Nobody, &[]), Some(vec![]));
        assert_eq!(said("80:80", Lan, &[]), with(&["192.0.2.0/24", "2001:db8::/64", "198.51.100.0/30"]));
        assert_eq!(said("80:80", Lan, &["eth0"]), with(&["192.0.2.0/24", "2001:db8::/64"]));
        for default in [Any, Lan, Nobody] {
            assert_eq!(said("192.0.2.7:80:80", default, &[]), None);
            assert_eq!(said("0.0.0.0:80:80", default, &[]), None);
            assert_eq!(
                said("published=80,target=80,from=198.18.0.0/15", default, &[]),
                Some(vec!["198.18.0.0/15".into()])
            );
        }
    }

    fn nets(all: &[&str]) -> Vec<IpNet> {
        all.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn equal_sources_share_a_set_and_changed_ones_get_another() {
        let mut first = Contents::empty();
        let mut sets = Sets::new(map::SRC4, &Contents::empty());
        let (a, b) = (nets(&["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]), nets(&["10.0.0.0/9"]));
        assert_eq!(sets.number(&a, true, &mut first), 1);
        assert_eq!(sets.number(&nets(&["192.0.2.1/32", "10.0.0.0/8"]), true, &mut first), 1);
        assert_eq!(sets.number(&b, true, &mut first), 2);
        assert_eq!(sets.number(&nets(&["fd00::/8"]), true, &mut first), SOURCES_NOBODY);
        assert_eq!(sets.number(&[], true, &mut first), SOURCES_NOBODY);
        assert_eq!(of_set(map::SRC4, &first, 1), nets(&["10.0.0.0/8", "192.0.2.1/32"]));
        assert_eq!(of_set(map::SRC4, &first, 2), b);
        assert_eq!(of_set(map::SRC4, &first, SOURCES_NOBODY), []);

        // The next pass: what is there keeps its number, what is new has one of its own.
        let mut second = Contents::empty();
        let mut sets = Sets::new(map::SRC4, &first);
        assert_eq!(sets.number(&nets(&["10.0.0.0/10"]), true, &mut second), 3);
        assert_eq!(sets.number(&b, true, &mut second), 2);
        assert_eq!(second.rows(map::SRC4).len(), 2);
    }

    #[test]
    fn the_other_family_has_sets_too() {
        let mut desired = Contents::empty();
        let mut sets = Sets::new(map::SRC4, &Contents::empty());
        let set = sets.number(&nets(&["fd00::/8", "10.0.0.0/8"]), false, &mut desired);
        assert_eq!(of_set(map::SRC4, &desired, set), nets(&["fd00::/8"]));
    }

    #[test]
    fn numbers_do_not_run_out() {
        let mut current = Contents::empty();
        for set in [1, 2, SOURCES_NOBODY - 1] {
            current
                .rows_mut(map::SRC4)
                .insert(key(set, &prefix(&nets(&["10.0.0.0/8"])[0])), vec![1, 0, 0, 0]);
        }
        let mut sets = Sets::new(map::SRC4, &current);
        let mut desired = Contents::empty();
        assert_eq!(sets.number(&nets(&["10.0.0.0/9"]), true, &mut desired), 3);
        assert_eq!(sets.number(&nets(&["10.0.0.0/10"]), true, &mut desired), 4);
    }
}
