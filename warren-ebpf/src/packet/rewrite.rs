//! Address translation: one function that changes whatever differs between two tuples.

use super::{Ip, Packet, Segment};
use crate::abi::{TCP, UDP};

/// Both ends of a packet. For ICMP echo see [`Segment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Tuple<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

impl<A: Copy> Tuple<A> {
    /// The tuple that a packet shows.
    #[inline(always)]
    #[must_use]
    pub fn of(ip: &Ip<A>, segment: &Segment) -> Self {
        Self {
            source: ip.source,
            destination: ip.destination,
            source_port: segment.source_port,
            destination_port: segment.destination_port,
        }
    }
}

/// Turns a packet, which was read as `ip` and shows `old`, into one that shows `new`, checksums included.
/// After `false` the packet is half changed and must be dropped.
#[inline(always)]
#[must_use]
pub fn rewrite4<P: Packet>(
    packet: &mut P,
    ip: &Ip<[u8; 4]>,
    old: &Tuple<[u8; 4]>,
    new: &Tuple<[u8; 4]>,
) -> bool {
    let udp = ip.protocol == UDP;
    // ICMP has no pseudo header, and its identifier stands where both "ports" are.
    let (check, ports, pseudo) = match ip.protocol {
        TCP => (ip.payload + 16, [ip.payload, ip.payload + 2], true),
        UDP => (ip.payload + 6, [ip.payload, ip.payload + 2], true),
        _ => (ip.payload + 2, [ip.payload + 4, ip.payload + 4], false),
    };
    for (from, to) in [(old.source, new.source), (old.destination, new.destination)] {
        if pseudo && from != to && !packet.fix_pseudo(check, from, to, udp) {
            return false;
        }
    }
    if !readdress4(packet, ip, new.source, new.destination) {
        return false;
    }
    if old.source_port != new.source_port {
        let (from, to) = (old.source_port.to_be_bytes(), new.source_port.to_be_bytes());
        if !(packet.fix_segment(check, from, to, udp) && packet.store(ports[0], to)) {
            return false;
        }
    }
    if old.destination_port != new.destination_port {
        let (from, to) = (old.destination_port.to_be_bytes(), new.destination_port.to_be_bytes());
        if !(packet.fix_segment(check, from, to, udp) && packet.store(ports[1], to)) {
            return false;
        }
    }
    true
}

/// Changes the addresses in the header that was read as `ip`. It has a checksum that stands right before
/// them: one write.
#[inline(always)]
#[must_use]
pub(super) fn readdress4<P: Packet>(
    packet: &mut P,
    ip: &Ip<[u8; 4]>,
    source: [u8; 4],
    destination: [u8; 4],
) -> bool {
    if (ip.source, ip.destination) == (source, destination) {
        return true;
    }
    // RFC 1624, equation 3; in which order bytes are summed up does not matter, as long as it is one.
    let word = |a: [u8; 4]| u32::from_ne_bytes(a);
    let gone = u64::from(!word(ip.source)) + u64::from(!word(ip.destination));
    let come = u64::from(word(source)) + u64::from(word(destination));
    let mut sum = u64::from(!u16::from_ne_bytes(ip.check)) + gone + come;
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let [c, d] = (!(sum as u16)).to_ne_bytes();
    let ([e, f, g, h], [i, j, k, l]) = (source, destination);
    packet.store(ip.offset + 10, [c, d, e, f, g, h, i, j, k, l])
}

/// As [`readdress4`]; there is no checksum.
#[inline(always)]
#[must_use]
pub(super) fn readdress6<P: Packet, A: Copy + Eq + Into<[u8; 16]>>(
    packet: &mut P,
    ip: &Ip<A>,
    source: A,
    destination: A,
) -> bool {
    (ip.source == source || packet.store(ip.offset + 8, source.into()))
        && (ip.destination == destination || packet.store(ip.offset + 24, destination.into()))
}

/// As [`rewrite4`]. ICMPv6 counts the addresses, too.
#[inline(always)]
#[must_use]
pub fn rewrite6<P: Packet, A: Copy + Eq + Into<[u8; 16]>>(
    packet: &mut P,
    ip: &Ip<A>,
    old: &Tuple<A>,
    new: &Tuple<A>,
) -> bool {
    let udp = ip.protocol == UDP;
    let (check, ports) = match ip.protocol {
        TCP => (ip.payload + 16, [ip.payload, ip.payload + 2]),
        UDP => (ip.payload + 6, [ip.payload, ip.payload + 2]),
        _ => (ip.payload + 2, [ip.payload + 4, ip.payload + 4]),
    };
    for (from, to) in [(old.source, new.source), (old.destination, new.destination)] {
        if from != to && !packet.fix_address(check, &from.into(), &to.into(), udp) {
            return false;
        }
    }
    if !readdress6(packet, ip, new.source, new.destination) {
        return false;
    }
    if old.source_port != new.source_port {
        let (from, to) = (old.source_port.to_be_bytes(), new.source_port.to_be_bytes());
        if !(packet.fix_segment(check, from, to, udp) && packet.store(ports[0], to)) {
            return false;
        }
    }
    if old.destination_port != new.destination_port {
        let (from, to) = (old.destination_port.to_be_bytes(), new.destination_port.to_be_bytes());
        if !(packet.fix_segment(check, from, to, udp) && packet.store(ports[1], to)) {
            return false;
        }
    }
    true
}
