//! What routers and containers say of packets, through a real node: to the client of a published
//! port, and to the container that sent them.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use warren_tests::{eventually, netns::Netns, scenario::OneNode};

use crate::{
    ask::{self, Load, Means, enter},
    wire::{self, Wire},
};

const SOON: Duration = Duration::from_secs(10);
/// What the router lets pass on to the far host.
const NARROW: &str = "1300";

/// A node, behind a router of which a far host is.
struct Site {
    one: OneNode,
    _router: Netns,
    far: Netns,
    /// The container's namespace.
    container: PathBuf,
}

impl Site {
    fn new() -> Result<Self> {
        let one = OneNode::new()?;
        let (router, far) = (Netns::create("router")?, Netns::create("far")?);
        let node = &one.node.host.ns;
        for (end, name, n) in [(node, "up1", 1), (&far, "eth0", 2)] {
            let theirs = format!("to{n}");
            end.ip(&["link", "add", name, "type", "veth", "peer", "name", &theirs, "netns", router.name()])?;
            for (place, device, last) in [(end, name, 1), (&router, theirs.as_str(), 254)] {
                place.ip(&["addr", "add", &format!("198.19.{n}.{last}/24"), "dev", device])?;
                place.ip(&["addr", "add", &format!("fd19:{n}::{last}/64"), "dev", device, "nodad"])?;
                place.ip(&["link", "set", device, "up"])?;
            }
        }
        router.set_sysctl("net/ipv4/ip_forward", "1")?;
        router.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        for (place, other) in [(node, 2), (&far, 1)] {
            let n = 3 - other;
            let (v4, v6) = (format!("198.19.{other}.0/24"), format!("fd19:{other}::/64"));
            place.ip(&["route", "add", &v4, "via", &format!("198.19.{n}.254")])?;
            place.ip(&["-6", "route", "add", &v6, "via", &format!("fd19:{n}::254")])?;
        }
        // No device is narrow: neither end can know.
        far.ip(&["addr", "add", "198.19.2.2/24", "dev", "eth0"])?;
        // Deprecated: it is never what the far host asks from.
        far.ip(&["addr", "add", "fd19:2::2/64", "dev", "eth0", "nodad", "preferred_lft", "0"])?;
        for to in ["198.19.2.1/32", "198.19.2.2/32", "fd19:2::1/128", "fd19:2::2/128"] {
            router.ip(&["route", "add", to, "dev", "to2", "mtu", "lock", NARROW])?;
        }
        one.create("mirror", &["-p", "7000:7000/tcp", "-p", "7000:7000/udp"], &["mirror", "7000"])?;
        one.create("deaf", &["-p", "7001:7000/udp"], &["sleep"])?;
        let container = wire::of_process(one.node.pid("mirror")?)?;
        let site = Self { one, _router: router, far, container };
        for v6 in [false, true] {
            let (near, to) = (&site, site.published(v6, 7000));
            eventually("the far host is answered", SOON, move || {
                enter(&near.far.path(), || ask::ask(to, Means::Tcp, Load::Small)).flatten()
            })?;
        }
        Ok(site)
    }

    fn published(&self, v6: bool, port: u16) -> SocketAddr {
        if v6 {
            ("fd19:1::1".parse::<IpAddr>().expect("one"), port).into()
        } else {
            ([198, 19, 1, 1], port).into()
        }
    }

    /// An address of the far host: it has two, and what one has taught says nothing of the other.
    fn far(v6: bool, n: u8) -> SocketAddr {
        let v4 = IpAddr::from([198, 19, 2, n]);
        let far = if v6 { format!("fd19:2::{n}").parse().expect("an address") } else { v4 };
        (far, 9).into()
    }
}

/// A connected socket that is told every error.
fn told(to: SocketAddr, hops: Option<i32>) -> Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    let (level, errors, limit) = if to.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_RECVERR, libc::IP_TTL)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, libc::IPV6_UNICAST_HOPS)
    };
    for (name, value) in [(errors, 1)].into_iter().chain(hops.map(|hops| (limit, hops))) {
        // SAFETY: the pointer is to an int that lives through the call.
        let failed =
            unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
        ensure!(failed == 0, "option {name}: {}", io::Error::last_os_error());
    }
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.connect(to)?;
    Ok(socket)
}

/// What the kernel says after a datagram of so many bytes.
fn errno(socket: &UdpSocket, bytes: usize) -> Result<i32> {
    socket.send(&vec![7; bytes])?;
    let said = socket.recv(&mut [0; 64]).err().context("somebody answered")?;
    said.raw_os_error().context("no errno")
}

#[test]
#[ignore = "needs root"]
fn errors_reach_whom_they_concern() -> Result<()> {
    let site = Site::new()?;
    let wires = [Wire::tap(&site.container)?, Wire::tap(&site.far.path())?];
    let mut bad = Vec::new();
    for v6 in [false, true] {
        // A container's port that nobody listens on: the client's kernel finds its socket by the
        // published address that is quoted.
        let refused = enter(&site.far.path(), || errno(&told(site.published(v6, 7001), None)?, 5)).flatten();
        // The router, of a datagram the container sends with its last hop; the node is none.
        let expired = enter(&site.container, || errno(&told(Site::far(v6, 1), Some(1))?, 5)).flatten();
        // Two hops reach the far host, where nobody listens.
        let arrived = enter(&site.container, || errno(&told(Site::far(v6, 1), Some(2))?, 5)).flatten();
        // The router, of one that is too big: the socket is told, and the size is remembered.
        let too_big = enter(&site.container, || errno(&told(Site::far(v6, 2), None)?, 1400)).flatten();
        // The same of answers of a published port: a bulk comes through although its first segments did not.
        let to = site.published(v6, 7000);
        let bulk = enter(&site.far.path(), || ask::ask(to, Means::Tcp, Load::Big)).flatten();
        for (what, got, want) in [
            ("port unreachable, to the client", refused, libc::ECONNREFUSED),
            ("time exceeded, to the container", expired, libc::EHOSTUNREACH),
            ("port unreachable, to the container", arrived, libc::ECONNREFUSED),
            ("too big, to the container", too_big, libc::EMSGSIZE),
        ] {
            match got {
                Ok(errno) if errno == want => {}
                other => bad.push(format!("v6 {v6}, {what}: {other:?}, not {want}")),
            }
        }
        if let Err(e) = bulk {
            bad.push(format!("v6 {v6}, a bulk through the narrow way: {e:#}"));
        }
        // The container's kernel knows how wide the way is.
        let far = Site::far(v6, 1).ip().to_string();
        let pid = site.one.node.pid("mirror")?.to_string();
        let route = warren_tests::program::host("nsenter", &["-t", &pid, "-n", "ip", "route", "get", &far])?;
        if !route.contains(&format!("mtu {NARROW}")) {
            bad.push(format!("v6 {v6}, the container's way: {route}"));
        }
    }
    for wire in &wires {
        bad.extend(wire.wrong());
        ensure!(wire.right().0 > 0, "the raw socket saw no packet");
    }
    ensure!(bad.is_empty(), "{}", bad.join("\n"));
    Ok(())
}
