//! What the tests need to know of a family.

use super::*;
use etherparse::{
    IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice,
    err::packet::BuildWriteError,
};

use crate::{abi::Address as _, packet};

/// A family of addresses, with those that the tests use.
pub trait Family: packet::Family {
    /// Where the payload of an IP packet is.
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

    /// The address of the container with backend id `id`.
    fn container(id: u32) -> Self;

    /// One of many hosts outside.
    fn stranger(n: u32) -> Self;

    /// One of many hosts outside, each in a network of its own.
    fn apart(n: u32) -> Self;

    /// An address of the pool that no container has.
    fn unused() -> Self;

    /// Addresses that nothing may be sent to beyond the link.
    fn nobodys() -> &'static [Self];

    /// A backend's row of which only the address is set.
    fn row(address: Self) -> Backend;

    /// A header between two addresses.
    fn headers(source: Self, destination: Self) -> IpHeaders;

    /// An echo request or reply.
    fn echo(
        step: PacketBuilderStep<IpHeaders>,
        request: bool,
        id: u16,
        out: &mut Vec<u8>,
        payload: &[u8],
    ) -> Result<(), BuildWriteError>;

    /// An ICMP error: the port is unreachable.
    fn unreachable(
        step: PacketBuilderStep<IpHeaders>,
        out: &mut Vec<u8>,
        about: &[u8],
    ) -> Result<(), BuildWriteError>;

    /// Addresses, and ports or the numbers of an echo, once the checksums are found right.
    fn checked(ip: &NetSlice<'_>, transport: &TransportSlice<'_>) -> Tuple<Self>;
}

impl Family for V4 {
    const PAYLOAD: usize = 34;
    const NODE: V4 = [192, 0, 2, 1];
    const LAN: V4 = [10, 9, 9, 1];
    const CLIENT: V4 = [198, 51, 100, 7];
    const REMOTE: V4 = [203, 0, 113, 9];
    const POOL: (V4, u32) = ([10, 64, 0, 0], 16);

    fn container(id: u32) -> V4 {
        [10, 64, 0, 10 + id as u8]
    }

    fn stranger(n: u32) -> V4 {
        let [a, b, c, d] = n.to_be_bytes();
        [100 + a, b, c, d]
    }

    fn apart(n: u32) -> V4 {
        Self::stranger(n)
    }

    fn unused() -> V4 {
        [10, 64, 77, 1]
    }

    fn nobodys() -> &'static [V4] {
        &[[224, 0, 0, 1], [239, 255, 255, 250], [255; 4], [127, 0, 0, 1], [0, 0, 0, 1]]
    }

    fn row(address: V4) -> Backend {
        Backend { address, ..Backend::default() }
    }

    fn headers(source: V4, destination: V4) -> IpHeaders {
        let ip = etherparse::Ipv4Header::new(0, 64, 0.into(), source, destination).unwrap();
        IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default())
    }

    fn echo(
        step: PacketBuilderStep<IpHeaders>,
        request: bool,
        id: u16,
        out: &mut Vec<u8>,
        payload: &[u8],
    ) -> Result<(), BuildWriteError> {
        if request { step.icmpv4_echo_request(id, 1) } else { step.icmpv4_echo_reply(id, 1) }
            .write(out, payload)
    }

    fn unreachable(
        step: PacketBuilderStep<IpHeaders>,
        out: &mut Vec<u8>,
        about: &[u8],
    ) -> Result<(), BuildWriteError> {
        use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};
        step.icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port)).write(out, about)
    }

    fn checked(ip: &NetSlice<'_>, transport: &TransportSlice<'_>) -> Tuple<V4> {
        let NetSlice::Ipv4(ip) = ip else { panic!("not IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let (source_port, destination_port) = match transport {
            TransportSlice::Tcp(tcp) => {
                let right = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap();
                assert_eq!(tcp.checksum(), right);
                (tcp.source_port(), tcp.destination_port())
            }
            TransportSlice::Udp(udp) => {
                let right = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                assert_eq!(udp.checksum(), right);
                (udp.source_port(), udp.destination_port())
            }
            TransportSlice::Icmpv4(icmp) => {
                assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
                match icmp.icmp_type() {
                    etherparse::Icmpv4Type::EchoRequest(echo) => (echo.id, 0),
                    etherparse::Icmpv4Type::EchoReply(echo) => (0, echo.id),
                    etherparse::Icmpv4Type::DestinationUnreachable(_) => (0, 0),
                    other => panic!("{other:?} was not made here"),
                }
            }
            other => panic!("{other:?} was not made here"),
        };
        tuple(header.source, source_port, header.destination, destination_port)
    }
}

/// An address that differs from others in more than its last word.
const fn v6(net: u16, host: u32) -> V6 {
    let ([a, b], [c, d, e, f]) = (net.to_be_bytes(), host.to_be_bytes());
    [0x20, 0x01, 0x0d, 0xb8, a, b, 0, 0, 0, 0, 0xfe, 0xff, c, d, e, f]
}

impl Family for V6 {
    const PAYLOAD: usize = 54;
    const NODE: V6 = v6(2, 1);
    const LAN: V6 = v6(9, 1);
    const CLIENT: V6 = v6(100, 7);
    const REMOTE: V6 = v6(113, 9);
    const POOL: (V6, u32) = ([0x20, 0x01, 0x0d, 0xb8, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 48);

    fn container(id: u32) -> V6 {
        v6(64, 10 + id)
    }

    fn stranger(n: u32) -> V6 {
        v6(100, 0x100 + n)
    }

    fn apart(n: u32) -> V6 {
        v6(10_000 + n as u16, 1)
    }

    fn unused() -> V6 {
        v6(64, 0x7701)
    }

    fn nobodys() -> &'static [V6] {
        const ALL_NODES: V6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        const LINK_LOCAL: V6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        const LOOPBACK: V6 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        &[ALL_NODES, LINK_LOCAL, LOOPBACK, V6::ZERO]
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
        payload: &[u8],
    ) -> Result<(), BuildWriteError> {
        if request { step.icmpv6_echo_request(id, 1) } else { step.icmpv6_echo_reply(id, 1) }
            .write(out, payload)
    }

    fn unreachable(
        step: PacketBuilderStep<IpHeaders>,
        out: &mut Vec<u8>,
        about: &[u8],
    ) -> Result<(), BuildWriteError> {
        use etherparse::{Icmpv6Type, icmpv6::DestUnreachableCode};
        step.icmpv6(Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port)).write(out, about)
    }

    fn checked(ip: &NetSlice<'_>, transport: &TransportSlice<'_>) -> Tuple<V6> {
        let NetSlice::Ipv6(ip) = ip else { panic!("not IPv6") };
        let header = ip.header().to_header();
        let (source, destination) = (header.source, header.destination);
        let (source_port, destination_port) = match transport {
            TransportSlice::Tcp(tcp) => {
                let right = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap();
                assert_eq!(tcp.checksum(), right);
                (tcp.source_port(), tcp.destination_port())
            }
            TransportSlice::Udp(udp) => {
                let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
                assert_eq!(udp.checksum(), right);
                (udp.source_port(), udp.destination_port())
            }
            TransportSlice::Icmpv6(icmp) => {
                let kind = icmp.icmp_type();
                assert_eq!(icmp.checksum(), kind.calc_checksum(source, destination, icmp.payload()).unwrap());
                match kind {
                    etherparse::Icmpv6Type::EchoRequest(echo) => (echo.id, 0),
                    etherparse::Icmpv6Type::EchoReply(echo) => (0, echo.id),
                    etherparse::Icmpv6Type::DestinationUnreachable(_) => (0, 0),
                    other => panic!("{other:?} was not made here"),
                }
            }
            other => panic!("{other:?} was not made here"),
        };
        tuple(source, source_port, destination, destination_port)
    }
}

/// A packet.
pub fn make<A: Family>(t: Tuple<A>, protocol: u8, flags: u8) -> Vec<u8> {
    acknowledging(t, protocol, flags, SECOND)
}

/// A packet with this acknowledgement number.
pub fn acknowledging<A: Family>(t: Tuple<A>, protocol: u8, flags: u8, acknowledgement: u32) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(t.source, t.destination));
    let mut out = Vec::new();
    let payload = payload(protocol, flags);
    match protocol {
        TCP => {
            let number = if flags & SYN != 0 { FIRST } else { SECOND };
            let mut tcp = etherparse::TcpHeader::new(t.source_port, t.destination_port, number, 4096);
            tcp.acknowledgment_number = if flags & ACK != 0 { acknowledgement } else { 0 };
            (tcp.fin, tcp.syn) = (flags & FIN != 0, flags & SYN != 0);
            (tcp.rst, tcp.ack) = (flags & RST != 0, flags & ACK != 0);
            builder.tcp_header(tcp).write(&mut out, payload)
        }
        UDP => builder.udp(t.source_port, t.destination_port).write(&mut out, payload),
        _ => {
            let request = t.destination_port == 0;
            A::echo(builder, request, t.source_port | t.destination_port, &mut out, payload)
        }
    }
    .unwrap();
    out
}

/// What etherparse reads, after it has checked the checksums.
pub fn read<A: Family>(bytes: &[u8]) -> Tuple<A> {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    A::checked(&packet.net.unwrap(), &packet.transport.unwrap())
}

/// An ICMP error about a packet.
pub fn error<A: Family>(from: A, to: A, about: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    A::unreachable(PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(from, to)), &mut out, about)
        .unwrap();
    out
}

/// The ends of an ICMP error, with its checksum found right, and those of the packet it is about.
pub fn read_error<A: Family>(bytes: &[u8]) -> (A, A, Tuple<A>) {
    let ends: Tuple<A> = read(bytes);
    let mut copy = bytes.to_vec();
    let packet = packet::Bytes(&mut copy);
    let mut quoted = packet::notice::Quoted::default();
    let ip = A::header(&packet, 14).unwrap();
    assert!(packet::notice::read(&packet, &ip, &mut quoted));
    (ends.source, ends.destination, quoted.tuple)
}

#[test]
fn packets_have_their_flags() {
    let syn = make(tuple([1; 4], 1, [2; 4], 2), TCP, SYN);
    assert_eq!(syn[14 + 20 + 13], SYN);
    assert_eq!(make(tuple([1; 16], 1, [2; 16], 2), TCP, FIN_ACK)[14 + 40 + 13], FIN_ACK);
}
