//! Real sockets through the programs: a node, a client and two containers as network namespaces.
//! Forwarding is off (but where a test says so), no netfilter rule exists, and nothing but our
//! programs joins them. Everything is asked over both families.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap as Hash, PerCpuArray, lpm_trie},
    programs::{CgroupAttachMode, CgroupSockAddr, TcAttachType},
};
use nix::sched::{CloneFlags, setns, unshare};
use warren_ebpf::abi::{
    Address as _, BACKEND_CLOSED, BACKEND_UP, Backend, BackendRef, Config, DropCounter, Local, Reason, Route,
    Service, ServiceKey, TCP, map, program,
};

use crate::testrun::{alone, classifier, ip, load};

pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 2);
const GATEWAY: &str = "169.254.1.1";
const GATEWAY6: &str = "fe80::1";
pub const BOTH: [bool; 2] = [false, true];
pub const WAIT: Duration = Duration::from_secs(5);
pub const MEGABYTES: usize = 8 << 20;

/// The address of container `id`.
pub fn address(id: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, 0, 10 + id as u8)
}

/// Its IPv6 address.
fn address6(id: u32) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 64, 0, 0, 0, 10 + id as u16)
}

pub fn node(v6: bool) -> IpAddr {
    if v6 { NODE6.into() } else { NODE.into() }
}

pub fn client(v6: bool) -> IpAddr {
    if v6 { CLIENT6.into() } else { CLIENT.into() }
}

pub fn container(id: u32, v6: bool) -> IpAddr {
    if v6 { address6(id).into() } else { address(id).into() }
}

pub fn unspecified(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// A namespace without a name: it is gone when nobody holds it.
#[derive(Clone)]
pub struct Place(std::sync::Arc<File>);

impl Place {
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            ip("link set lo up")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        Ok(Self(std::sync::Arc::new(made.join().expect("no panic")?)))
    }

    /// Runs `f` inside, on a thread of its own.
    pub fn start<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> thread::JoinHandle<Result<T>> {
        let place = self.clone();
        thread::spawn(move || {
            setns(&*place.0, CloneFlags::CLONE_NEWNET)?;
            f()
        })
    }

    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        self.start(f).join().expect("no panic")
    }

    /// Moves device `name` of this thread's namespace inside.
    pub fn take(&self, name: &str) -> Result<()> {
        use std::os::fd::AsRawFd as _;
        // `ip` runs as a child and finds the file under our process.
        ip(&format!("link set {name} netns /proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }
}

/// A node (this thread's namespace) with its programs attached.
pub struct Site {
    pub ebpf: Ebpf,
    pub client: Place,
    pub containers: Vec<Place>,
}

fn mac(id: u32) -> String {
    format!("02:00:00:00:00:{id:02x}")
}

impl Site {
    pub fn new() -> Result<Self> {
        ip("link set lo up")?;
        let client = Place::new()?;
        ip("link add up0 index 2 type veth peer name cli0 index 3")?;
        client.take("cli0")?;
        ip(&format!("addr add {NODE}/24 dev up0"))?;
        ip(&format!("addr add {NODE6}/64 dev up0 nodad"))?;
        ip("link set up0 up")?;
        client.run(|| {
            ip(&format!("addr add {CLIENT}/24 dev cli0"))?;
            ip(&format!("addr add {CLIENT6}/64 dev cli0 nodad"))?;
            ip("link set cli0 up")
        })?;
        let mut site = Self { ebpf: load()?, client, containers: Vec::new() };
        for id in 1..=2 {
            let (host, ours, theirs) = (100 + id, mac(100 + id), mac(id));
            ip(&format!(
                "link add v{id} index {host} address {ours} type veth peer name eth0 address {theirs}"
            ))?;
            let place = Place::new()?;
            place.take("eth0")?;
            ip(&format!("link set v{id} addrgenmode none"))?;
            ip(&format!("link set v{id} up"))?;
            ip(&format!("route add {}/32 dev v{id} src {NODE}", address(id)))?;
            ip(&format!("route add {}/128 dev v{id} src {NODE6}", address6(id)))?;
            for v6 in BOTH {
                ip(&format!("neigh add {} lladdr {theirs} dev v{id} nud permanent", container(id, v6)))?;
            }
            place.run(move || {
                ip(&format!("addr add {}/32 dev eth0", address(id)))?;
                ip("link set eth0 addrgenmode none")?;
                ip(&format!("addr add {}/128 dev eth0 nodad", address6(id)))?;
                ip("link set eth0 up")?;
                ip(&format!("neigh add {GATEWAY6} lladdr {ours} dev eth0 nud permanent"))?;
                ip(&format!("route add default via {GATEWAY6} dev eth0"))?;
                ip(&format!("route add {GATEWAY}/32 dev eth0"))?;
                ip(&format!("neigh add {GATEWAY} lladdr {ours} dev eth0 nud permanent"))?;
                ip(&format!("route add default via {GATEWAY} dev eth0"))
            })?;
            site.containers.push(place);
            site.attach(program::VETH_IN, &format!("v{id}"))?;
            let backend = BackendRef { id, generation: 1 };
            site.table::<[u8; 4], _>(map::EP4)?.insert(address(id).octets(), backend, 0)?;
            site.table::<[u8; 16], _>(map::EP6)?.insert(address6(id).octets(), backend, 0)?;
            site.table::<u32, _>(map::LINK)?.insert(host, backend, 0)?;
            site.state(id, BACKEND_UP)?;
        }
        site.attach(program::NODE_IN_L2, "up0")?;
        site.table::<[u8; 4], _>(map::LOCAL4)?.insert(NODE.octets(), Local { ifindex: 2 }, 0)?;
        site.table::<[u8; 16], _>(map::LOCAL6)?.insert(NODE6.octets(), Local { ifindex: 2 }, 0)?;
        let config = Config { netns_cookie: cookie()?, ..Config::DEFAULT };
        Array::try_from(site.ebpf.map_mut(map::CONFIG).context("map")?)?.set(0, config, 0)?;
        let mut routes = lpm_trie::LpmTrie::<_, [u8; 4], Route<[u8; 4]>>::try_from(
            site.ebpf.map_mut(map::ROUTE4).context("map")?,
        )?;
        let connected = Route { ifindex: 2, source: NODE.octets(), flags: 0, mtu: 1500 };
        routes.insert(&lpm_trie::Key::new(24, [192, 0, 2, 0]), connected, 0)?;
        let mut routes = lpm_trie::LpmTrie::<_, [u8; 16], Route<[u8; 16]>>::try_from(
            site.ebpf.map_mut(map::ROUTE6).context("map")?,
        )?;
        let connected = Route { ifindex: 2, source: NODE6.octets(), flags: 0, mtu: 1500 };
        let [net @ .., _, _, _, _, _, _, _, _] = NODE6.octets();
        let mut prefix = [0; 16];
        prefix[..8].copy_from_slice(&net);
        routes.insert(&lpm_trie::Key::new(64, prefix), connected, 0)?;
        for switch in ["ipv4/ip_forward", "ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
            ensure!(!forwards(switch)?, "forwarding is off");
        }
        Ok(site)
    }

    pub fn attach(&mut self, name: &str, device: &str) -> Result<()> {
        classifier(&mut self.ebpf, name)?.attach(device, TcAttachType::Ingress)?;
        Ok(())
    }

    pub fn table<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &str,
    ) -> Result<Hash<&mut aya::maps::MapData, K, V>> {
        Ok(Hash::try_from(self.ebpf.map_mut(name).context("map")?)?)
    }

    pub fn state(&mut self, id: u32, state: u8) -> Result<()> {
        let row = Backend {
            generation: 1,
            ifindex: 100 + id,
            address: address(id).octets(),
            address6: address6(id).octets(),
            state,
            ..Backend::default()
        };
        Array::try_from(self.ebpf.map_mut(map::BACKEND).context("map")?)?.set(id, row, 0)?;
        Ok(())
    }

    /// Leads `published` to `target` of container `id`.
    pub fn publish(&mut self, published: u16, target: u16, id: u32) -> Result<()> {
        self.publish_for(TCP, published, target, id)
    }

    /// The same for a protocol.
    pub fn publish_for(&mut self, protocol: u8, published: u16, target: u16, id: u32) -> Result<()> {
        let service = Service { single: BackendRef { id, generation: 1 }, target, ..Service::default() };
        let key = ServiceKey { address: [0; 4], port: published, protocol, pad: 0 };
        self.table(map::SVC4)?.insert(key, service, 0)?;
        let key = ServiceKey { address: [0; 16], port: published, protocol, pad: 0 };
        Ok(self.table(map::SVC6)?.insert(key, service, 0)?)
    }

    pub fn drops(&self, reason: Reason) -> Result<u64> {
        let drops = PerCpuArray::<_, DropCounter>::try_from(self.ebpf.map(map::DROPS).context("map")?)?;
        Ok(drops.get(&(reason as u32), 0)?.iter().map(|c| c.packets).sum())
    }
}

fn forwards(family: &str) -> Result<bool> {
    let out = Command::new("cat").arg(format!("/proc/sys/net/{family}")).output()?;
    Ok(String::from_utf8(out.stdout)?.trim() != "0")
}

/// The cookie of this thread's network namespace.
fn cookie() -> Result<u64> {
    use std::os::fd::AsRawFd as _;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let mut cookie = 0u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    const SO_NETNS_COOKIE: libc::c_int = 71;
    // SAFETY: the kernel writes at most `size` bytes to `cookie`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    ensure!(failed == 0, "SO_NETNS_COOKIE: {}", std::io::Error::last_os_error());
    Ok(cookie)
}

/// Starts a server in a namespace: it sends back what it gets, one connection after the other, of
/// whichever family. Returns a channel of the clients' addresses.
pub fn echo(place: &Place, port: u16, connections: usize) -> Result<mpsc::Receiver<SocketAddr>> {
    echo_on(place, (Ipv6Addr::UNSPECIFIED, port).into(), connections)
}

fn echo_on(place: &Place, on: SocketAddr, connections: usize) -> Result<mpsc::Receiver<SocketAddr>> {
    let (ready, is_ready) = mpsc::channel();
    let (told, peers) = mpsc::channel();
    place.start(move || {
        let listener = TcpListener::bind(on)?;
        ready.send(())?;
        for _ in 0..connections {
            let (mut stream, peer) = listener.accept()?;
            told.send(SocketAddr::new(peer.ip().to_canonical(), peer.port()))?;
            let mut back = stream.try_clone()?;
            std::io::copy(&mut stream, &mut back)?;
        }
        Ok(())
    });
    is_ready.recv_timeout(WAIT)?;
    Ok(peers)
}

/// Connects, sends much, gets it back. Returns the own address.
pub fn converse(to: impl Into<SocketAddr>, bytes: usize) -> Result<SocketAddr> {
    let to = to.into();
    let mut stream = TcpStream::connect_timeout(&to, WAIT).with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(WAIT))?;
    ensure!(stream.peer_addr()? == to, "getpeername says {}", stream.peer_addr()?);
    let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    let copy = sent.clone();
    let mut writer = stream.try_clone()?;
    let writer = thread::spawn(move || -> Result<()> {
        writer.write_all(&copy)?;
        Ok(writer.shutdown(Shutdown::Write)?)
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    writer.join().expect("no panic")?;
    ensure!(got == sent, "{} of {bytes} bytes came back", got.len());
    Ok(stream.local_addr()?)
}

#[test]
#[ignore = "needs root"]
fn from_another_host() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish(8080, 80, 1)?;
        let peers = echo(&site.containers[0], 80, 42)?;
        for v6 in BOTH {
            for bytes in [0, 1, MEGABYTES].into_iter().chain([10; 18]) {
                let own = site.client.run(move || converse((node(v6), 8080), bytes))?;
                ensure!(own.ip() == client(v6), "{own}");
                ensure!(peers.recv_timeout(WAIT)? == own, "the container sees the client's own address");
            }
        }
        // Refused at once when nobody serves.
        site.state(1, BACKEND_CLOSED)?;
        for v6 in BOTH {
            let refused =
                site.client.run(move || Ok(TcpStream::connect_timeout(&(node(v6), 8080).into(), WAIT)))?;
            ensure!(
                refused.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused),
                "{refused:?}"
            );
        }
        Ok(())
    })
}

/// A neighbour who has nothing but the address that his link gives him, and knows ours only.
#[test]
#[ignore = "needs root"]
fn from_a_link_local_address() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish(8080, 80, 1)?;
        let (ours, theirs) = ("fe80::aa:1", "fe80::aa:2");
        ip(&format!("addr add {ours}/64 dev up0 nodad"))?;
        site.client.run(move || ip(&format!("addr add {theirs}/64 dev cli0 nodad")))?;
        let ours: Ipv6Addr = ours.parse()?;
        site.table::<[u8; 16], _>(map::LOCAL6)?.insert(ours.octets(), Local { ifindex: 2 }, 0)?;
        let peers = echo(&site.containers[0], 80, 2)?;
        for bytes in [10, MEGABYTES] {
            let own = site.client.run(move || {
                // Number of the client's device.
                converse(std::net::SocketAddrV6::new(ours, 8080, 0, 3), bytes)
            })?;
            let peer = peers.recv_timeout(WAIT)?;
            ensure!((peer.ip(), peer.port()) == (own.ip(), own.port()), "{own} seen as {peer}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn between_containers_and_to_oneself() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish(8080, 80, 1)?;
        let peers = echo(&site.containers[0], 80, 6)?;
        for v6 in BOTH {
            let published = SocketAddr::new(node(v6), 8080);
            // Another container, through the published port and directly.
            for to in [published, SocketAddr::new(container(1, v6), 80)] {
                let own = site.containers[1].run(move || converse(to, MEGABYTES))?;
                ensure!(own.ip() == container(2, v6), "{own}");
                ensure!(peers.recv_timeout(WAIT)? == own, "the address is kept");
            }
            // Itself: the one whose address is not.
            let own = site.containers[0].run(move || converse(published, MEGABYTES))?;
            let peer = peers.recv_timeout(WAIT)?;
            let hairpin: IpAddr = if v6 {
                <[u8; 16]>::hairpin(&Config::DEFAULT).into()
            } else {
                <[u8; 4]>::hairpin(&Config::DEFAULT).into()
            };
            ensure!(own.ip() == container(1, v6) && peer.ip() == hairpin, "{own} seen as {peer}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn out_of_a_container() -> Result<()> {
    alone(|| {
        let site = Site::new()?;
        for v6 in BOTH {
            // TCP.
            let peers = echo(&site.client, 7000 + u16::from(v6), 1)?;
            let server = SocketAddr::new(client(v6), 7000 + u16::from(v6));
            site.containers[0].run(move || converse(server, MEGABYTES))?;
            let peer = peers.recv_timeout(WAIT)?;
            ensure!(peer.ip() == node(v6) && peer.port() >= 61_000, "the outside sees the node: {peer}");
            // UDP, both containers from one port.
            let to = SocketAddr::new(client(v6), 7001);
            let server = site.client.run(move || Ok(UdpSocket::bind(to)?))?;
            server.set_read_timeout(Some(WAIT))?;
            let mut open = Vec::new();
            for (n, place) in site.containers.iter().enumerate() {
                let socket = place.run(move || Ok(UdpSocket::bind((unspecified(v6), 5353))?))?;
                socket.set_read_timeout(Some(WAIT))?;
                socket.send_to(&[n as u8; 1000], to)?;
                let mut buffer = [0; 2000];
                let (length, from) = server.recv_from(&mut buffer)?;
                ensure!((length, buffer[0]) == (1000, n as u8) && from.ip() == node(v6), "{from}");
                open.push((socket, from));
            }
            ensure!(open[0].1 != open[1].1, "two containers, two ports");
            for (n, (socket, from)) in open.iter().enumerate() {
                server.send_to(&[n as u8 + 10; 5], from)?;
                let mut buffer = [0; 100];
                let (length, from) = socket.recv_from(&mut buffer)?;
                ensure!((length, buffer[0], from) == (5, n as u8 + 10, to), "{from}");
            }
            // Where nothing leads, nothing goes.
            let nowhere = if v6 { "[2001:db8:99::1]:53" } else { "203.0.113.1:53" };
            site.containers[0]
                .run(move || Ok(UdpSocket::bind((unspecified(v6), 0))?.send_to(b"x", nowhere)?))?;
            ensure!(site.drops(Reason::NoRoute)? == 1 + u64::from(v6));
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn echo_requests_out_of_a_container() -> Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    alone(|| {
        let site = Site::new()?;
        for (place, v6) in site.containers.iter().flat_map(|place| BOTH.map(|v6| (place, v6))) {
            place.run(move || {
                fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
                let (family, protocol, request, reply) = if v6 {
                    (AddressFamily::Inet6, SockProtocol::IcmpV6, 128u8, 129u8)
                } else {
                    (AddressFamily::Inet, SockProtocol::Icmp, 8, 0)
                };
                let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
                let socket = UdpSocket::from(socket);
                socket.set_read_timeout(Some(WAIT))?;
                let request = [request, 0, 0, 0, 0, 0, 0, 1, b'h', b'i'];
                for to in [client(v6), node(v6), container(1, v6), container(2, v6)] {
                    socket.send_to(&request, (to, 0))?;
                    let mut buffer = [0; 100];
                    let (length, from) =
                        socket.recv_from(&mut buffer).with_context(|| format!("no pong of {to}"))?;
                    ensure!(from.ip() == to && buffer[0] == reply && &buffer[8..length] == b"hi", "{from}");
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// On a node that forwards, a neighbour with a route to the containers.
#[test]
#[ignore = "needs root"]
fn a_node_that_forwards_lets_nobody_in() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish(8080, 80, 1)?;
        // Of this thread's namespace.
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{switch}"), "1")?;
            ensure!(forwards(switch)?, "forwarding is on");
        }
        site.client.run(|| {
            ip(&format!("route add 10.64.0.0/24 via {NODE}"))?;
            ip(&format!("route add 2001:db8:0:40::/64 via {NODE6}"))
        })?;
        let peers = echo(&site.containers[0], 80, 4)?;
        for v6 in BOTH {
            let udp = site.containers[0].run(move || Ok(UdpSocket::bind((unspecified(v6), 53))?))?;
            udp.set_read_timeout(Some(Duration::from_millis(300)))?;
            let direct = SocketAddr::new(container(1, v6), 80);
            let outcome = site
                .client
                .run(move || Ok(TcpStream::connect_timeout(&direct, Duration::from_millis(500))))?;
            ensure!(
                outcome.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::TimedOut),
                "an unpublished port: {outcome:?}"
            );
            let to = SocketAddr::new(container(1, v6), 53);
            site.client.run(move || Ok(UdpSocket::bind((unspecified(v6), 0))?.send_to(b"x", to)?))?;
            let got = udp.recv_from(&mut [0; 10]);
            ensure!(got.is_err(), "a datagram: {got:?}");
            ensure!(site.drops(Reason::Unpublished)? >= 2 + 2 * u64::from(v6));
            // What is published works, and what containers tell each other.
            let own = site.client.run(move || converse((node(v6), 8080), 1000))?;
            ensure!(peers.recv_timeout(WAIT)? == own);
            site.containers[1].run(move || converse(direct, 1000))?;
            peers.recv_timeout(WAIT)?;
        }
        Ok(())
    })
}

/// A cgroup of our own under the machine's cgroup2.
struct Cgroup(PathBuf);

/// Where cgroup2 is mounted.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut of_cgroup2 = mounts.filter(|f| f.get(2) == Some(&"cgroup2"));
    Ok(of_cgroup2.next().context("no cgroup2 is mounted")?[1].into())
}

impl Cgroup {
    fn new() -> Result<Self> {
        let path = cgroup_root()?.join(format!("warren-packets-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
#[ignore = "needs root"]
fn from_the_node_itself() -> Result<()> {
    alone(|| {
        let mut site = Site::new()?;
        site.publish(8080, 80, 1)?;
        let cgroup = Cgroup::new()?;
        for name in
            [program::SOCK_CONNECT4, program::SOCK_GETPEER4, program::SOCK_CONNECT6, program::SOCK_GETPEER6]
        {
            let hook: &mut CgroupSockAddr = site.ebpf.program_mut(name).context("program")?.try_into()?;
            hook.load()?;
            // A link: the kernel lets several of them be, and takes no flag that says so.
            hook.attach(File::open(&cgroup.0)?, CgroupAttachMode::Single)?;
        }
        let peers = echo(&site.containers[0], 80, 5)?;
        // Knows nothing of IPv6.
        site.publish(8090, 90, 1)?;
        let old = echo_on(&site.containers[0], (Ipv4Addr::UNSPECIFIED, 90).into(), 3)?;
        // A child in that cgroup, in this thread's namespace.
        let ask = |script: &str| -> Result<String> {
            let procs = cgroup.0.join("cgroup.procs");
            let out = Command::new("timeout")
                .args(["5", "bash", "-c", &format!("echo $$ > {} && {script}", procs.display())])
                .output()?;
            Ok(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
        };
        let hello = |to: &str, port: u16| -> Result<()> {
            let got = ask(&format!(
                "exec 3<>/dev/tcp/{to}/{port} && echo hello >&3 && read -r line <&3 && echo $line"
            ))?;
            ensure!(got.trim() == "hello", "{to}: {got}");
            Ok(())
        };
        for to in ["127.0.0.1", "192.0.2.1", "::1", "2001:db8:0:2::1", "::ffff:127.0.0.1"] {
            hello(to, 8080)?;
            let own = node(to.starts_with("2001"));
            ensure!(peers.recv_timeout(WAIT)?.ip() == own, "{to}");
        }
        for to in ["127.0.0.1", "::1", "::ffff:192.0.2.1"] {
            hello(to, 8090)?;
            ensure!(old.recv_timeout(WAIT)?.ip() == NODE, "{to}");
        }
        let every = ["127.0.0.1", "::1", "192.0.2.1", "2001:db8:0:2::1"];
        for to in every {
            let got = ask(&format!("exec 3<>/dev/tcp/{to}/8081"))?;
            ensure!(got.contains("refused"), "an unpublished port: {got}");
        }
        site.state(1, BACKEND_CLOSED)?;
        for to in every {
            let got = ask(&format!("exec 3<>/dev/tcp/{to}/8080"))?;
            ensure!(got.contains("refused"), "nobody serves: {got}");
        }
        Ok(())
    })
}
