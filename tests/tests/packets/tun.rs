//! A client behind a device without link headers: a tun at each end, as a VPN makes them, and a
//! thread of ours in the place of the wire.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie;
use warren_ebpf::abi::{Local, Reason, Route, map, program};
use warren_tests::tun;

use crate::{
    live::{MEGABYTES, Place, Site, WAIT, address, converse, echo},
    testrun::{alone, ip},
};

const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Number of the node's device.
const TUN: u32 = 7;

/// Carries packets between two tuns until it goes out of scope.
struct Wire {
    stop: Option<UnixStream>,
    carrier: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Wire {
    fn new(a: File, b: File) -> Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let carrier =
            thread::spawn(move || {
                let ends = [&a, &b];
                loop {
                    let mut waits = [a.as_raw_fd(), b.as_raw_fd(), stopped.as_raw_fd()]
                        .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
                    // SAFETY: the kernel reads and writes these entries.
                    if unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, -1) } < 0 {
                        return Err(io::Error::last_os_error());
                    }
                    if waits[2].revents != 0 {
                        return Ok(());
                    }
                    for n in [0, 1] {
                        carry(ends[n], ends[1 - n])?;
                    }
                }
            });
        Ok(Self { stop: Some(stop), carrier: Some(carrier) })
    }
}

/// Carries what waits at one end to the other.
fn carry(mut from: &File, mut to: &File) -> io::Result<()> {
    let mut packet = [0; 2048];
    loop {
        match from.read(&mut packet) {
            Ok(length) => to.write_all(&packet[..length])?,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.carrier.take().map(thread::JoinHandle::join);
        if !thread::panicking() {
            ended.expect("taken once").expect("no panic").expect("the wire holds");
        }
    }
}

/// A node with a second network, behind a tun, and the client there.
fn node() -> Result<(Site, Place, Wire)> {
    let mut site = Site::new()?;
    let ours = tun::device("tun0", false, Some(TUN))?;
    ip(&format!("addr add {NODE}/24 dev tun0"))?;
    ip("link set tun0 up")?;
    let client = Place::new()?;
    let theirs = client.run(|| {
        let file = tun::device("tun0", false, Some(TUN))?;
        ip(&format!("addr add {CLIENT}/24 dev tun0"))?;
        ip("link set tun0 up")?;
        Ok(file)
    })?;
    site.attach(program::NODE_IN_L3, "tun0")?;
    site.table::<[u8; 4], _>(map::LOCAL4)?.insert(NODE.octets(), Local { ifindex: TUN }, 0)?;
    let mut routes = lpm_trie::LpmTrie::<_, [u8; 4], Route<[u8; 4]>>::try_from(
        site.ebpf.map_mut(map::ROUTE4).context("map")?,
    )?;
    let connected = Route { ifindex: TUN, source: NODE.octets(), flags: 0, mtu: 1500 };
    routes.insert(&lpm_trie::Key::new(24, [198, 51, 100, 0]), connected, 0)?;
    Ok((site, client, Wire::new(ours, theirs)?))
}

fn outcome(place: &Place, to: SocketAddrV4) -> Result<io::Result<TcpStream>> {
    place.run(move || Ok(TcpStream::connect_timeout(&to.into(), Duration::from_millis(500))))
}

#[test]
#[ignore = "needs root"]
fn a_published_port_answers_a_client_behind_a_tun() -> Result<()> {
    alone(|| {
        let (mut site, client, _wire) = node()?;
        let published = SocketAddrV4::new(NODE, 8080);
        // What is not published is the node's own stack's.
        let refused = outcome(&client, published)?;
        ensure!(
            refused.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused),
            "nobody listens: {refused:?}"
        );
        let server = TcpListener::bind(published)?;
        let stream = outcome(&client, published)??;
        ensure!(server.accept()?.1 == stream.local_addr()?, "the node's own server");
        site.publish(8080, 80, 1)?;
        let peers = echo(&site.containers[0], 80, 4)?;
        for bytes in [0, 1, 1000, MEGABYTES] {
            let own = client.run(move || converse(published, bytes))?;
            ensure!(own.ip() == CLIENT, "by the tun: {own}");
            ensure!(peers.recv_timeout(WAIT)? == own, "the container sees the client's own address");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn a_container_reaches_out_by_a_tun_and_is_not_reached_by_it() -> Result<()> {
    alone(|| {
        let (site, client, _wire) = node()?;
        let peers = echo(&client, 7000, 1)?;
        site.containers[0].run(|| converse((CLIENT, 7000), MEGABYTES))?;
        let peer = peers.recv_timeout(WAIT)?;
        ensure!(peer.ip() == NODE && peer.port() >= 61_000, "the outside sees the node: {peer}");
        // By its own address, nobody.
        let direct = SocketAddrV4::new(address(1), 80);
        client.run(|| ip("route add 10.64.0.0/24 dev tun0"))?;
        let _server = echo(&site.containers[0], 80, 1)?;
        let refused = outcome(&client, direct)?;
        ensure!(refused.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::TimedOut), "{refused:?}");
        ensure!(site.drops(Reason::Unpublished)? >= 1);
        Ok(())
    })
}
