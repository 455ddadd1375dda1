//! What the tests need to know of a family.

use super::*;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use crate::{
    abi::{Address, ICMP, ICMP6, Reason},
    flow::{Seen, decide},
    packet::{Ip, Segment},
};

pub type V6 = [u8; 16];

/// A family of addresses, with those that the tests use.
pub trait Family: Address {
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

    /// An address of the pool that no container has.
    fn unused() -> Self;

    /// Addresses that nothing may be sent to beyond the link.
    fn nobodys() -> &'static [Self];

    /// A backend's row of which only the address is set.
    fn row(address: Self) -> Backend;

    /// Lets a packet in by a device of the node. The verdict, and what the packet shows after it.
    fn node_in(
        node: &Model<Self>,
        t: Tuple<Self>,
        protocol: u8,
        flags: u8,
        acknowledgement: u32,
        ifindex: u32,
    ) -> (Verdict<Self>, Tuple<Self>);

    /// The same by a container's device.
    fn veth_in(
        node: &Model<Self>,
        t: Tuple<Self>,
        protocol: u8,
        flags: u8,
        acknowledgement: u32,
        ifindex: u32,
    ) -> (Verdict<Self>, Tuple<Self>);
}

impl Family for V4 {
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

    fn unused() -> V4 {
        [10, 64, 77, 1]
    }

    fn nobodys() -> &'static [V4] {
        &[[224, 0, 0, 1], [239, 255, 255, 250], [255; 4], [127, 0, 0, 1], [0, 0, 0, 1]]
    }

    fn row(address: V4) -> Backend {
        Backend { address, ..Backend::default() }
    }

    fn node_in(
        node: &Model,
        t: Tuple<V4>,
        protocol: u8,
        flags: u8,
        acknowledgement: u32,
        ifindex: u32,
    ) -> (Verdict, Tuple<V4>) {
        let mut bytes = acknowledging(t, protocol, flags, acknowledgement);
        let verdict = node.node_in(&mut bytes, ifindex);
        (verdict, read(&bytes))
    }

    fn veth_in(
        node: &Model,
        t: Tuple<V4>,
        protocol: u8,
        flags: u8,
        acknowledgement: u32,
        ifindex: u32,
    ) -> (Verdict, Tuple<V4>) {
        let mut bytes = acknowledging(t, protocol, flags, acknowledgement);
        let verdict = node.veth_in(&mut bytes, ifindex);
        (verdict, read(&bytes))
    }
}

/// An address that differs from others in more than its last word.
const fn v6(net: u16, host: u32) -> V6 {
    let ([a, b], [c, d, e, f]) = (net.to_be_bytes(), host.to_be_bytes());
    [0x20, 0x01, 0x0d, 0xb8, a, b, 0, 0, 0, 0, 0xfe, 0xff, c, d, e, f]
}

impl Family for V6 {
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

    fn node_in(
        node: &Model<V6>,
        t: Tuple<V6>,
        protocol: u8,
        flags: u8,
        acknowledgement: u32,
        ifindex: u32,
    ) -> (Verdict<V6>, Tuple<V6>) {
        let (ip, segment) = as_read(t, protocol, flags, acknowledgement);
        let verdict = decide::inbound(node, &node.present(), &Seen::new(&ip, &segment, ifindex));
        carried_out(t, decide::unless_unpublished(node, &ip, verdict))
    }

    fn veth_in(
        node: &Model<V6>,
        t: Tuple<V6>,
        protocol: u8,
        flags: u8,
        acknowledgement: u32,
        ifindex: u32,
    ) -> (Verdict<V6>, Tuple<V6>) {
        let (ip, segment) = as_read(t, protocol, flags, acknowledgement);
        let owner = decide::sender(node, &ip, ifindex);
        if !owner.exists() {
            return (Verdict::drop(Reason::Spoofed), t);
        }
        let seen = Seen::new(&ip, &segment, ifindex);
        carried_out(t, decide::outbound(node, &node.present(), &seen, owner.backend))
    }
}

/// What a reader of packets finds in one.
fn as_read(t: Tuple<V6>, protocol: u8, flags: u8, acknowledgement: u32) -> (Ip<V6>, Segment) {
    let payload = payload(protocol, flags).len() as u32;
    let ip = Ip { source: t.source, destination: t.destination, protocol, ..Ip::default() };
    let mut segment =
        Segment { source_port: t.source_port, destination_port: t.destination_port, ..Segment::default() };
    if protocol == TCP {
        let first = if flags & SYN != 0 { FIRST } else { SECOND };
        let control = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        segment.flags = flags & (FIN | SYN | RST | ACK);
        segment.next = first.wrapping_add(payload + control);
        segment.acknowledgement = if flags & ACK != 0 { acknowledgement } else { 0 };
    }
    assert!(matches!(protocol, TCP | UDP | ICMP6));
    (ip, segment)
}

fn carried_out(t: Tuple<V6>, verdict: Verdict<V6>) -> (Verdict<V6>, Tuple<V6>) {
    match verdict.action {
        Action::Pass | Action::Drop => (verdict, t),
        Action::Container | Action::Device => {
            assert_eq!(verdict.from, t);
            (verdict, verdict.to)
        }
    }
}

/// An IPv4 packet.
pub fn make(t: Tuple<V4>, protocol: u8, flags: u8) -> Vec<u8> {
    acknowledging(t, protocol, flags, SECOND)
}

fn acknowledging(t: Tuple<V4>, protocol: u8, flags: u8, acknowledgement: u32) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(t.source, t.destination, 64);
    let mut out = Vec::new();
    let payload = payload(protocol, flags);
    match protocol {
        TCP => {
            let mut tcp = builder.tcp(
                t.source_port,
                t.destination_port,
                if flags & SYN != 0 { FIRST } else { SECOND },
                4096,
            );
            for (flag, set) in [
                (FIN, etherparse::PacketBuilderStep::fin as fn(_) -> _),
                (SYN, etherparse::PacketBuilderStep::syn),
                (RST, etherparse::PacketBuilderStep::rst),
            ] {
                if flags & flag != 0 {
                    tcp = set(tcp);
                }
            }
            if flags & ACK != 0 {
                tcp = tcp.ack(acknowledgement);
            }
            tcp.write(&mut out, payload)
        }
        UDP => builder.udp(t.source_port, t.destination_port).write(&mut out, payload),
        ICMP if t.destination_port == 0 => {
            builder.icmpv4_echo_request(t.source_port, 1).write(&mut out, payload)
        }
        _ => builder.icmpv4_echo_reply(t.destination_port, 1).write(&mut out, payload),
    }
    .unwrap();
    out
}

/// What etherparse reads, after it has checked the checksums.
fn read(bytes: &[u8]) -> Tuple<V4> {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let (source_port, destination_port) = match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            assert_eq!(tcp.checksum(), tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap());
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap());
            (udp.source_port(), udp.destination_port())
        }
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            match icmp.icmp_type() {
                etherparse::Icmpv4Type::EchoRequest(echo) => (echo.id, 0),
                etherparse::Icmpv4Type::EchoReply(echo) => (0, echo.id),
                other => panic!("{other:?} was not made here"),
            }
        }
        other => panic!("{other:?} was not made here"),
    };
    tuple(header.source, source_port, header.destination, destination_port)
}

#[test]
fn packets_have_their_flags() {
    let syn = make(tuple([1; 4], 1, [2; 4], 2), TCP, SYN);
    assert_eq!(syn[14 + 20 + 13], SYN);
    assert_eq!(make(tuple([1; 4], 1, [2; 4], 2), TCP, FIN_ACK)[14 + 20 + 13], FIN_ACK);
}

/// What the two families' packets are read as differs in the addresses alone.
#[test]
fn what_is_said_to_be_read_is_what_is_read() {
    for flags in 0..32 {
        let bytes = crate::packet::Bytes(&mut make(tuple([1; 4], 1, [2; 4], 2), TCP, flags)[..]);
        let ip = crate::packet::ipv4(&bytes, 14).unwrap();
        let (_, segment) = as_read(tuple(V6::CLIENT, 1, V6::NODE, 2), TCP, flags, SECOND);
        assert_eq!(crate::packet::transport(&bytes, &ip), Some(segment), "flags {flags:#x}");
    }
}
