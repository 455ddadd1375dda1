//! From bytes to addresses and ports. Whatever is cut off or contradicts itself is `None`: nobody
//! forwards what nobody has understood.

use super::Packet;
use crate::abi::{ICMP, TCP, UDP};

/// TCP flag.
pub const FIN: u8 = 0x01;
/// TCP flag.
pub const SYN: u8 = 0x02;
/// TCP flag.
pub const RST: u8 = 0x04;
/// TCP flag.
pub const ACK: u8 = 0x10;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// A network header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ip<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// IP protocol number of the payload.
    pub protocol: u8,
    /// Whether it is a fragment, the first one included.
    pub fragment: bool,
    /// Where the network header starts.
    pub offset: u32,
    /// Where the payload starts.
    pub payload: u32,
    /// The payload's length in bytes, padding of the link excluded.
    pub length: u32,
}

/// What identifies a conversation within a pair of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Source port; the identifier of an echo request; 0 for an echo reply.
    pub source_port: u16,
    /// Destination port; the identifier of an echo reply; 0 for an echo request.
    pub destination_port: u16,
    /// TCP flags; 0 for others.
    pub flags: u8,
    /// TCP: the sequence number after the segment; 0 for others.
    pub next: u32,
    /// TCP: the acknowledgement number; 0 for others.
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
    if total < header || total > there {
        return None;
    }
    let fragment = u16::from_be_bytes([h[6], h[7]]) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0;
    Some(Ip {
        source: [h[12], h[13], h[14], h[15]],
        destination: [h[16], h[17], h[18], h[19]],
        protocol: h[9],
        fragment,
        offset,
        payload: offset + header,
        length: total - header,
    })
}

/// Reads the transport header of a packet that is no fragment: TCP, UDP or ICMP echo.
#[inline(always)]
pub fn transport<P: Packet, A>(packet: &P, ip: &Ip<A>) -> Option<Segment> {
    if ip.fragment {
        return None;
    }
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
            if ip.length < 8 || be(h[4], h[5]) < 8 {
                return None;
            }
            Some(Segment {
                source_port: be(h[0], h[1]),
                destination_port: be(h[2], h[3]),
                ..Segment::default()
            })
        }
        ICMP => {
            let h: [u8; 8] = packet.load(ip.payload)?;
            if ip.length < 8 || h[1] != 0 {
                return None;
            }
            match h[0] {
                ECHO_REQUEST => Some(Segment { source_port: be(h[4], h[5]), ..Segment::default() }),
                ECHO_REPLY => Some(Segment { destination_port: be(h[4], h[5]), ..Segment::default() }),
                _ => None,
            }
        }
        _ => None,
    }
}

#[inline(always)]
fn be(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}
