//! What is to be in the maps. Pure: from the assignment, the containers that are attached and the
//! node's devices, addresses and routes to the rows of every map.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
};

use ipnet::IpNet;
use warren_ebpf::abi::{
    BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_HELD, BACKEND_UP, Backend, BackendRef, CONFIG_ANYWHERE,
    CONFIG_DENY, CONFIG_ENABLED, CONFIG_VIA6, Config, Limit, Local, Mac, ROUTE_DEFAULT, ROUTE_DROP, Route,
    SERVICE_LIMITED, SERVICE_PACED, SERVICE_SEATED, Service, ServiceKey, Via, capacity, map,
};

use super::{
    super::{
        attach::container_mac,
        netlink::host::{Host, Way},
    },
    contents::Contents,
    sources::{self, Sets},
    tables,
};
use crate::model::{
    Assignment, Attachment, ClientLimits, Health, NodeId, PortSpec, PublishDefault, Rate, ServiceEndpoint,
    TaskId, TaskState, TaskStatus, validate,
};

const _: () = assert!(2 * validate::MAX_LIMITED <= capacity::LIMITS);

/// Whether a container takes new connections of published ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// Not said since this agent and its maps are there: what the assignment says of the task.
    Unknown,
    /// Never opened.
    Closed,
    /// Open.
    Open,
    /// Was open; goes on with what it has, and takes more while no other is open.
    Draining,
    /// Was open and does not work; goes on with what it has.
    Held,
}

/// A container that has its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Its place in the network.
    pub attachment: Attachment,
    /// The host end of its link.
    pub ifindex: u32,
    /// Whether it has its IPv6 address: the kernel, or who rules it, may have none on the link.
    pub ipv6: bool,
    /// Whether it is open.
    pub serving: Serving,
}

/// What never changes while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// Devices that take part; all when empty.
    pub interfaces: Vec<String>,
    /// Whom ports answer that were published without an address and sources.
    pub publish_default: PublishDefault,
    /// The cluster's pools: an address of one that nobody has must not leave the node.
    pub pools: Vec<IpNet>,
}

/// Everything that decides.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What never changes.
    pub settings: &'a Settings,
    /// The node.
    pub host: &'a Host,
    /// The containers.
    pub attached: &'a BTreeMap<TaskId, Attached>,
    /// Whom published ports never answer.
    pub denied: &'a BTreeSet<IpNet>,
    /// What the cluster wants; `None` until heard: then published ports stay as they are.
    pub assignment: Option<&'a Assignment>,
    /// What the maps hold.
    pub current: &'a Contents,
    /// Rows of `MAGLEV` that readers may still be in.
    pub retired: &'a [Range<u32>],
}

/// What is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Contents of the maps.
    pub desired: Contents,
    /// Rows of `MAGLEV` that go out of use with this plan: to be left alone for a while.
    pub retire: Vec<Range<u32>>,
}

/// A reference to a container's use of its row.
#[must_use]
pub fn reference(a: &Attachment) -> BackendRef {
    BackendRef { id: a.backend, generation: a.generation }
}

/// A container's row in `BACKEND`.
#[must_use]
pub fn backend_row(task: TaskId, a: &Attached, assignment: Option<&Assignment>) -> Backend {
    Backend {
        generation: a.attachment.generation,
        ifindex: a.ifindex,
        node: 0,
        address: a.attachment.address.octets(),
        address6: if a.ipv6 { a.attachment.address6.octets() } else { [0; 16] },
        mac: container_mac(task),
        state: state(task, a, assignment),
        flags: 0,
    }
}

fn state(task: TaskId, a: &Attached, assignment: Option<&Assignment>) -> u8 {
    match a.serving {
        Serving::Open => BACKEND_UP,
        Serving::Draining => BACKEND_DRAINING,
        Serving::Held => BACKEND_HELD,
        Serving::Closed => BACKEND_CLOSED,
        Serving::Unknown => {
            let runs = assignment.is_some_and(|assignment| {
                assignment.tasks.iter().any(|t| t.id == task && t.is_live() && works(&t.status))
            });
            if runs { BACKEND_UP } else { BACKEND_CLOSED }
        }
    }
}

fn works(status: &TaskStatus) -> bool {
    status.state == TaskState::Running && status.health != Health::Unhealthy
}

/// Computes everything.
#[must_use]
pub fn plan(view: &View<'_>) -> Plan {
    let mut desired = Contents::default();
    deny(view.denied, &mut desired);
    for (address, ifindex) in view.host.locals() {
        match address {
            IpAddr::V4(a) => desired.put(map::LOCAL4, &a.octets(), &Local { ifindex }),
            IpAddr::V6(a) => desired.put(map::LOCAL6, &a.octets(), &Local { ifindex }),
        }
    }
    for (ifindex, address) in view.host.macs(&view.settings.interfaces).take(capacity::DEVICES / 2) {
        desired.put(map::MAC, &ifindex, &Mac { address, pad: 0 });
    }
    for (ifindex, router) in
        view.host.routers6(&view.settings.interfaces).into_iter().take(capacity::DEVICES / 2)
    {
        desired.put(map::VIA6, &ifindex, &Via { router: router.octets() });
    }
    routes(view, &mut desired);
    for (task, a) in view.attached {
        let own = reference(&a.attachment);
        desired.put(map::BACKEND, &a.attachment.backend, &backend_row(*task, a, view.assignment));
        desired.put(map::EP4, &a.attachment.address.octets(), &own);
        if a.ipv6 {
            desired.put(map::EP6, &a.attachment.address6.octets(), &own);
        }
        desired.put(map::LINK, &a.ifindex, &own);
    }
    let retire = match view.assignment {
        Some(assignment) => services(view, assignment, &mut desired),
        None => {
            for m in [map::SVC4, map::SVC6, map::SRC4, map::SRC6, map::LIMIT, map::MAGLEV] {
                *desired.rows_mut(m) = view.current.rows(m).clone();
            }
            Vec::new()
        }
    };
    let config = config(view, &desired);
    desired.put(map::CONFIG, &0u32, &config);
    Plan { desired, retire }
}

/// The settings that go with what the other maps will hold.
fn config(view: &View<'_>, desired: &Contents) -> Config {
    let mut flags = CONFIG_ENABLED;
    if !view.denied.is_empty() {
        flags |= CONFIG_DENY;
    }
    if !desired.rows(map::VIA6).is_empty() {
        flags |= CONFIG_VIA6;
    }
    let mut published = [map::SVC4, map::SVC6].into_iter().flat_map(|m| desired.rows(m).keys());
    if published.all(|key| is_for_any(key)) {
        flags |= CONFIG_ANYWHERE;
    }
    let subnet = view.assignment.and_then(|a| a.subnet);
    let slice4 = subnet.map(|s| (left(&s.v4.network().octets()), s.v4.prefix_len().into()));
    let slice6 = subnet.map(|s| (left(&s.v6.network().octets()), s.v6.prefix_len().into()));
    let inside = |m| desired.rows(m).keys().map(|address| (left(address), 32 * address.len() as u32));
    let (v4, mask4) = common(slice4.into_iter().chain(inside(map::EP4)));
    let (v6, mask6) = common(slice6.into_iter().chain(inside(map::EP6)));
    let upper = |[a, b, c, d, ..]: [u8; 8]| [a, b, c, d];
    Config {
        netns_cookie: view.settings.cookie,
        flags,
        containers: upper(v4.to_be_bytes()),
        containers_mask: upper(mask4.to_be_bytes()),
        containers6: v6.to_be_bytes(),
        containers6_mask: mask6.to_be_bytes(),
        ..Config::DEFAULT
    }
}

/// Whether a key of `SVC4` or `SVC6` is not for packets that come with one address only. It begins with the
/// address; port and protocol are its last four bytes. Loopback is the sockets' affair.
fn is_for_any(key: &[u8]) -> bool {
    match key {
        [address @ .., _, _, _, _] => {
            address.iter().all(|octet| *octet == 0)
                || matches!(address, [127, _, _, _] | [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
        }
        _ => false,
    }
}

/// The first eight bytes of an address, or all of it from the left.
fn left(address: &[u8]) -> u64 {
    address.iter().take(8).enumerate().fold(0, |bits, (i, octet)| bits | u64::from(*octet) << (56 - 8 * i))
}

/// What networks, each with the number of bits that count, have in common, and which bits those are: none
/// where there are no networks.
fn common(networks: impl Iterator<Item = (u64, u32)>) -> (u64, u64) {
    let narrower = |(a, length): (u64, u32), (b, other): (u64, u32)| {
        (a, length.min(other).min((a ^ b).leading_zeros()).min(64))
    };
    let (network, length) = networks.reduce(narrower).unwrap_or_default();
    let mask = u64::MAX.checked_shl(64 - length.min(64)).unwrap_or(0);
    (network & mask, mask)
}

fn deny(denied: &BTreeSet<IpNet>, desired: &mut Contents) {
    for net in denied {
        match net {
            IpNet::V4(net) => {
                let key: [u8; 8] = prefix_key(net.prefix_len(), &net.network().octets());
                desired.put(map::DENY4, &key, &1u32);
            }
            IpNet::V6(net) => {
                let key: [u8; 20] = prefix_key(net.prefix_len(), &net.network().octets());
                desired.put(map::DENY6, &key, &1u32);
            }
        }
    }
}

/// What the datapath makes of what one client gets of a service's ports, and the flags that go with it.
fn limit(limits: &ClientLimits) -> (Limit, u16) {
    let measure = |rate: Option<Rate>| rate.map_or((0, 0), |r| (r.spacing(), r.burst));
    let (flow_spacing, flow_burst) = measure(limits.conn_rate);
    let (packet_spacing, packet_burst) = measure(limits.packet_rate);
    let asked = if limits.any() { SERVICE_LIMITED } else { 0 };
    let paced = if limits.packet_rate.is_some() { SERVICE_PACED } else { 0 };
    let seated = if limits.conns.is_some() { SERVICE_SEATED } else { 0 };
    let connections = limits.conns.unwrap_or(0);
    (Limit { flow_spacing, flow_burst, packet_spacing, packet_burst, connections }, asked | paced | seated)
}

fn routes(view: &View<'_>, desired: &mut Contents) {
    let subnets = view.assignment.and_then(|a| a.subnet).map(|s| [IpNet::V4(s.v4), IpNet::V6(s.v6)]);
    let own: Vec<IpNet> =
        view.settings.pools.iter().copied().chain(subnets.into_iter().flatten()).map(|n| n.trunc()).collect();
    let mut ways = view.host.ways(&view.settings.interfaces);
    ways.retain(|w| !own.contains(&w.destination));
    ways.extend(own.into_iter().map(|destination| Way { destination, out: None }));
    // A full table of the internet does not fit: the general routes count more than the special.
    ways.sort_by_key(|w| w.destination.prefix_len());
    let of_family = |v4: bool| ways.iter().filter(move |w| w.destination.addr().is_ipv4() == v4);
    for way in of_family(true).take(capacity::ROUTES).chain(of_family(false).take(capacity::ROUTES)) {
        let (ifindex, mtu, flags) = way.out.map_or((0, 0, ROUTE_DROP), |out| (out.device, out.mtu, 0));
        let source = way.out.map(|out| out.source);
        match way.destination {
            IpNet::V4(net) => {
                let source =
                    source.map_or([0; 4], |a| if let IpAddr::V4(a) = a { a.octets() } else { [0; 4] });
                let key: [u8; 8] = prefix_key(net.prefix_len(), &net.network().octets());
                desired.put(map::ROUTE4, &key, &Route { ifindex, source, flags, mtu });
            }
            IpNet::V6(net) => {
                let source =
                    source.map_or([0; 16], |a| if let IpAddr::V6(a) = a { a.octets() } else { [0; 16] });
                let key: [u8; 20] = prefix_key(net.prefix_len(), &net.network().octets());
                let flags = if net.prefix_len() == 0 { flags | ROUTE_DEFAULT } else { flags };
                desired.put(map::ROUTE6, &key, &Route { ifindex, source, flags, mtu });
            }
        }
    }
}

/// The key of a longest-prefix trie: the prefix's length, then the address.
#[must_use]
pub fn prefix_key<const N: usize>(length: u8, network: &[u8]) -> [u8; N] {
    let mut key = [0; N];
    key[..4].copy_from_slice(&u32::from(length).to_ne_bytes());
    key[4..].copy_from_slice(network);
    key
}

/// The containers of this node that a service's connections go to: those that are open, or, when
/// none is, those that are on their way out.
#[must_use]
pub fn backends(view: &View<'_>, service: &ServiceEndpoint) -> Vec<BackendRef> {
    let of_state = |wanted: u8| -> Vec<BackendRef> {
        service
            .backends
            .iter()
            .filter(|(_, node, _)| *node == view.settings.node)
            .filter_map(|(task, _, attachment)| {
                let a = view.attached.get(task).filter(|a| a.attachment == *attachment)?;
                (state(*task, a, view.assignment) == wanted).then(|| reference(attachment))
            })
            .collect()
    };
    let up = of_state(BACKEND_UP);
    if up.is_empty() { of_state(BACKEND_DRAINING) } else { up }
}

fn services(view: &View<'_>, assignment: &Assignment, desired: &mut Contents) -> Vec<Range<u32>> {
    let wanted: BTreeMap<u32, Vec<BackendRef>> =
        assignment.services.iter().map(|s| (s.datapath_id, backends(view, s))).collect();
    let placed = tables::place(view.current, &wanted, view.retired);
    for (range, rows) in placed.tables.values() {
        for (row, backend) in range.clone().zip(rows) {
            desired.put(map::MAGLEV, &row, backend);
        }
    }
    for kept in placed.retire.iter().chain(view.retired) {
        for row in kept.clone() {
            if let Some(old) = view.current.get::<u32, BackendRef>(map::MAGLEV, &row) {
                desired.put(map::MAGLEV, &row, &old);
            }
        }
    }
    let mut sources4 = Sets::new(map::SRC4, view.current);
    let mut sources6 = Sets::new(map::SRC6, view.current);
    for service in &assignment.services {
        let single = match wanted.get(&service.datapath_id).map(Vec::as_slice) {
            Some([one]) => *one,
            _ => BackendRef::default(),
        };
        let (limit, flags) = limit(&service.limits);
        if flags != 0 && !service.ports.is_empty() {
            desired.put(map::LIMIT, &service.datapath_id, &limit);
        }
        let table = placed.tables.get(&service.datapath_id).map_or(0..0, |(range, _)| range.clone());
        let new = |port: &PortSpec, sources| Service {
            id: service.datapath_id,
            generation: 0,
            single,
            table: table.start,
            table_size: table.end - table.start,
            target: port.target,
            flags,
            sources,
            pad: Default::default(),
        };
        for port in &service.ports {
            let nets = sources::answered(port, view.settings, view.host);
            if let Some(key) = key4(port) {
                let set = nets.as_ref().map_or(0, |nets| sources4.number(nets, true, desired));
                put_service(view, desired, map::SVC4, &key, new(port, set));
            }
            if let Some(key) = key6(port) {
                let set = nets.as_ref().map_or(0, |nets| sources6.number(nets, false, desired));
                put_service(view, desired, map::SVC6, &key, new(port, set));
            }
        }
    }
    placed.retire
}

/// Puts the row of a port, under a new generation if it is another than the one that is there.
pub fn put_service<K: aya::Pod>(
    view: &View<'_>,
    desired: &mut Contents,
    map: &'static str,
    key: &K,
    new: Service,
) {
    let generation = match view.current.get::<_, Service>(map, key) {
        Some(old) if (Service { generation: 0, ..old }) == new => old.generation,
        Some(old) => old.generation.wrapping_add(1),
        None => 1,
    };
    desired.put(map, key, &Service { generation, ..new });
}

/// The key in `SVC4` of a port that is published on IPv4.
#[must_use]
pub fn key4(port: &PortSpec) -> Option<ServiceKey<[u8; 4]>> {
    let address = match port.host_ip {
        None => [0; 4],
        Some(IpAddr::V4(a)) => a.octets(),
        Some(IpAddr::V6(_)) => return None,
    };
    Some(ServiceKey { address, port: port.published, protocol: port.protocol.number(), pad: 0 })
}

/// The key in `SVC6` of a port that is published on IPv6.
#[must_use]
pub fn key6(port: &PortSpec) -> Option<ServiceKey<[u8; 16]>> {
    let address = match port.host_ip {
        None => [0; 16],
        Some(IpAddr::V6(a)) => a.octets(),
        Some(IpAddr::V4(_)) => return None,
    };
    Some(ServiceKey { address, port: port.published, protocol: port.protocol.number(), pad: 0 })
}
