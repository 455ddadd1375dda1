//! ICMP errors between real sockets: a port that nobody listens on, and a router on the way.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::mpsc,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use warren_ebpf::abi::{Reason, Route, UDP, map};

use crate::{
    live::{
        BOTH, CLIENT, CLIENT6, MEGABYTES, NODE, NODE6, Place, Site, WAIT, client, container, converse, echo,
        node, unspecified,
    },
    testrun::{alone, ip},
};

/// A host behind a router.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x64, 0, 0, 0, 2);

fn far(v6: bool) -> IpAddr {
    if v6 { FAR6.into() } else { FAR.into() }
}

/// A datagram from a place: the first outcome of waiting for an answer.
fn ask(place: &Place, to: SocketAddr) -> Result<Result<usize, ErrorKind>> {
    place.run(move || {
        let socket = UdpSocket::bind((unspecified(to.is_ipv6()), 0))?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.connect(to)?;
        socket.send(b"anybody there?")?;
        Ok(socket.recv(&mut [0; 100]).map_err(|e| e.kind()))
    })
}

#[test]
#[ignore = "needs root"]
fn who_asks_a_closed_port_is_refused() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish_for(UDP, 5300, 53, 1)?;
        for v6 in BOTH {
            // Nobody listens: in the container, on the client, in the other container.
            for (place, to) in [
                (&site.client, (node(v6), 5300)),
                (&site.containers[1], (node(v6), 5300)),
                (&site.containers[0], (node(v6), 5300)),
                (&site.containers[1], (container(1, v6), 53)),
                (&site.containers[0], (client(v6), 5301)),
                (&site.containers[0], (node(v6), 5302)),
            ] {
                let outcome = ask(place, to.into())?;
                ensure!(outcome == Err(ErrorKind::ConnectionRefused), "{to:?}: {outcome:?}");
            }
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn who_answers_a_closed_socket_is_refused() -> Result<()> {
    alone(|| {
        let site = Site::new()?;
        for v6 in BOTH {
            let server = site.client.run(move || Ok(UdpSocket::bind((client(v6), 53))?))?;
            server.set_read_timeout(Some(WAIT))?;
            site.containers[0]
                .run(move || Ok(UdpSocket::bind((unspecified(v6), 0))?.send_to(b"x", (client(v6), 53))?))?;
            let (_, from) = server.recv_from(&mut [0; 10])?;
            server.connect(from)?;
            server.send(b"late")?;
            let outcome = server.recv(&mut [0; 10]);
            ensure!(
                outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused),
                "{from}: {outcome:?}"
            );
        }
        Ok(())
    })
}

/// Puts a host behind the client, which routes; packets to it may have 1300 bytes.
fn router(site: &mut Site) -> Result<Place> {
    let place = Place::new()?;
    let inside = place.clone();
    site.client.run(move || {
        ip("link add r0 type veth peer name f0")?;
        inside.take("f0")?;
        ip("addr add 198.51.100.1/24 dev r0")?;
        ip("addr add 2001:db8:0:64::1/64 dev r0 nodad")?;
        ip("link set r0 up")?;
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{switch}"), "1")?;
        }
        inside.run(|| {
            ip(&format!("addr add {FAR}/24 dev f0"))?;
            ip(&format!("addr add {FAR6}/64 dev f0 nodad"))?;
            ip("link set f0 up")?;
            ip("route add default via 198.51.100.1")?;
            ip("route add default via 2001:db8:0:64::1")
        })?;
        ip(&format!("route add {FAR}/32 dev r0 mtu lock 1300"))?;
        ip(&format!("route add {FAR6}/128 dev r0 mtu 1300"))
    })?;
    ip(&format!("route add 198.51.100.0/24 via {CLIENT}"))?;
    ip(&format!("route add 2001:db8:0:64::/64 via {CLIENT6}"))?;
    let mut routes = lpm_trie::LpmTrie::<_, [u8; 4], Route<[u8; 4]>>::try_from(
        site.ebpf.map_mut(map::ROUTE4).context("map")?,
    )?;
    let route = Route { ifindex: 2, source: NODE.octets(), flags: 0, mtu: 1500 };
    routes.insert(&lpm_trie::Key::new(24, [198, 51, 100, 0]), route, 0)?;
    let mut routes = lpm_trie::LpmTrie::<_, [u8; 16], Route<[u8; 16]>>::try_from(
        site.ebpf.map_mut(map::ROUTE6).context("map")?,
    )?;
    let route = Route { ifindex: 2, source: NODE6.octets(), flags: 0, mtu: 1500 };
    routes.insert(&lpm_trie::Key::new(128, FAR6.octets()), route, 0)?;
    Ok(place)
}

/// A server that sends much to who connects, or takes as much, once for each family.
fn pour(place: &Place, port: u16, sends: bool) -> Result<mpsc::Receiver<usize>> {
    let (told, got) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    place.start(move || {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
        ready.send(())?;
        for _ in BOTH {
            let (mut stream, _) = listener.accept()?;
            if sends {
                stream.write_all(&vec![7; MEGABYTES])?;
            } else {
                told.send(stream.read_to_end(&mut Vec::new())?)?;
            }
        }
        Ok(())
    });
    is_ready.recv_timeout(WAIT)?;
    Ok(got)
}

/// An uplink that becomes smaller, and nobody who tells the containers but the programs.
#[test]
#[ignore = "needs root"]
fn a_container_is_told_of_an_uplink_that_became_smaller() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish(8080, 80, 1)?;
        let _server = pour(&site.containers[0], 80, true)?;
        let sink = pour(&site.client, 7000, false)?;
        ip("link set up0 mtu 1300")?;
        for v6 in BOTH {
            // Nobody is told what nobody has sent.
            for place in &site.containers {
                ensure!(!path_mtu(place, client(v6))?.contains("mtu"));
            }
            let got = site.client.run(move || {
                let mut stream = TcpStream::connect_timeout(&(node(v6), 8080).into(), WAIT)?;
                stream.set_read_timeout(Some(WAIT))?;
                Ok(stream.read_to_end(&mut Vec::new())?)
            })?;
            ensure!(got == MEGABYTES, "{got} bytes of replies");
            let known = path_mtu(&site.containers[0], client(v6))?;
            ensure!(known.contains("mtu 1300"), "{known}");
            site.containers[1].run(move || {
                let mut stream = TcpStream::connect_timeout(&(client(v6), 7000).into(), WAIT)?;
                Ok(stream.write_all(&vec![7; MEGABYTES])?)
            })?;
            ensure!(sink.recv_timeout(2 * WAIT)? == MEGABYTES, "requests");
            let known = path_mtu(&site.containers[1], client(v6))?;
            ensure!(known.contains("mtu 1300"), "{known}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn who_sends_a_datagram_too_big_is_told() -> Result<()> {
    alone(|| {
        let site = Site::new()?;
        for mtu in [1400, 1300] {
            ip(&format!("link set up0 mtu {mtu}"))?;
            for v6 in BOTH {
                let server = site.client.run(move || Ok(UdpSocket::bind((client(v6), 53))?))?;
                server.set_read_timeout(Some(WAIT))?;
                let (header, fits) = if v6 { (48, mtu - 48) } else { (28, mtu - 28) };
                let counted = site.drops(Reason::TooBig)?;
                let told = site.containers[0].run(move || {
                    let socket = UdpSocket::bind((unspecified(v6), 0))?;
                    socket.set_read_timeout(Some(WAIT))?;
                    socket.connect((client(v6), 53))?;
                    socket.send(&vec![1; fits + 1])?;
                    let told = socket.recv(&mut [0; 10]).map_err(|e| e.raw_os_error());
                    socket.send(&vec![2; fits])?;
                    Ok(told)
                })?;
                ensure!(told == Err(Some(libc::EMSGSIZE)), "{told:?}");
                ensure!(site.drops(Reason::TooBig)? == counted + 1, "what was answered is counted");
                let mut buffer = [0; 2000];
                let (length, _) = server.recv_from(&mut buffer)?;
                ensure!((length, buffer[0]) == (fits, 2), "{length} bytes and {header} of headers");
                let known = path_mtu(&site.containers[0], client(v6))?;
                ensure!(known.contains(&format!("mtu {mtu}")), "{known}");
            }
        }
        Ok(())
    })
}

/// What a container's network knows of the way to a host.
fn path_mtu(place: &Place, to: IpAddr) -> Result<String> {
    place.run(move || {
        let out = std::process::Command::new("ip").args(["route", "get", &to.to_string()]).output()?;
        Ok(String::from_utf8(out.stdout)?)
    })
}

#[test]
#[ignore = "needs root"]
fn a_container_learns_how_small_packets_must_be() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        let place = router(&mut site)?;
        site.publish(8080, 80, 1)?;
        let server = echo(&place, 7000, 2)?;
        let published = echo(&site.containers[0], 80, 2)?;
        for v6 in BOTH {
            // Asked from there first: replies are too big, which only the router knows.
            let own = place.run(move || converse((node(v6), 8080), MEGABYTES))?;
            ensure!(published.recv_timeout(WAIT)? == own);
            let known = path_mtu(&site.containers[0], far(v6))?;
            ensure!(known.contains("mtu 1300"), "the container was told of its replies: {known}");
            ensure!(!path_mtu(&site.containers[1], far(v6))?.contains("mtu"), "the other one was not");
            site.containers[1].run(move || converse((far(v6), 7000), MEGABYTES))?;
            server.recv_timeout(WAIT)?;
            let known = path_mtu(&site.containers[1], far(v6))?;
            ensure!(known.contains("mtu 1300"), "the container was told of its requests: {known}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn a_route_can_be_traced_out_of_a_container() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        let _place = router(&mut site)?;
        for v6 in BOTH {
            let (told, offender) = site.containers[0].run(move || {
                let socket = UdpSocket::bind((unspecified(v6), 0))?;
                socket.set_read_timeout(Some(WAIT))?;
                socket.connect((far(v6), 33434))?;
                if v6 {
                    setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
                    setsockopt(&socket, sockopt::Ipv6Ttl, &1)?;
                } else {
                    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
                    setsockopt(&socket, sockopt::Ipv4Ttl, &1)?;
                }
                socket.send(b"trace")?;
                let told = socket.recv(&mut [0; 10]);
                let mut space = nix::cmsg_space!([u8; 128]);
                let got = recvmsg::<SockaddrStorage>(
                    socket.as_raw_fd(),
                    &mut [],
                    Some(&mut space),
                    MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
                )?;
                let mut offender: Option<IpAddr> = None;
                for message in got.cmsgs()? {
                    match message {
                        ControlMessageOwned::Ipv4RecvErr(_, Some(of)) => {
                            offender = Some(Ipv4Addr::from(u32::from_be(of.sin_addr.s_addr)).into());
                        }
                        ControlMessageOwned::Ipv6RecvErr(_, Some(of)) => {
                            offender = Some(Ipv6Addr::from(of.sin6_addr.s6_addr).into());
                        }
                        _ => {}
                    }
                }
                Ok((told, offender))
            })?;
            ensure!(told.as_ref().is_err_and(|e| e.kind() == ErrorKind::HostUnreachable), "{told:?}");
            ensure!(offender == Some(client(v6)), "the router says so: {offender:?}");
        }
        Ok(())
    })
}
