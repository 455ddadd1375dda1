//! What we ask of the kernel's routing socket: a full picture of devices, addresses and routes,
//! and word when any of it may have changed.
//!
//! The picture is always read whole: a lost event, a restart and a change are the same case.

pub mod host;

use std::{net::IpAddr, sync::Arc};

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::{
    MulticastGroup, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
        link::{InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType},
    },
};
use tokio::{
    sync::{Mutex, Notify},
    task::JoinHandle,
};

use super::NetError;
use host::{Address, Device, Group, Host, Layer, Route};

const MAIN_TABLE: u32 = 254;

/// A routing socket of one network namespace; its task ends when this is dropped.
#[derive(Debug)]
pub struct Netlink {
    /// The requests.
    pub handle: rtnetlink::Handle,
    /// Held by who reads everything: a socket lists one thing at a time, and is busy to whoever asks
    /// meanwhile.
    listing: Mutex<()>,
    task: JoinHandle<()>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread. Needs a tokio context.
    pub fn open() -> Result<Self, NetError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|e| NetError::system("open a routing socket", e))?;
        Ok(Self { handle, listing: Mutex::new(()), task: tokio::spawn(connection) })
    }

    /// Reads everything.
    pub async fn host(&self) -> Result<Host, NetError> {
        let _turn = self.listing.lock().await;
        let devices: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(request("list devices"))?;
        let addresses: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(request("list addresses"))?;
        let mut routes = Vec::new();
        for message in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let v6 = message.header.address_family == AddressFamily::Inet6;
            let some: Result<Vec<RouteMessage>, _> =
                self.handle.route().get(message).execute().try_collect().await;
            match some {
                Ok(some) => routes.extend(some),
                // A kernel without IPv6 has no such family.
                Err(_) if v6 => {}
                Err(e) => return Err(request("list routes")(e)),
            }
        }
        Ok(Host {
            devices: devices.into_iter().map(device).collect(),
            addresses: addresses.into_iter().filter_map(address).collect(),
            routes: routes.into_iter().filter_map(route).collect(),
        })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells when devices, addresses or routes may have changed.
#[derive(Debug)]
pub struct Monitor {
    /// Woken at each change.
    pub changed: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Monitor {
    /// Listens in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetError> {
        use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route, Link};
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&[Link, Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route])
                .map_err(|e| NetError::system("listen to changes of devices and routes", e))?;
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        let reader = tokio::spawn(async move {
            // What the message says does not matter; an overrun is a message, too.
            while messages.next().await.is_some() {
                wake.notify_one();
            }
        });
        Ok(Self { changed, tasks: [tokio::spawn(connection), reader] })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        for t in &self.tasks {
            t.abort();
        }
    }
}

/// Makes a [`NetError`] of what the kernel answered.
pub(super) fn request(what: &'static str) -> impl Fn(rtnetlink::Error) -> NetError {
    move |e| NetError::Netlink { what, source: e }
}

/// Whether the kernel answered with this errno.
pub(super) fn is_errno(e: &rtnetlink::Error, errno: i32) -> bool {
    matches!(e, rtnetlink::Error::NetlinkError(m) if m.raw_code() == -errno)
}

pub(super) fn device(m: LinkMessage) -> Device {
    let layer = match m.header.link_layer_type {
        LinkLayerType::Ether => Layer::Ethernet,
        LinkLayerType::Loopback => Layer::Loopback,
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre => Layer::Ip,
        _ => Layer::Other,
    };
    let mut d = Device {
        index: m.header.index,
        name: String::new(),
        alias: None,
        mac: Vec::new(),
        mtu: 0,
        layer,
        controller: None,
        up: m.header.flags.contains(LinkFlags::Up),
    };
    for a in m.attributes {
        match a {
            LinkAttribute::IfName(n) => d.name = n,
            LinkAttribute::IfAlias(a) => d.alias = Some(a),
            LinkAttribute::Address(a) => d.mac = a,
            LinkAttribute::Mtu(m) => d.mtu = m,
            LinkAttribute::Controller(c) => d.controller = Some(c),
            LinkAttribute::LinkInfo(all) => {
                d.layer = all.iter().find_map(group).map_or(d.layer, Layer::Port);
            }
            _ => {}
        }
    }
    d
}

/// What a device that says this hands all that comes in to. One in a VRF does not.
fn group(info: &LinkInfo) -> Option<Group> {
    let LinkInfo::PortKind(kind) = info else { return None };
    match kind {
        InfoPortKind::Bridge => Some(Group::Bridge),
        InfoPortKind::Bond => Some(Group::Bond),
        InfoPortKind::Team => Some(Group::Team),
        InfoPortKind::Other(kind) => (kind == "openvswitch").then_some(Group::Switch),
        _ => None,
    }
}

fn address(m: AddressMessage) -> Option<Address> {
    let (mut local, mut peer) = (None, None);
    let mut secondary = m.header.flags.contains(AddressHeaderFlags::Secondary);
    for a in m.attributes {
        match a {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => peer = Some(ip),
            // For IPv6 the first flag means "temporary".
            AddressAttribute::Flags(f) => {
                secondary |= f.intersects(
                    AddressFlags::Secondary
                        | AddressFlags::Deprecated
                        | AddressFlags::Tentative
                        | AddressFlags::Dadfailed,
                );
            }
            _ => {}
        }
    }
    // On a point-to-point device the address is local and the other one the peer's.
    let net = IpNet::new(local.or(peer)?, m.header.prefix_len).ok()?;
    let global = m.header.scope == AddressScope::Universe || m.header.scope == AddressScope::Site;
    Some(Address { device: m.header.index, net, global, secondary })
}

fn ip(a: &RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn route(m: RouteMessage) -> Option<Route> {
    let h = &m.header;
    let nowhere = matches!(h.kind, RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit);
    if !(nowhere || h.kind == RouteType::Unicast) || h.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let unspecified = match h.address_family {
        AddressFamily::Inet => IpAddr::from([0u8; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let mut table = u32::from(h.table);
    let (mut destination, mut device, mut gateway, mut source, mut metric) =
        (unspecified, None, None, None, 0);
    for a in &m.attributes {
        match a {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Destination(d) => destination = ip(d)?,
            RouteAttribute::Oif(i) => device = Some(*i),
            RouteAttribute::Gateway(g) => gateway = ip(g),
            RouteAttribute::PrefSource(s) => source = ip(s),
            RouteAttribute::Priority(p) => metric = *p,
            // Of several equal ways, the first: the source address is what we need of it.
            RouteAttribute::MultiPath(hops) if device.is_none() => {
                let hop = hops.first()?;
                device = Some(hop.interface_index);
                gateway = hop.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Gateway(g) => ip(g),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if table != MAIN_TABLE {
        return None;
    }
    let destination = IpNet::new(destination, h.destination_prefix_length).ok()?;
    let device = if nowhere { None } else { Some(device?) };
    Some(Route { destination, device, gateway, source, metric })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_read_by_many_at_once() {
        let netlink = Netlink::open().unwrap();
        let all = futures::future::join_all((0..20).map(|_| netlink.host())).await;
        for host in all {
            assert!(host.unwrap().devices.iter().any(|d| d.name == "lo"));
        }
    }
}
