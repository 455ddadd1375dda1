//! What a raw socket sees arrive in a network namespace, every checksum looked at.

use std::{
    collections::HashMap,
    fs::File,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::ask::enter;

/// A raw socket and the thread that reads it, until it goes out of scope.
pub struct Wire {
    seen: Arc<Seen>,
    reader: Option<thread::JoinHandle<()>>,
}

/// What has arrived so far.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    /// Transport checksums that are there and right.
    whole: AtomicU64,
    /// Those whose rest is left to a device that will never come, and whose beginning is right.
    begun: AtomicU64,
    /// The largest packets of TCP and of UDP that were not put together from pieces.
    largest: [AtomicU64; 2],
    bad: Mutex<Vec<String>>,
}

/// Pieces of a packet so far: where each begins, its bytes; and where the last one ends.
type Pieces = (Vec<(usize, Vec<u8>)>, Option<usize>);

/// What a packet without its IP header is.
struct Body<'a> {
    source: &'a [u8],
    destination: &'a [u8],
    protocol: u8,
    bytes: &'a [u8],
}

/// What a packet is part of: its addresses, identification and protocol.
type Whole = (Vec<u8>, Vec<u8>, u32, u8);

impl Wire {
    /// Begins to read in a namespace.
    pub fn tap(namespace: &Path) -> Result<Self> {
        let socket = enter(namespace, raw)??;
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            let mut pieces = HashMap::new();
            while !shared.stop.load(Relaxed) {
                match next(&socket, &mut buffer) {
                    Ok(Some((length, unfinished))) => {
                        if let Err(e) = judge(&buffer[..length], unfinished, &mut pieces, &shared) {
                            let mut bad = shared.bad.lock().expect("no panic");
                            if bad.len() < 5 {
                                bad.push(e);
                            }
                        }
                    }
                    Ok(None) => {}
                    Err(e) => return shared.bad.lock().expect("no panic").push(format!("raw socket: {e}")),
                }
            }
        });
        Ok(Self { seen, reader: Some(reader) })
    }

    /// What was wrong since it was last asked, after what is on its way has been read.
    pub fn wrong(&self) -> Vec<String> {
        mem::take(&mut *self.seen.bad.lock().expect("no panic"))
    }

    /// The largest packets of TCP and of UDP since it was last asked, with their IP header.
    pub fn largest(&self) -> [u64; 2] {
        [0, 1].map(|n| self.seen.largest[n].swap(0, Relaxed))
    }

    /// How many checksums were found right, and how many right as far as the sender had to write them.
    pub fn right(&self) -> (u64, u64) {
        (self.seen.whole.load(Relaxed), self.seen.begun.load(Relaxed))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.seen.stop.store(true, Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn set<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is to as many bytes as said, which live through the call.
    let failed =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length) };
    ensure!(failed == 0, "option {name}: {}", io::Error::last_os_error());
    Ok(())
}

fn raw() -> Result<OwnedFd> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no pointer is passed.
    let fd =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, i32::from(every)) };
    ensure!(fd >= 0, "a raw socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and owned by nothing else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(64 << 20))?;
    let wait = libc::timeval { tv_sec: 0, tv_usec: Duration::from_millis(50).subsec_micros().into() };
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &wait)?;
    Ok(socket)
}

/// The next packet that has arrived, from its IP header on: its length, and whether the rest of its
/// checksum is left to a device.
fn next(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
    // SAFETY: all zeroes is a value of both.
    let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { mem::zeroed() };
    let mut control = [0u64; 16];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of_val(&from) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points at what lives through the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else {
        let e = io::Error::last_os_error();
        let waited = matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        return if waited || e.raw_os_error() == Some(libc::ENETDOWN) { Ok(None) } else { Err(e) };
    };
    let ip = [libc::ETH_P_IP as u16, libc::ETH_P_IPV6 as u16].contains(&u16::from_be(from.sll_protocol));
    if !ip || from.sll_pkttype == libc::PACKET_OUTGOING {
        return Ok(None);
    }
    // SAFETY: the kernel has filled the control messages as far as `msg_controllen` says; the one that
    // was asked for is a `tpacket_auxdata`.
    let status = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        if first.is_null() {
            return Err(io::Error::other("no auxiliary data"));
        }
        libc::CMSG_DATA(first).cast::<libc::tpacket_auxdata>().read_unaligned().tp_status
    };
    Ok(Some((length, status & libc::TP_STATUS_CSUMNOTREADY != 0)))
}

/// The sum of RFC 1071.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut total: u64 = 0;
    for part in parts {
        let (pairs, rest) = part.as_chunks::<2>();
        total += pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum::<u64>();
        total += rest.first().map_or(0, |&last| u64::from(last) << 8);
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}

fn judge(
    packet: &[u8],
    unfinished: bool,
    pieces: &mut HashMap<Whole, Pieces>,
    seen: &Seen,
) -> Result<(), String> {
    let told = |what: &str| format!("{what}: {}", hex::encode(&packet[..packet.len().min(64)]));
    let cut = || told("a packet is cut");
    // Addresses, protocol, body, and of a fragment its number, beginning, and whether more follow.
    let (source, destination, protocol, body, piece);
    if packet.first().ok_or_else(cut)? >> 4 == 4 {
        let header = usize::from(packet[0] & 15) * 4;
        let end = number(packet, 2).filter(|end| (header..=packet.len()).contains(end)).ok_or_else(cut)?;
        if sum(&[&packet[..header]]) != 0xffff {
            return Err(told("a wrong checksum of IPv4's header"));
        }
        (source, destination, protocol, body) =
            (&packet[12..16], &packet[16..20], packet[9], &packet[header..end]);
        let (id, at) = (number(packet, 4).ok_or_else(cut)?, number(packet, 6).ok_or_else(cut)?);
        piece = (at & 0x3fff != 0).then_some((id as u32, (at & 0x1fff) * 8, at & 0x2000 != 0));
    } else {
        let end = 40 + number(packet, 4).ok_or_else(cut)?;
        (source, destination) = (packet.get(8..24).ok_or_else(cut)?, packet.get(24..40).ok_or_else(cut)?);
        let rest = packet.get(40..end).ok_or_else(cut)?;
        if packet[6] == 44 {
            let fragment = rest.get(..8).ok_or_else(cut)?;
            let at = number(fragment, 2).ok_or_else(cut)?;
            let id = u32::from_be_bytes([fragment[4], fragment[5], fragment[6], fragment[7]]);
            (protocol, body, piece) = (fragment[0], &rest[8..], Some((id, at & 0xfff8, at & 1 != 0)));
        } else {
            (protocol, body, piece) = (packet[6], rest, None);
        }
    }
    let Some((id, begin, more)) = piece else {
        if let Some(n) = [6, 17].iter().position(|&p| p == protocol) {
            seen.largest[n].fetch_max(packet.len() as u64, Relaxed);
        }
        return transport(&Body { source, destination, protocol, bytes: body }, unfinished, seen)
            .map_err(|e| told(&e));
    };
    // The pieces of a packet carry one checksum, which must be there when it was cut.
    let whole = (source.to_vec(), destination.to_vec(), id, protocol);
    let (parts, end) = pieces.entry(whole.clone()).or_default();
    parts.push((begin, body.to_vec()));
    if !more {
        *end = Some(begin + body.len());
    }
    let have: usize = parts.iter().map(|(_, bytes)| bytes.len()).sum();
    if *end != Some(have) {
        return Ok(());
    }
    let (mut parts, _) = pieces.remove(&whole).expect("it was there");
    parts.sort();
    let bytes: Vec<u8> = parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
    let body = Body { source, destination, protocol, bytes: &bytes };
    transport(&body, false, seen).map_err(|e| told(&format!("{e}, put together from pieces")))
}

fn transport(body: &Body<'_>, unfinished: bool, seen: &Seen) -> Result<(), String> {
    let (name, field) = match body.protocol {
        1 => ("ICMP", 2),
        6 => ("TCP", 16),
        17 => ("UDP", 6),
        58 => ("ICMPv6", 2),
        _ => return Ok(()),
    };
    let length = (body.bytes.len() as u32).to_be_bytes();
    let last = [0, 0, 0, body.protocol];
    let pseudo: &[&[u8]] =
        if body.protocol == 1 { &[] } else { &[body.source, body.destination, &length, &last] };
    let written = number(body.bytes, field).ok_or("no checksum")?;
    if body.protocol == 17 {
        if number(body.bytes, 4) != Some(body.bytes.len()) {
            return Err("UDP of another length than its packet".into());
        }
        if written == 0 {
            return if body.source.len() == 4 { Ok(()) } else { Err("IPv6's UDP without checksum".into()) };
        }
    }
    if unfinished {
        let begun = sum(pseudo);
        if usize::from(begun) != written {
            return Err(format!("a wrong beginning of {name}'s checksum ({written:04x}, not {begun:04x})"));
        }
        seen.begun.fetch_add(1, Relaxed);
        return Ok(());
    }
    let parts: Vec<&[u8]> = pseudo.iter().copied().chain([body.bytes]).collect();
    if sum(&parts) != 0xffff {
        return Err(format!("a wrong checksum of {name} ({written:04x})"));
    }
    seen.whole.fetch_add(1, Relaxed);
    Ok(())
}

/// What a device does to packets by itself, as `SIOCETHTOOL` calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// `SRXCSUM`: looks at checksums.
    ReceiveChecksums = 0x15,
    /// `STXCSUM`: writes them.
    SendChecksums = 0x17,
    /// `SSG`: takes packets in pieces.
    Scatter = 0x19,
    /// `STSO`: cuts up TCP.
    Segments = 0x1f,
    /// `SGSO`: has the kernel cut up late.
    LateSegments = 0x24,
    /// `SGRO`: has the kernel merge what comes in.
    Merge = 0x2c,
}

impl Offload {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ReceiveChecksums,
        Self::SendChecksums,
        Self::Scatter,
        Self::Segments,
        Self::LateSegments,
        Self::Merge,
    ];
}

/// Switches on what is named, and off what is not. With all off every checksum is written by who sends it
/// and looked at by who gets it, and nothing is sent in bundles.
pub fn offloads(namespace: &Path, device: &str, on: &'static [Offload]) -> Result<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    let name = device.to_owned();
    enter(namespace, move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for what in Offload::ALL {
            let mut value = [what as u32, on.contains(&what).into()];
            // SAFETY: plain integers and bytes; all zero is a value.
            let mut request: libc::ifreq = unsafe { mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
            // SAFETY: the kernel reads the request and the value it points at.
            let failed = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0;
            ensure!(!failed, "{name}: ethtool's {what:?}: {}", io::Error::last_os_error());
        }
        Ok(())
    })?
}

/// The namespace of a process.
pub fn of_process(pid: i64) -> Result<std::path::PathBuf> {
    let path = std::path::PathBuf::from(format!("/proc/{pid}/ns/net"));
    File::open(&path).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram of IPv4 or IPv6.
    fn datagram(v6: bool, payload: &[u8]) -> Vec<u8> {
        let builder = if v6 {
            etherparse::PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64)
        } else {
            etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        };
        let mut packet = Vec::new();
        builder.udp(1000, 2000).write(&mut packet, payload).expect("it is short");
        packet
    }

    fn judged(packet: &[u8], unfinished: bool) -> Result<(), String> {
        judge(packet, unfinished, &mut HashMap::new(), &Seen::default())
    }

    #[test]
    fn every_changed_bit_of_a_packet_is_noticed() {
        for v6 in [false, true] {
            let packet = datagram(v6, b"some text");
            judged(&packet, false).unwrap();
            assert!(judged(&packet, true).is_err(), "a whole checksum is no beginning of one");
            let header = if v6 { 40 } else { 20 };
            // Addresses, ports, checksum, payload; lengths and kinds say where these are.
            for at in (header - 8..header + 4).chain(header + 6..packet.len()) {
                let mut changed = packet.clone();
                changed[at] ^= 4;
                assert!(judged(&changed, false).is_err(), "byte {at}");
            }
            let mut unsummed = packet.clone();
            unsummed[header + 6..header + 8].fill(0);
            assert_eq!(judged(&unsummed, false).is_err(), v6);
        }
    }

    #[test]
    fn pieces_are_judged_when_the_last_has_come() {
        let packet = datagram(false, &[7; 100]);
        let piece = |from: usize, to: usize, change: u8| {
            let mut header = etherparse::Ipv4Header::from_slice(&packet).unwrap().0;
            header.set_payload_len(to - from).unwrap();
            header.fragment_offset = u16::try_from(from / 8).unwrap().try_into().unwrap();
            header.more_fragments = to < 108;
            header.dont_fragment = false;
            header.header_checksum = header.calc_header_checksum();
            let mut bytes = header.to_bytes().to_vec();
            bytes.extend(&packet[20 + from..20 + to]);
            *bytes.last_mut().unwrap() ^= change;
            bytes
        };
        for change in [0, 1] {
            let (mut pieces, seen) = (HashMap::new(), Seen::default());
            judge(&piece(64, 108, change), false, &mut pieces, &seen).unwrap();
            let whole = judge(&piece(0, 64, 0), false, &mut pieces, &seen);
            assert_eq!(whole.is_err(), change == 1, "{whole:?}");
            assert!(pieces.is_empty());
        }
    }
}
