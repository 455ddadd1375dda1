//! Packets as bytes: made for a test, and read back by another library than ours. In both families.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{
    IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice,
    err::packet::BuildWriteError,
};
use warren_ebpf::{
    abi::{Backend, TCP, UDP},
    flow::decide::{V4, V6},
    packet::{self, ACK, FIN, RST, SYN, Tuple},
};

/// Sequence number of every SYN: the next one is 0.
const FIRST: u32 = u32::MAX;

/// What is done to a good packet.
pub type Change = Box<dyn Fn(&mut Vec<u8>)>;

/// A family of addresses, with those that tests use.
pub trait Family: packet::Family + aya::Pod + Send {
    /// Where the transport header is in packets made here.
    const PAYLOAD: usize;
    /// An address of the node.
    const NODE: Self;
    /// Another one.
    const LAN: Self;
    /// A host outside.
    const CLIENT: Self;
    /// Another one.
    const REMOTE: Self;
    /// Containers' addresses, all of them, with the length of their prefix.
    const POOL: (Self, u32);
    /// An address of the pool that no container has.
    const UNUSED: Self;
    /// Addresses that nothing may be sent to beyond the link.
    const NOBODYS: [Self; 2];

    /// The address of the container with backend id `id`.
    fn container(id: u32) -> Self;

    /// The address with another last octet.
    fn nearby(self, last: u8) -> Self;

    /// The address as the standard library has it.
    fn standard(self) -> IpAddr;

    /// One of many hosts outside.
    fn stranger(n: u32) -> Self;

    /// A backend's row of which only the address is set.
    fn row(address: Self) -> Backend;

    /// A header between two addresses.
    fn headers(source: Self, destination: Self) -> IpHeaders;

    /// Writes an echo request or reply.
    fn echo(
        step: PacketBuilderStep<IpHeaders>,
        request: bool,
        id: u16,
        out: &mut Vec<u8>,
    ) -> Result<(), BuildWriteError>;

    /// ICMP errors of several kinds about a packet, between two addresses.
    fn errors(source: Self, destination: Self, about: &[u8]) -> Vec<Vec<u8>>;

    /// Addresses, and ports or the numbers of an echo, once the checksums are found right.
    fn checked(ip: &NetSlice<'_>, transport: &TransportSlice<'_>) -> Result<Tuple<Self>>;

    /// TCP's checksum in a packet between two addresses.
    fn tcp_checksum(header: &etherparse::TcpHeader, source: Self, destination: Self, payload: &[u8]) -> u16;

    /// What makes of a SYN with 30 bytes a fragment, or something without ports.
    fn without_ports() -> Vec<Change>;

    /// What makes of it a packet that contradicts itself.
    fn broken() -> Vec<Change>;

    /// What puts something between header and segment that is passed over.
    fn extended() -> Vec<Change>;
}

impl Family for V4 {
    const PAYLOAD: usize = 34;
    const NODE: V4 = [192, 0, 2, 1];
    const LAN: V4 = [10, 9, 9, 1];
    const CLIENT: V4 = [198, 51, 100, 7];
    const REMOTE: V4 = [203, 0, 113, 9];
    const POOL: (V4, u32) = ([10, 64, 0, 0], 16);
    const UNUSED: V4 = [10, 64, 9, 9];
    const NOBODYS: [V4; 2] = [[224, 0, 0, 251], [255; 4]];

    fn container(id: u32) -> V4 {
        [10, 64, 0, 10 + id as u8]
    }

    fn nearby(self, last: u8) -> V4 {
        let [a, b, c, _] = self;
        [a, b, c, last]
    }

    fn standard(self) -> IpAddr {
        self.into()
    }

    fn stranger(n: u32) -> V4 {
        let [.., c, d] = n.to_be_bytes();
        [100, 1, c, d]
    }

    fn row(address: V4) -> Backend {
        Backend { address, ..Backend::default() }
    }

    fn headers(source: V4, destination: V4) -> IpHeaders {
        let ip = etherparse::Ipv4Header::new(0, 64, 0.into(), source, destination).expect("short");
        IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default())
    }

    fn echo(
        step: PacketBuilderStep<IpHeaders>,
        request: bool,
        id: u16,
        out: &mut Vec<u8>,
    ) -> Result<(), BuildWriteError> {
        if request { step.icmpv4_echo_request(id, 1) } else { step.icmpv4_echo_reply(id, 1) }
            .write(out, b"payload")
    }

    fn errors(source: V4, destination: V4, about: &[u8]) -> Vec<Vec<u8>> {
        use etherparse::{Icmpv4Type as Type, icmpv4::*};
        let kinds = [
            Type::DestinationUnreachable(DestUnreachableHeader::Port),
            Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 }),
            Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
            Type::ParameterProblem(ParameterProblemHeader::PointerIndicatesError(9)),
        ];
        let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]).ip(Self::headers(source, destination));
        kinds.map(|kind| written(|out| builder().icmpv4(kind).write(out, about))).into()
    }

    fn checked(ip: &NetSlice<'_>, transport: &TransportSlice<'_>) -> Result<Tuple<V4>> {
        let NetSlice::Ipv4(ip) = ip else { bail!("not IPv4") };
        let header = ip.header().to_header();
        ensure!(header.header_checksum == header.calc_header_checksum(), "IP header checksum");
        let (source_port, destination_port) = match transport {
            TransportSlice::Tcp(tcp) => {
                let right = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload())?;
                ensure!(tcp.checksum() == right, "TCP checksum");
                (tcp.source_port(), tcp.destination_port())
            }
            TransportSlice::Udp(udp) => {
                let right = udp.to_header().calc_checksum_ipv4(&header, udp.payload())?;
                ensure!(udp.checksum() == right, "UDP checksum");
                (udp.source_port(), udp.destination_port())
            }
            TransportSlice::Icmpv4(icmp) => {
                ensure!(icmp.checksum() == icmp.icmp_type().calc_checksum(icmp.payload()), "ICMP checksum");
                match icmp.icmp_type() {
                    etherparse::Icmpv4Type::EchoRequest(echo) => (echo.id, 0),
                    etherparse::Icmpv4Type::EchoReply(echo) => (0, echo.id),
                    etherparse::Icmpv4Type::DestinationUnreachable(_)
                    | etherparse::Icmpv4Type::TimeExceeded(_)
                    | etherparse::Icmpv4Type::ParameterProblem(_) => (0, 0),
                    other => bail!("{other:?}"),
                }
            }
            other => bail!("{other:?}"),
        };
        Ok(tuple(header.source, source_port, header.destination, destination_port))
    }

    fn tcp_checksum(header: &etherparse::TcpHeader, source: V4, destination: V4, payload: &[u8]) -> u16 {
        header.calc_checksum_ipv4_raw(source, destination, payload).expect("short")
    }

    fn without_ports() -> Vec<Change> {
        vec![
            Box::new(|b| b[20] = 0x22), // fragment in the middle
            Box::new(|b| b[21] = 3),    // last fragment
            Box::new(|b| b[23] = 47),   // GRE
            Box::new(|b| b[23] = 132),  // SCTP
        ]
    }

    fn broken() -> Vec<Change> {
        let mut changes: Vec<Change> = vec![
            Box::new(|b| b[14] = 0x44), // header length 16
            Box::new(|b| b[14] = 0x4f), // header length 60: into the segment
            Box::new(|b| b[14] = 0x65), // version 6
            Box::new(|b| b[16] = 0xff), // longer than it is
            Box::new(|b| b[17] = 25),   // shorter than a TCP header
            Box::new(|b| b[46] = 0xf0), // TCP header longer than the segment
            Box::new(|b| b[46] = 0x10), // TCP header shorter than one
        ];
        // The kernel makes no test packet shorter than an IP header; the host's tests do.
        for length in [34usize, 40, 47, 53, 54] {
            changes.push(Box::new(move |b| b.truncate(length)));
        }
        changes
    }

    fn extended() -> Vec<Change> {
        // Options: header of 24 bytes.
        vec![Box::new(|packet| {
            packet.splice(34..34, [1; 4]);
            packet[14] = 0x46;
            packet[17] += 4;
            packet[24..26].fill(0);
            let check = !packet::sum(&packet[14..38]);
            packet[24..26].copy_from_slice(&check.to_be_bytes());
        })]
    }
}

/// An address that differs from others in more than its last word.
const fn v6(net: u16, host: u32) -> V6 {
    let ([a, b], [c, d, e, f]) = (net.to_be_bytes(), host.to_be_bytes());
    [0x20, 0x01, 0x0d, 0xb8, a, b, 0, 0, 0, 0, 0xfe, 0xff, c, d, e, f]
}

/// Puts extension headers before the segment, each with the number of what follows left 0.
fn extend(packet: &mut Vec<u8>, extensions: &[(u8, &[u8])]) {
    let (mut at, mut says) = (V6::PAYLOAD, 20);
    for (kind, body) in extensions {
        let next = std::mem::replace(&mut packet[says], *kind);
        packet.splice(at..at, [next].into_iter().chain(body.iter().copied()));
        packet[19] += 1 + body.len() as u8;
        says = at;
        at += 1 + body.len();
    }
}

const OPTIONS: (u8, &[u8]) = (60, &[0, 1, 4, 0, 0, 0, 0]);
const HOP_BY_HOP: (u8, &[u8]) = (0, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const ARRIVED: (u8, &[u8]) = (43, &[0, 4, 0, 0, 0, 0, 0]);
const ON_ITS_WAY: (u8, &[u8]) = (43, &[0, 4, 1, 0, 0, 0, 0]);
const WHOLE: (u8, &[u8]) = (44, &[0, 0, 6, 1, 2, 3, 4]);
const LATER_PART: (u8, &[u8]) = (44, &[0, 1, 0, 1, 2, 3, 4]);

impl Family for V6 {
    const PAYLOAD: usize = 54;
    const NODE: V6 = v6(2, 1);
    const LAN: V6 = v6(9, 1);
    const CLIENT: V6 = v6(100, 7);
    const REMOTE: V6 = v6(113, 9);
    const POOL: (V6, u32) = ([0x20, 0x01, 0x0d, 0xb8, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 48);
    const UNUSED: V6 = v6(64, 0x7701);
    const NOBODYS: [V6; 2] = [
        [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ];

    fn container(id: u32) -> V6 {
        v6(64, 10 + id)
    }

    fn nearby(mut self, last: u8) -> V6 {
        self[15] = last;
        self
    }

    fn standard(self) -> IpAddr {
        self.into()
    }

    fn stranger(n: u32) -> V6 {
        v6(100, 0x100 + n)
    }

    fn row(address6: V6) -> Backend {
        Backend { address6, ..Backend::default() }
    }

    fn headers(source: V6, destination: V6) -> IpHeaders {
        let ip = etherparse::Ipv6Header { hop_limit: 64, source, destination, ..Default::default() };
        IpHeaders::Ipv6(ip, etherparse::Ipv6Extensions::default())
    }

    fn echo(
        step: PacketBuilderStep<IpHeaders>,
        request: bool,
        id: u16,
        out: &mut Vec<u8>,
    ) -> Result<(), BuildWriteError> {
        if request { step.icmpv6_echo_request(id, 1) } else { step.icmpv6_echo_reply(id, 1) }
            .write(out, b"payload")
    }

    fn errors(source: V6, destination: V6, about: &[u8]) -> Vec<Vec<u8>> {
        use etherparse::{Icmpv6Type as Type, icmpv6::*};
        let kinds = [
            Type::DestinationUnreachable(DestUnreachableCode::Port),
            Type::PacketTooBig { mtu: 1300 },
            Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
            Type::ParameterProblem(ParameterProblemHeader {
                code: ParameterProblemCode::UnrecognizedNextHeader,
                pointer: 6,
            }),
        ];
        let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]).ip(Self::headers(source, destination));
        kinds.map(|kind| written(|out| builder().icmpv6(kind).write(out, about))).into()
    }

    fn checked(ip: &NetSlice<'_>, transport: &TransportSlice<'_>) -> Result<Tuple<V6>> {
        let NetSlice::Ipv6(ip) = ip else { bail!("not IPv6") };
        let header = ip.header().to_header();
        let (source, destination) = (header.source, header.destination);
        let (source_port, destination_port) = match transport {
            TransportSlice::Tcp(tcp) => {
                let right = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload())?;
                ensure!(tcp.checksum() == right, "TCP checksum");
                (tcp.source_port(), tcp.destination_port())
            }
            TransportSlice::Udp(udp) => {
                let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload())?;
                ensure!(udp.checksum() == right, "UDP checksum");
                (udp.source_port(), udp.destination_port())
            }
            TransportSlice::Icmpv6(icmp) => {
                let kind = icmp.icmp_type();
                let right = kind.calc_checksum(source, destination, icmp.payload())?;
                ensure!(icmp.checksum() == right, "ICMPv6 checksum");
                match kind {
                    etherparse::Icmpv6Type::EchoRequest(echo) => (echo.id, 0),
                    etherparse::Icmpv6Type::EchoReply(echo) => (0, echo.id),
                    etherparse::Icmpv6Type::DestinationUnreachable(_)
                    | etherparse::Icmpv6Type::PacketTooBig { .. }
                    | etherparse::Icmpv6Type::TimeExceeded(_)
                    | etherparse::Icmpv6Type::ParameterProblem(_) => (0, 0),
                    other => bail!("{other:?}"),
                }
            }
            other => bail!("{other:?}"),
        };
        Ok(tuple(source, source_port, destination, destination_port))
    }

    fn tcp_checksum(header: &etherparse::TcpHeader, source: V6, destination: V6, payload: &[u8]) -> u16 {
        header.calc_checksum_ipv6_raw(source, destination, payload).expect("short")
    }

    fn without_ports() -> Vec<Change> {
        vec![
            Box::new(|b| extend(b, &[LATER_PART])),
            Box::new(|b| extend(b, &[HOP_BY_HOP, LATER_PART])),
            Box::new(|b| extend(b, &[ON_ITS_WAY])),
            Box::new(|b| extend(b, &[OPTIONS; 5])),
            Box::new(|b| b[20] = 51),  // secured
            Box::new(|b| b[20] = 59),  // nothing
            Box::new(|b| b[20] = 47),  // GRE
            Box::new(|b| b[20] = 132), // SCTP
        ]
    }

    fn broken() -> Vec<Change> {
        let mut changes: Vec<Change> = vec![
            Box::new(|b| b[14] = 0x45), // version 4
            Box::new(|b| b[18] = 0xff), // longer than it is
            Box::new(|b| b[19] = 15),   // shorter than a TCP header
            Box::new(|b| b[66] = 0xf0), // TCP header longer than the segment
            Box::new(|b| b[66] = 0x10), // TCP header shorter than one
        ];
        for length in [54usize, 60, 67, 73, 74] {
            changes.push(Box::new(move |b| b.truncate(length)));
        }
        changes
    }

    fn extended() -> Vec<Change> {
        vec![
            Box::new(|b| extend(b, &[OPTIONS])),
            Box::new(|b| extend(b, &[HOP_BY_HOP, OPTIONS])),
            Box::new(|b| extend(b, &[HOP_BY_HOP, ARRIVED, OPTIONS])),
            Box::new(|b| extend(b, &[WHOLE])),
            Box::new(|b| extend(b, &[HOP_BY_HOP, OPTIONS, WHOLE, OPTIONS])),
        ]
    }
}

fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<(), BuildWriteError>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out).expect("written to memory");
    out
}

pub fn tuple<A>(source: A, source_port: u16, destination: A, destination_port: u16) -> Tuple<A> {
    Tuple { source, destination, source_port, destination_port }
}

pub fn reversed<A>(t: Tuple<A>) -> Tuple<A> {
    tuple(t.destination, t.destination_port, t.source, t.source_port)
}

/// What most packets carry: nothing on a SYN, whose acknowledgement would have to count it.
pub fn payload(protocol: u8, flags: u8) -> &'static [u8] {
    if protocol == TCP && flags & SYN != 0 { b"" } else { b"payload" }
}

pub fn make<A: Family>(t: Tuple<A>, protocol: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(t.source, t.destination));
    let mut out = Vec::new();
    let made = match protocol {
        TCP => {
            // Only SYNs have the first number; who has seen one acknowledges it.
            let number = if flags & SYN != 0 { FIRST } else { FIRST.wrapping_add(1) };
            let mut header = etherparse::TcpHeader::new(t.source_port, t.destination_port, number, 4096);
            header.acknowledgment_number = if flags & ACK != 0 { FIRST.wrapping_add(1) } else { 0 };
            header.fin = flags & FIN != 0;
            header.syn = flags & SYN != 0;
            header.rst = flags & RST != 0;
            header.ack = flags & ACK != 0;
            builder.tcp_header(header).write(&mut out, payload)
        }
        UDP => builder.udp(t.source_port, t.destination_port).write(&mut out, payload),
        _ => A::echo(builder, t.destination_port == 0, t.source_port | t.destination_port, &mut out),
    };
    made.expect("written to memory");
    out
}

/// What etherparse reads, after it has checked the checksums.
pub fn read<A: Family>(bytes: &[u8]) -> Result<Tuple<A>> {
    let packet = SlicedPacket::from_ethernet(bytes)?;
    A::checked(&packet.net.context("no IP header")?, &packet.transport.context("no transport header")?)
}
