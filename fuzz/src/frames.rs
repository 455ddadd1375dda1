//! Frames that are right in every way: what hosts and containers usually send.

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader,
    icmpv4::DestUnreachableHeader, icmpv6::DestUnreachableCode,
};
use warren_ebpf::{
    abi::{TCP, UDP},
    packet::{ACK, FIN, RST, SYN, Tuple, sum},
};

use crate::{family::Side, read::read};

/// Length of an Ethernet header.
pub const LINK: usize = 14;

/// What is unusual about a frame.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// It has an IP option or extension header.
    pub option: bool,
    /// UDP without a checksum.
    pub unchecked: bool,
    /// More payload, of an odd length.
    pub long: bool,
    /// Bytes behind the packet that are not of it.
    pub padding: bool,
}

/// Sequence number of every SYN.
const FIRST: u32 = u32::MAX;

fn between<A: Side>(source: A, destination: A, option: bool) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(source, destination, option))
}

/// A packet: TCP with `flags`, UDP, or an echo, whose number is the source port of a request and the
/// destination port of a reply.
pub fn make<A: Side>(t: Tuple<A>, protocol: u8, flags: u8, shape: Shape) -> Vec<u8> {
    let step = between(t.source, t.destination, shape.option);
    let long: Vec<u8> = (0..333u16).map(|i| i as u8).collect();
    let payload: &[u8] = match protocol {
        TCP if flags & SYN != 0 => b"",
        _ if shape.long => &long,
        _ => b"payload",
    };
    let mut out = Vec::new();
    match protocol {
        TCP => {
            let number = if flags & SYN != 0 { FIRST } else { FIRST.wrapping_add(1) };
            let mut tcp = TcpHeader::new(t.source_port, t.destination_port, number, 4096);
            // The SYN of the other side is acknowledged.
            tcp.acknowledgment_number = if flags & ACK != 0 { FIRST.wrapping_add(1) } else { 0 };
            (tcp.fin, tcp.syn) = (flags & FIN != 0, flags & SYN != 0);
            (tcp.rst, tcp.ack) = (flags & RST != 0, flags & ACK != 0);
            step.tcp_header(tcp).write(&mut out, payload)
        }
        UDP => step.udp(t.source_port, t.destination_port).write(&mut out, payload),
        _ => match (A::FAMILY, t.destination_port) {
            (4, 0) => step.icmpv4_echo_request(t.source_port, 1).write(&mut out, payload),
            (4, id) => step.icmpv4_echo_reply(id, 1).write(&mut out, payload),
            (_, 0) => step.icmpv6_echo_request(t.source_port, 1).write(&mut out, payload),
            (_, id) => step.icmpv6_echo_reply(id, 1).write(&mut out, payload),
        },
    }
    .expect("it is short");
    if protocol == UDP && shape.unchecked {
        let check = LINK
            + A::IP_HEADER
            + if shape.option { out.len() - LINK - A::IP_HEADER - 8 - payload.len() } else { 0 };
        out[check + 6..check + 8].fill(0);
    }
    if shape.padding {
        out.extend([0xee; 9]);
    }
    out
}

/// An ICMP error that says that nobody listens, about a packet of which it quotes so many bytes at most.
pub fn error<A: Side>(from: A, to: A, about: &[u8], most: usize) -> Vec<u8> {
    let (step, about) = (between(from, to, false), &about[..about.len().min(most)]);
    let mut out = Vec::new();
    match A::FAMILY {
        4 => step
            .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port))
            .write(&mut out, about),
        _ => {
            step.icmpv6(Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port)).write(&mut out, about)
        }
    }
    .expect("it is short");
    out
}

/// Cuts a frame up into fragments with so many times eight bytes of payload each; none if it cannot be.
pub fn cut<A: Side>(frame: &[u8], number: u16, eights: usize) -> Vec<Vec<u8>> {
    let Ok(whole) = read::<A>(frame, LINK) else { return Vec::new() };
    let (head, body) = (&frame[..whole.payload.start], &frame[whole.payload.clone()]);
    if whole.piece.is_some() || body.len() > 4096 {
        return Vec::new();
    }
    let size = eights.max(1) * 8;
    let last = body.len().div_ceil(size).saturating_sub(1);
    let each = |(i, part): (usize, &[u8])| {
        let offset = (i * size / 8) as u16;
        let mut out = head.to_vec();
        if A::FAMILY == 4 {
            out.extend(part);
            let length = (out.len() - whole.ip) as u16;
            let at = offset | if i == last { 0 } else { 0x2000 };
            out[whole.ip + 2..whole.ip + 4].copy_from_slice(&length.to_be_bytes());
            out[whole.ip + 4..whole.ip + 6].copy_from_slice(&number.to_be_bytes());
            out[whole.ip + 6..whole.ip + 8].copy_from_slice(&at.to_be_bytes());
            out[whole.ip + 10..whole.ip + 12].fill(0);
            let check = !sum(&out[whole.ip..whole.payload.start]);
            out[whole.ip + 10..whole.ip + 12].copy_from_slice(&check.to_be_bytes());
        } else {
            // The last header before the payload names the fragment's.
            let name =
                if head.len() == whole.ip + A::IP_HEADER { whole.ip + 6 } else { whole.ip + A::IP_HEADER };
            out[name] = 44;
            let at = offset << 3 | u16::from(i != last);
            out.extend([whole.protocol, 0]);
            out.extend(at.to_be_bytes());
            out.extend(u32::from(number).to_be_bytes());
            out.extend(part);
            let length = (out.len() - whole.ip - A::IP_HEADER) as u16;
            out[whole.ip + 4..whole.ip + 6].copy_from_slice(&length.to_be_bytes());
        }
        out
    };
    body.chunks(size).enumerate().map(each).collect()
}
