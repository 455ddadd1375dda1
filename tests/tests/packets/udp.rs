//! Real UDP sockets through the programs, from every place.

use std::{
    fs::File,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use warren_ebpf::abi::{
    Address as _, BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_HELD, BACKEND_UP, Config, UDP, program,
};

use crate::{
    live::{BOTH, NODE, NODE6, Place, Site, WAIT, cgroup_root, client, container, node, unspecified},
    testrun::alone,
};

/// Starts a server in a namespace that sends back what it gets, with its own number before it.
/// Returns a channel of the clients' addresses. It ends when nothing comes for a while.
pub fn echo(place: &Place, port: u16, number: u8) -> Result<mpsc::Receiver<SocketAddr>> {
    let socket = place.run(move || Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?))?;
    socket.set_read_timeout(Some(WAIT))?;
    let (told, peers) = mpsc::channel();
    place.start(move || {
        let mut buffer = vec![number; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer[1..]) {
            socket.send_to(&buffer[..=n], from)?;
            let _ = told.send(SocketAddr::new(from.ip().to_canonical(), from.port()));
        }
        Ok(())
    });
    Ok(peers)
}

/// A socket that does not wait for ever.
fn socket() -> Result<UdpSocket> {
    socket_of(false)
}

/// The same of a family.
fn socket_of(v6: bool) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((unspecified(v6), 0))?;
    socket.set_read_timeout(Some(WAIT))?;
    Ok(socket)
}

/// Sends `bytes` of something and gets it back; the number of who answered.
fn exchange(socket: &UdpSocket, to: impl Into<SocketAddr>, bytes: usize) -> Result<u8> {
    let to = to.into();
    let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    if socket.peer_addr().is_ok() {
        socket.send(&sent)?;
    } else {
        socket.send_to(&sent, to)?;
    }
    let mut got = vec![0; bytes + 2];
    let (n, from) = socket.recv_from(&mut got).with_context(|| format!("no answer of {to}"))?;
    ensure!(from == to, "{to} was asked, {from} answered");
    ensure!(n == bytes + 1 && got[1..n] == sent[..], "{n} bytes of {bytes} came back");
    Ok(got[0])
}

#[test]
#[ignore = "needs root"]
fn from_another_host() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish_for(UDP, 5300, 53, 1)?;
        let peers = echo(&site.containers[0], 53, 1)?;
        for v6 in BOTH {
            let socket = site.client.run(move || socket_of(v6))?;
            let published = SocketAddr::new(node(v6), 5300);
            for bytes in [0, 1, 1000, 1400] {
                ensure!(exchange(&socket, published, bytes)? == 1);
                let seen = peers.recv_timeout(WAIT)?;
                let own = socket.local_addr()?.port();
                ensure!(seen == SocketAddr::new(client(v6), own), "the client's own address: {seen}");
            }
            // TCP to the same number is not published.
            let refused = site.client.run(move || {
                Ok(std::net::TcpStream::connect_timeout(&published, WAIT).map_err(|e| e.kind()))
            })?;
            ensure!(refused.as_ref().err() == Some(&ErrorKind::ConnectionRefused), "{refused:?}");
        }
        Ok(())
    })
}

/// One socket that goes on asking while containers come, go, drain and fail.
#[test]
#[ignore = "needs root"]
fn one_socket_follows_the_service() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        let _one = echo(&site.containers[0], 53, 1)?;
        let _two = echo(&site.containers[1], 53, 2)?;
        let client = site.client.run(socket)?;
        let published = SocketAddrV4::new(NODE, 5300);
        site.publish_for(UDP, 5300, 53, 1)?;
        ensure!(exchange(&client, published, 10)? == 1);
        // The service has another backend, but the flow's is as good as before.
        site.publish_for(UDP, 5300, 53, 2)?;
        ensure!(exchange(&client, published, 10)? == 1);
        site.state(1, BACKEND_DRAINING)?;
        ensure!(exchange(&client, published, 10)? == 2, "on its way out, and another is up");
        site.state(1, BACKEND_UP)?;
        site.publish_for(UDP, 5300, 53, 1)?;
        ensure!(exchange(&client, published, 10)? == 2);
        site.state(2, BACKEND_HELD)?;
        ensure!(exchange(&client, published, 10)? == 1, "unhealthy, and another is up");
        site.state(1, BACKEND_CLOSED)?;
        client.connect(published)?;
        client.send(b"x")?;
        let refused = client.recv(&mut [0; 8]).map_err(|e| e.kind());
        ensure!(refused == Err(ErrorKind::ConnectionRefused), "nobody is up: the node refuses: {refused:?}");
        site.state(1, BACKEND_UP)?;
        ensure!(exchange(&client, published, 10)? == 1);
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn between_containers_and_to_oneself() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish_for(UDP, 5300, 53, 1)?;
        let peers = echo(&site.containers[0], 53, 1)?;
        for v6 in BOTH {
            let published = SocketAddr::new(node(v6), 5300);
            let other = site.containers[1].run(move || socket_of(v6))?;
            // One socket, both ways: told apart.
            for to in [published, SocketAddr::new(container(1, v6), 53), published] {
                ensure!(exchange(&other, to, 1000)? == 1);
                ensure!(peers.recv_timeout(WAIT)?.ip() == container(2, v6));
            }
            let own = site.containers[0].run(move || socket_of(v6))?;
            ensure!(exchange(&own, published, 1000)? == 1);
            let seen = peers.recv_timeout(WAIT)?;
            let hairpin: IpAddr = match v6 {
                true => <[u8; 16]>::hairpin(&Config::DEFAULT).into(),
                false => Config::DEFAULT.hairpin.into(),
            };
            ensure!(seen.ip() == hairpin, "{seen}");
        }
        Ok(())
    })
}

/// The container asks and is asked by one and the same peer, from one and the same socket.
#[test]
#[ignore = "needs root"]
fn a_published_socket_that_also_asks() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish_for(UDP, 5300, 53, 1)?;
        let inside = site.containers[0].run(|| Ok(UdpSocket::bind("0.0.0.0:53")?))?;
        inside.set_read_timeout(Some(WAIT))?;
        let peer = site.client.run(|| Ok(UdpSocket::bind((crate::live::CLIENT, 5000))?))?;
        peer.set_read_timeout(Some(WAIT))?;
        let mut buffer = [0; 16];
        inside.send_to(b"hello", peer.local_addr()?)?;
        let (_, from) = peer.recv_from(&mut buffer)?;
        ensure!(from.ip() == NODE && from.port() >= 61_000, "{from}");
        peer.send_to(b"you", from)?;
        ensure!(inside.recv_from(&mut buffer)?.1 == peer.local_addr()?);
        peer.send_to(b"again", (NODE, 5300))?;
        let (_, seen) = inside.recv_from(&mut buffer)?;
        ensure!(seen.ip() == crate::live::CLIENT && seen.port() != 5000, "{seen}");
        inside.send_to(b"yes", seen)?;
        ensure!(peer.recv_from(&mut buffer)?.1 == SocketAddr::from((NODE, 5300)));
        inside.send_to(b"hello", peer.local_addr()?)?;
        ensure!(peer.recv_from(&mut buffer)?.1 == from, "as before");
        Ok(())
    })
}

/// Many segments in one buffer, as a sender with UDP_SEGMENT makes them and a receiver with UDP_GRO
/// takes them.
#[test]
#[ignore = "needs root"]
fn segments_in_one_buffer() -> Result<()> {
    use std::os::fd::AsRawFd as _;
    const UDP_SEGMENT: libc::c_int = 103;
    alone(|| {
        let mut site = Site::new()?;
        site.publish_for(UDP, 5300, 53, 1)?;
        let _peers = echo(&site.containers[0], 53, 1)?;
        let client = site.client.run(socket)?;
        let size: libc::c_int = 1000;
        // SAFETY: the option reads an int and is told its length.
        let failed = unsafe {
            let at = (&raw const size).cast();
            libc::setsockopt(client.as_raw_fd(), libc::IPPROTO_UDP, UDP_SEGMENT, at, 4)
        };
        ensure!(failed == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
        let sent: Vec<u8> = (0..20_000).map(|i| (i / 1000) as u8).collect();
        client.send_to(&sent, (NODE, 5300))?;
        for n in 0..20 {
            let mut got = [0; 2000];
            let (length, from) = client.recv_from(&mut got).with_context(|| format!("segment {n}"))?;
            ensure!(from == SocketAddr::from((NODE, 5300)) && length == 1001, "{length} bytes of {from}");
            ensure!(got[1..length].iter().all(|b| *b == n), "segment {n}");
        }
        Ok(())
    })
}

/// The socket hooks, attached where an agent attaches them: they look at whose the socket is.
fn hook(site: &mut Site) -> Result<()> {
    for name in [
        program::SOCK_CONNECT4,
        program::SOCK_SENDMSG4,
        program::SOCK_RECVMSG4,
        program::SOCK_GETPEER4,
        program::SOCK_CONNECT6,
        program::SOCK_SENDMSG6,
        program::SOCK_RECVMSG6,
        program::SOCK_GETPEER6,
    ] {
        let hook: &mut CgroupSockAddr = site.ebpf.program_mut(name).context("program")?.try_into()?;
        hook.load()?;
        hook.attach(File::open(cgroup_root()?)?, CgroupAttachMode::Single)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn from_the_node_itself() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        hook(&mut site)?;
        site.publish_for(UDP, 5300, 53, 1)?;
        site.publish_for(UDP, 5301, 53, 2)?;
        let peers = echo(&site.containers[0], 53, 1)?;
        let _others = echo(&site.containers[1], 53, 2)?;
        let open = socket()?;
        for host in [Ipv4Addr::LOCALHOST, NODE, Ipv4Addr::new(127, 1, 2, 3)] {
            let (first, second) = (SocketAddrV4::new(host, 5300), SocketAddrV4::new(host, 5301));
            // One socket to two services.
            for _ in 0..3 {
                ensure!(exchange(&open, first, 100)? == 1);
                ensure!(exchange(&open, second, 100)? == 2);
            }
            ensure!(peers.recv_timeout(WAIT)?.ip() == NODE, "the node's own address");
            let connected = socket()?;
            connected.connect(first)?;
            ensure!(connected.peer_addr()? == SocketAddr::V4(first), "getpeername");
            ensure!(exchange(&connected, first, 100)? == 1);
            // A connected socket may name somebody else.
            connected.send_to(b"x", second)?;
        }
        // What is not published is the node's own.
        let server = UdpSocket::bind("127.0.0.1:5302")?;
        open.send_to(b"own", "127.0.0.1:5302")?;
        let (n, from) = server.recv_from(&mut [0; 8])?;
        ensure!((n, from.ip()) == (3, Ipv4Addr::LOCALHOST.into()), "{from}");
        // A socket bound to loopback cannot be answered from outside: it is left alone.
        let bound = UdpSocket::bind("127.0.0.1:0")?;
        bound.set_read_timeout(Some(Duration::from_millis(300)))?;
        bound.send_to(b"x", "127.0.0.1:5300")?;
        ensure!(bound.recv(&mut [0; 8]).is_err());
        Ok(())
    })
}

/// Sockets of IPv6, which may speak IPv4 as well.
#[test]
#[ignore = "needs root"]
fn from_the_node_itself_over_ipv6() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        hook(&mut site)?;
        site.publish_for(UDP, 5300, 53, 1)?;
        site.publish_for(UDP, 5301, 53, 2)?;
        let peers = echo(&site.containers[0], 53, 1)?;
        let _others = echo(&site.containers[1], 53, 2)?;
        let open = socket_of(true)?;
        let (v4, v6) = (IpAddr::from(NODE), IpAddr::from(NODE6));
        for (host, seen, seen_connected) in [
            // The kernel lets nobody turn a datagram to an address of IPv6 into one of IPv4.
            (Ipv6Addr::LOCALHOST, v6, v4),
            (NODE6, v6, v6),
            (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), v4, v4),
            (NODE.to_ipv6_mapped(), v4, v4),
        ] {
            let (first, second) = (SocketAddr::from((host, 5300)), SocketAddr::from((host, 5301)));
            // One socket to two services.
            for _ in 0..3 {
                ensure!(exchange(&open, first, 100)? == 1);
                ensure!(exchange(&open, second, 100)? == 2);
                ensure!(peers.recv_timeout(WAIT)?.ip() == seen, "{host}: the node's own address");
            }
            let connected = socket_of(true)?;
            connected.connect(first)?;
            ensure!(connected.peer_addr()? == first, "getpeername");
            ensure!(exchange(&connected, first, 100)? == 1);
            ensure!(peers.recv_timeout(WAIT)?.ip() == seen_connected, "{host}: the node's own address");
        }
        // What is not published is the node's own.
        let server = UdpSocket::bind("[::1]:5302")?;
        open.send_to(b"own", "[::1]:5302")?;
        let (n, from) = server.recv_from(&mut [0; 8])?;
        ensure!((n, from.ip()) == (3, Ipv6Addr::LOCALHOST.into()), "{from}");
        // A socket bound to loopback cannot be answered from outside: it is left alone.
        let bound = UdpSocket::bind("[::1]:0")?;
        bound.set_read_timeout(Some(Duration::from_millis(300)))?;
        bound.send_to(b"x", "[::1]:5300")?;
        ensure!(bound.recv(&mut [0; 8]).is_err());
        // One that goes on asking follows the service.
        site.publish_for(UDP, 5300, 53, 2)?;
        let published = SocketAddr::from((Ipv6Addr::LOCALHOST, 5300));
        ensure!(exchange(&open, published, 10)? == 1, "it stays where it is well");
        site.state(1, BACKEND_DRAINING)?;
        ensure!(exchange(&open, published, 10)? == 2);
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn one_socket_of_the_node_follows_the_service() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        hook(&mut site)?;
        let _one = echo(&site.containers[0], 53, 1)?;
        let _two = echo(&site.containers[1], 53, 2)?;
        let open = socket()?;
        let published = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5300);
        site.publish_for(UDP, 5300, 53, 1)?;
        ensure!(exchange(&open, published, 10)? == 1);
        site.publish_for(UDP, 5300, 53, 2)?;
        ensure!(exchange(&open, published, 10)? == 1, "it stays where it is well");
        for state in [BACKEND_DRAINING, BACKEND_HELD, BACKEND_CLOSED] {
            site.state(1, state)?;
            ensure!(exchange(&open, published, 10)? == 2);
            site.state(1, BACKEND_UP)?;
            site.publish_for(UDP, 5300, 53, 1)?;
            ensure!(exchange(&open, published, 10)? == 2);
            site.state(2, BACKEND_CLOSED)?;
            ensure!(exchange(&open, published, 10)? == 1);
            site.state(2, BACKEND_UP)?;
            site.publish_for(UDP, 5300, 53, 2)?;
        }
        // Nobody: refused by the node, which a connected socket is told.
        for id in [1, 2] {
            site.state(id, BACKEND_CLOSED)?;
        }
        let connected = socket()?;
        connected.connect(published)?;
        connected.send(b"x")?;
        let refused = connected.recv(&mut [0; 8]).map_err(|e| e.kind());
        ensure!(refused == Err(ErrorKind::ConnectionRefused), "{refused:?}");
        Ok(())
    })
}
