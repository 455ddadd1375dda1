//! From bytes to addresses and ports. Whatever is cut off or contradicts itself is `None`: nobody
//! forwards what nobody has understood.

use super::{Family, Packet};
use crate::abi::{TCP, UDP};

/// TCP flag.
pub const FIN: u8 = 0x01;
/// TCP flag.
pub const SYN: u8 = 0x02;
/// TCP flag.
pub const RST: u8 = 0x04;
/// TCP flag.
pub const ACK: u8 = 0x10;

const MORE_FRAGMENTS: u16 = 0x2000;
pub(super) const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Length of an IPv6 header without extensions.
const HEADER6: u32 = 40;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that are passed over; hosts send one or two at most.
const EXTENSIONS: u32 = 4;
/// Of a fragment header: everything but the two reserved bits.
const FRAGMENT6: u16 = 0xfff9;

/// A network header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ip<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// IP protocol number of the payload.
    pub protocol: u8,
    /// Whether it is a fragment, the first one included.
    pub fragment: bool,
    /// The header's own checksum, as it lies in the packet; of IPv6 0.
    pub check: [u8; 2],
    /// Where the network header starts.
    pub offset: u32,
    /// Where the payload starts.
    pub payload: u32,
    /// The payload's length in bytes, padding of the link excluded.
    pub length: u32,
}

impl<A> Ip<A> {
    /// Bytes of the payload that are its TCP or UDP header.
    #[inline(always)]
    #[must_use]
    pub fn transport_header<P: Packet>(&self, packet: &P) -> u32 {
        match (self.protocol, packet.load::<1>(self.payload + 12)) {
            (TCP, Some([length])) => u32::from(length >> 4) * 4,
            _ => 8,
        }
    }
}

/// What identifies a conversation within a pair of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Segment {
    /// Source port; the identifier of an echo request; 0 for an echo reply.
    pub source_port: u16,
    /// Destination port; the identifier of an echo reply; 0 for an echo request.
    pub destination_port: u16,
    /// TCP flags; 0 for others.
    pub flags: u8,
    /// TCP: the sequence number after the segment; 0 for others.
    pub next: u32,
    /// TCP: the acknowledgement number; 1 for an echo reply, whose identifier may be 0 like a request's; 0 for
    /// others.
    pub acknowledgement: u32,
}

impl Segment {
    /// A TCP SYN with nothing else that matters: the only packet that may begin a flow.
    #[inline(always)]
    #[must_use]
    pub fn pure_syn(&self) -> bool {
        self.flags & (SYN | ACK | FIN | RST) == SYN
    }
}

/// Reads the IPv4 header at `offset`. Options are skipped.
#[inline(always)]
pub fn ipv4<P: Packet>(packet: &P, offset: u32) -> Option<Ip<[u8; 4]>> {
    header4::<true, P>(packet, offset)
}

/// As [`ipv4`], where the rest of the packet may be missing unless it must be `WHOLE`.
#[inline(always)]
pub(super) fn header4<const WHOLE: bool, P: Packet>(packet: &P, offset: u32) -> Option<Ip<[u8; 4]>> {
    let h: [u8; 20] = packet.load(offset)?;
    let header = u32::from(h[0] & 0x0f) * 4;
    if h[0] >> 4 != 4 || header < 20 {
        return None;
    }
    // `load` has shown that the packet is longer than `offset`.
    let there = packet.length().wrapping_sub(offset);
    let mut total = u32::from(u16::from_be_bytes([h[2], h[3]]));
    if total == 0 && there > 0xffff {
        // Merged segments of more than 64 KiB ("BIG TCP") do not fit the field.
        total = there;
    }
    if total < header || (WHOLE && total > there) {
        return None;
    }
    let fragment = u16::from_be_bytes([h[6], h[7]]) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0;
    Some(Ip {
        source: [h[12], h[13], h[14], h[15]],
        destination: [h[16], h[17], h[18], h[19]],
        protocol: h[9],
        fragment,
        check: [h[10], h[11]],
        offset,
        payload: offset + header,
        length: total - header,
    })
}

/// Reads the IPv6 header at `offset`. Extension headers are passed over, but for those that hide
/// what follows or say that the packet is on its way to somebody else first: their number is then
/// the protocol.
#[inline(always)]
pub fn ipv6<P: Packet, A: From<[u8; 16]>>(packet: &P, offset: u32) -> Option<Ip<A>> {
    header6::<true, P, A>(packet, offset)
}

/// As [`ipv6`], where the rest of the packet may be missing unless it must be `WHOLE`.
#[inline(always)]
pub(super) fn header6<const WHOLE: bool, P: Packet, A: From<[u8; 16]>>(
    packet: &P,
    offset: u32,
) -> Option<Ip<A>> {
    let h: [u8; 8] = packet.load(offset)?;
    if h[0] >> 4 != 6 {
        return None;
    }
    let source = A::from(packet.load(offset + 8)?);
    let destination = A::from(packet.load(offset + 24)?);
    // `load` has shown that the packet is longer than this.
    let there = packet.length().wrapping_sub(offset + HEADER6);
    let mut length = u32::from(be(h[4], h[5]));
    if length == 0 && there > 0xffff {
        // As in IPv4.
        length = there;
    }
    if WHOLE && length > there {
        return None;
    }
    let (mut protocol, mut payload, mut fragment) = (h[6], offset + HEADER6, false);
    for _ in 0..EXTENSIONS {
        if !matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            break;
        }
        // What is not there hides what follows, too; whom the packet is for is known.
        let Some(extension) = packet.load::<8>(payload) else { break };
        let size = if protocol == FRAGMENT { 8 } else { 8 + u32::from(extension[1]) * 8 };
        // A packet that has stations before it shows one as its destination, but is summed up for
        // the last.
        if size > length || (protocol == ROUTING && extension[3] != 0) {
            break;
        }
        // One that is all there is (RFC 6946) is none.
        fragment |= protocol == FRAGMENT && be(extension[2], extension[3]) & FRAGMENT6 != 0;
        protocol = extension[0];
        payload += size;
        length -= size;
        if fragment {
            break;
        }
    }
    let what = packet.forget(0, u32::from(protocol) | (u32::from(fragment) << 8));
    Some(Ip {
        source,
        destination,
        protocol: what as u8,
        fragment: what >> 8 != 0,
        check: [0; 2],
        offset,
        payload: packet.forget(1, payload),
        length: packet.forget(2, length),
    })
}

/// Reads the transport header of a packet that is no fragment: TCP, UDP or ICMP echo.
#[inline(always)]
pub fn transport<P: Packet, A: Family>(packet: &P, ip: &Ip<A>) -> Option<Segment> {
    if ip.fragment { None } else { segment(packet, ip) }
}

/// The same of the first fragment of a packet, too.
#[inline(always)]
pub fn segment<P: Packet, A: Family>(packet: &P, ip: &Ip<A>) -> Option<Segment> {
    match ip.protocol {
        TCP => {
            let h: [u8; 14] = packet.load(ip.payload)?;
            let header = u32::from(h[12] >> 4) * 4;
            if header < 20 || header > ip.length {
                return None;
            }
            let flags = h[13];
            let room = ip.length - header + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            Some(Segment {
                source_port: be(h[0], h[1]),
                destination_port: be(h[2], h[3]),
                flags,
                next: u32::from_be_bytes([h[4], h[5], h[6], h[7]]).wrapping_add(room),
                acknowledgement: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            })
        }
        UDP => {
            let h: [u8; 8] = packet.load(ip.payload)?;
            let length = be(h[4], h[5]);
            // Of a fragment, the rest comes later. What the kernel has merged says so itself.
            if ip.length < 8 || length < 8 || (!ip.fragment && u32::from(length) > ip.length) {
                return None;
            }
            Some(Segment {
                source_port: be(h[0], h[1]),
                destination_port: be(h[2], h[3]),
                ..Segment::default()
            })
        }
        protocol if protocol == A::ICMP => {
            let h: [u8; 8] = packet.load(ip.payload)?;
            if ip.length < 8 || h[1] != 0 {
                return None;
            }
            if h[0] == A::ECHO_REQUEST {
                Some(Segment { source_port: be(h[4], h[5]), ..Segment::default() })
            } else if h[0] == A::ECHO_REPLY {
                Some(Segment { destination_port: be(h[4], h[5]), acknowledgement: 1, ..Segment::default() })
            } else {
                None
            }
        }
        _ => None,
    }
}

#[inline(always)]
pub(super) fn be(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}
