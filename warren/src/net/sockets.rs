//! Connected UDP sockets of the node's own processes. The kernel asks our hooks where such a socket
//! leads when it connects and never again, so when its backend is gone, or on its way out while
//! another is up, the socket is ended (`SOCK_DESTROY` of sock_diag): the process reads
//! "connection aborted" and connects anew, instead of sending into the void.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt,
        socket, sockopt,
    },
    time::TimeVal,
};
use warren_ebpf::abi::{
    BACKEND_DRAINING, BACKEND_HELD, BACKEND_UP, Backend, BackendRef, SOCKET_FROM, Service, ServiceKey,
    SocketFlow, SocketKey, UDP, map,
};

use super::datapath::{
    contents::{Contents, Opened},
    sys::from_bytes,
};

type V4 = [u8; 4];
type V6 = [u8; 16];

/// Sockets by their cookie, and where they lead. An IPv4 address is told as one, also where a socket
/// of IPv6 leads there.
pub(super) type Leading = BTreeMap<u64, Vec<SocketAddr>>;

/// Reads which sockets lead to a backend that they should leave, as `contents` has the backends.
/// Some of them may not be connected, or no more there.
pub(super) fn abandoned(maps: &Opened, contents: &Contents) -> io::Result<Leading> {
    let mut found = Leading::new();
    for (name, m) in maps {
        let read: fn(&[u8], &[u8]) -> Option<Leads> = match *name {
            map::SOCK_UDP4 => leads::<V4>,
            map::SOCK_UDP6 => leads::<V6>,
            _ => continue,
        };
        m.for_each(|k, v| {
            if let Some(leads) = read(k, v).filter(|l| !stays(contents, l)) {
                found.entry(leads.cookie).or_default().push(leads.to);
            }
            true
        })?;
    }
    Ok(found)
}

/// Where a socket leads.
#[derive(Debug, Clone, Copy)]
struct Leads {
    cookie: u64,
    /// The backend's address and port.
    to: SocketAddr,
    backend: BackendRef,
    /// The published address and port that the process named.
    named: SocketAddr,
}

/// Reads a row of one of the two maps, if it says where answers come from.
fn leads<A: warren_ebpf::abi::Address + Into<IpAddr>>(k: &[u8], v: &[u8]) -> Option<Leads>
where
    SocketKey<A>: aya::Pod,
    SocketFlow<A>: aya::Pod,
{
    let (k, v) = (from_bytes::<SocketKey<A>>(k)?, from_bytes::<SocketFlow<A>>(v)?);
    let at = |address: A, port| SocketAddr::new(address.into().to_canonical(), port);
    (k.side == SOCKET_FROM).then(|| Leads {
        cookie: k.cookie,
        to: at(k.address, k.port),
        backend: v.backend,
        named: at(v.address, v.port),
    })
}

/// Whether a socket stays with its backend: the rule of flows (`balance::keeps`).
fn stays(contents: &Contents, leads: &Leads) -> bool {
    match state(contents, leads.backend) {
        Some(BACKEND_UP) => true,
        Some(BACKEND_DRAINING | BACKEND_HELD) => !another_is_up(contents, leads.named),
        _ => false,
    }
}

fn state(contents: &Contents, backend: BackendRef) -> Option<u8> {
    let row: Backend = contents.get(map::BACKEND, &backend.id)?;
    (row.generation == backend.generation).then_some(row.state)
}

fn another_is_up(contents: &Contents, named: SocketAddr) -> bool {
    let port = named.port();
    let service = match named.ip() {
        IpAddr::V4(a) => service(contents, map::SVC4, a.octets(), port),
        IpAddr::V6(a) => service(contents, map::SVC6, a.octets(), port),
    };
    let Some(service) = service else { return false };
    let up = |backend: BackendRef| state(contents, backend) == Some(BACKEND_UP);
    if service.table_size == 0 {
        return up(service.single);
    }
    let rows = service.table..service.table.saturating_add(service.table_size);
    rows.filter_map(|row| contents.get::<u32, BackendRef>(map::MAGLEV, &row)).any(up)
}

/// What is published at an address and port; the exact address comes first.
fn service<A: warren_ebpf::abi::Address>(
    contents: &Contents,
    map: &str,
    address: A,
    port: u16,
) -> Option<Service>
where
    ServiceKey<A>: aya::Pod,
{
    let at = |address: A| contents.get(map, &ServiceKey { address, port, protocol: UDP, pad: 0 });
    at(address).or_else(|| at(A::ZERO))
}

/// The kernel's door to sockets, of the network namespace it was opened in.
#[derive(Debug)]
pub(super) struct SockDiag(Mutex<OwnedFd>);

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const ASKED: usize = 56;
/// Of `struct inet_diag_msg`, what is used here: four bytes and the socket's identity.
const TOLD: usize = 4 + ID;
/// `struct inet_diag_sockid`.
const ID: usize = 48;
const CONNECTED: u32 = 1 << 1;

/// A connected socket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Connected {
    family: u8,
    /// `struct inet_diag_sockid`.
    id: [u8; ID],
}

impl Connected {
    /// From the payload of an answer.
    fn parse(told: &[u8]) -> Option<Self> {
        let id = told.get(4..TOLD)?.try_into().ok()?;
        Some(Self { family: told[0], id })
    }

    fn cookie(&self) -> u64 {
        let word = |at: usize| u64::from(u32::from_ne_bytes([0, 1, 2, 3].map(|i| self.id[at + i])));
        word(40) | word(44) << 32
    }

    fn peer(&self) -> SocketAddr {
        let port = u16::from_be_bytes([self.id[2], self.id[3]]);
        let bytes: [u8; 16] = std::array::from_fn(|i| self.id[20 + i]);
        let ip = if i32::from(self.family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            // A socket of IPv6 that speaks IPv4.
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        };
        SocketAddr::new(ip, port)
    }
}

impl SockDiag {
    pub(super) fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        // The kernel answers at once; nobody shall wait for ever for an answer that was lost.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
        Ok(Self(Mutex::new(fd)))
    }

    /// Ends those of these sockets that are connected to where they lead; how many.
    pub(super) fn end(&self, leading: &Leading) -> io::Result<usize> {
        let fd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ended = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            for s in connected(&fd, u8::try_from(family).unwrap_or(0))? {
                let leads = leading.get(&s.cookie());
                if leads.is_some_and(|to| to.contains(&s.peer())) {
                    ended += usize::from(destroy(&fd, &s)?);
                }
            }
        }
        Ok(ended)
    }
}

/// The connected UDP sockets there are.
fn connected(fd: &OwnedFd, family: u8) -> io::Result<Vec<Connected>> {
    let mut found = Vec::new();
    let any = Connected { family, id: [0; ID] };
    exchange(fd, &request(BY_FAMILY, REQUEST | DUMP, CONNECTED, &any), |told| {
        found.extend(Connected::parse(told));
    })?;
    Ok(found)
}

/// Ends a socket; false when it has ended by itself.
fn destroy(fd: &OwnedFd, socket: &Connected) -> io::Result<bool> {
    match exchange(fd, &request(DESTROY, REQUEST | ACK, CONNECTED, socket), |_| {}) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

fn request(kind: u16, flags: u16, states: u32, socket: &Connected) -> [u8; HEADER + ASKED] {
    let mut r = [0; HEADER + ASKED];
    r[0..4].copy_from_slice(&((HEADER + ASKED) as u32).to_ne_bytes());
    r[4..6].copy_from_slice(&kind.to_ne_bytes());
    r[6..8].copy_from_slice(&flags.to_ne_bytes());
    r[HEADER] = socket.family;
    r[HEADER + 1] = UDP;
    r[HEADER + 4..HEADER + 8].copy_from_slice(&states.to_ne_bytes());
    r[HEADER + 8..].copy_from_slice(&socket.id);
    r
}

/// Sends a request and shows the payload of each answer to `f`, to the last.
fn exchange(fd: &OwnedFd, request: &[u8], mut f: impl FnMut(&[u8])) -> io::Result<()> {
    // What an earlier exchange that was given up left behind.
    let mut buffer = vec![0; 65_536];
    while recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    sendto(fd.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    loop {
        let n = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if let Some(end) = messages(&buffer[..n], &mut f) {
            return end;
        }
    }
}

/// Shows the payload of each message to `f`; how it ended, once it has.
fn messages(mut bytes: &[u8], f: &mut impl FnMut(&[u8])) -> Option<io::Result<()>> {
    while bytes.len() >= HEADER {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let payload = bytes.get(HEADER..length)?;
        match kind {
            DONE => return Some(Ok(())),
            ERROR => {
                let code: [u8; 4] = payload.get(..4)?.try_into().ok()?;
                return Some(match i32::from_ne_bytes(code) {
                    0 => Ok(()),
                    code => Err(io::Error::from_raw_os_error(-code)),
                });
            }
            _ => f(payload),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::{super::datapath::sys::bytes_of, *};

    fn contents(states: &[u8]) -> Contents {
        let mut c = Contents::empty();
        for (id, state) in (1u32..).zip(states) {
            let row = Backend { generation: 1, state: *state, ..Backend::default() };
            c.put(map::BACKEND, &id, &row);
        }
        let key = ServiceKey { address: [0; 4], port: 53, protocol: UDP, pad: 0 };
        let service = Service { table: 7, table_size: 2, ..Service::default() };
        c.put(map::SVC4, &key, &service);
        let key = ServiceKey { address: [0; 16], port: 53, protocol: UDP, pad: 0 };
        c.put(map::SVC6, &key, &service);
        c.put(map::MAGLEV, &7u32, &BackendRef { id: 1, generation: 1 });
        c.put(map::MAGLEV, &8u32, &BackendRef { id: 2, generation: 1 });
        c
    }

    #[test]
    fn a_socket_leaves_what_is_gone_and_what_another_can_do() {
        use warren_ebpf::abi::{BACKEND_CLOSED, BACKEND_EMPTY};
        let stays = |states: &[u8], generation| {
            let flow = SocketFlow {
                backend: BackendRef { id: 1, generation },
                address: [127, 0, 0, 1],
                port: 53,
                pad: 0,
            };
            let address = Ipv6Addr::LOCALHOST.octets();
            let flow6 = SocketFlow { backend: flow.backend, address, port: 53, pad: 0 };
            let key = SocketKey { cookie: 7, address: [10, 0, 0, 1], port: 53, side: SOCKET_FROM, pad: [] };
            let address = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
            let key6 = SocketKey { cookie: 7, address, port: 53, side: SOCKET_FROM, pad: [0; 4] };
            let of_ipv4 = leads::<V4>(bytes_of(&key), bytes_of(&flow)).unwrap();
            let of_ipv6 = leads::<V6>(bytes_of(&key6), bytes_of(&flow6)).unwrap();
            assert_eq!(of_ipv6.to, of_ipv4.to, "the backend's IPv4 address");
            let contents = contents(states);
            let says = stays(&contents, &of_ipv4);
            assert_eq!(stays(&contents, &of_ipv6), says, "the same port on IPv6");
            says
        };
        assert!(stays(&[BACKEND_UP, BACKEND_UP], 1));
        assert!(!stays(&[BACKEND_UP, BACKEND_UP], 2), "another tenant");
        assert!(!stays(&[], 1));
        for gone in [BACKEND_CLOSED, BACKEND_EMPTY] {
            assert!(!stays(&[gone, BACKEND_UP], 1));
            assert!(!stays(&[gone, BACKEND_CLOSED], 1));
        }
        for going in [BACKEND_DRAINING, BACKEND_HELD] {
            assert!(!stays(&[going, BACKEND_UP], 1));
            assert!(stays(&[going, BACKEND_DRAINING], 1), "there is no better one");
        }
    }

    #[test]
    fn cut_off_messages_end_nothing() {
        let mut n = 0;
        assert!(messages(&[9, 0, 0], &mut |_| n += 1).is_none());
        let long = request(BY_FAMILY, 0, 0, &Connected { family: 2, id: [0; ID] });
        assert!(messages(&long[..40], &mut |_| n += 1).is_none());
        assert!(messages(&long, &mut |_| n += 1).is_none());
        assert_eq!(n, 1);
    }

    #[test]
    #[ignore = "needs root"]
    fn only_the_named_connected_sockets_end() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let [one, two] = [(); 2].map(|()| {
            let s = UdpSocket::bind("127.0.0.1:0").unwrap();
            s.connect(to).unwrap();
            s
        });
        let cookie = |s: &UdpSocket| {
            let diag = SockDiag::open().unwrap();
            let fd = diag.0.lock().unwrap();
            let own = s.local_addr().unwrap().port().to_be_bytes();
            let found = connected(&fd, 2).unwrap();
            found.into_iter().find(|c| c.id[..2] == own && c.peer() == to).unwrap().cookie()
        };
        let diag = SockDiag::open().unwrap();
        let elsewhere = SocketAddr::new(to.ip(), 9);
        assert_eq!(diag.end(&Leading::from([(cookie(&one), vec![elsewhere])])).unwrap(), 0);
        assert_eq!(diag.end(&Leading::from([(cookie(&one), vec![elsewhere, to])])).unwrap(), 1);
        assert_eq!(one.recv(&mut [0; 8]).unwrap_err().raw_os_error(), Some(libc::ECONNABORTED));
        assert!(one.send(b"x").is_err());
        two.send(b"x").unwrap();
        assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
    }
}
