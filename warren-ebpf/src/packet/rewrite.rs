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

/// Turns a packet that shows `old` into one that shows `new`, checksums included. After `false`
/// the packet is half changed and must be dropped.
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
    let header = ip.offset + 10;
    if old.source != new.source {
        let (from, to) = (old.source, new.source);
        if !(packet.fix_header(header, from, to)
            && (!pseudo || packet.fix_pseudo(check, from, to, udp))
            && packet.store(ip.offset + 12, to))
        {
            return false;
        }
    }
    if old.destination != new.destination {
        let (from, to) = (old.destination, new.destination);
        if !(packet.fix_header(header, from, to)
            && (!pseudo || packet.fix_pseudo(check, from, to, udp))
            && packet.store(ip.offset + 16, to))
        {
            return false;
        }
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
    if old.source != new.source
        && !(packet.fix_address(check, &old.source.into(), &new.source.into(), udp)
            && packet.store(ip.offset + 8, new.source.into()))
    {
        return false;
    }
    if old.destination != new.destination
        && !(packet.fix_address(check, &old.destination.into(), &new.destination.into(), udp)
            && packet.store(ip.offset + 24, new.destination.into()))
    {
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
