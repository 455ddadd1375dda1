//! What differs between the headers of the two families.

use super::{
    Ip, Packet, Tuple, ipv4, ipv6,
    notice::{QUOTE, too_big4, too_big6},
    parse::{FRAGMENT_OFFSET, header4, header6},
    rewrite::{readdress4, readdress6},
    rewrite4, rewrite6,
};
use crate::abi::{Address, ICMP6, Words};

/// An address whose family's packets can be read and changed.
pub trait Family: Address {
    /// ICMP type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;

    /// Length in bytes of an IP header without options or extensions.
    const HEADER: u32;

    /// Reads the IP header at `offset`.
    fn header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>>;

    /// Reads the IP header at `offset` of a packet that another one quotes: the end may be missing.
    fn quoted_header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>>;

    /// Whether an ICMP message of this type reports an error with a packet, which it quotes.
    fn is_error(kind: u8) -> bool;

    /// Whether a packet that is a fragment is the first one, with the ports.
    fn is_first<P: Packet>(packet: &P, ip: &Ip<Self>) -> bool;

    /// No link that carries the family has a smaller MTU (IPv4: no link that anybody has).
    const LEAST_MTU: u32;

    /// An IP header and an ICMP header.
    type Notice: AsRef<[u8]> + Copy;

    /// What is put before a packet, of which `quote` is the start, to tell its sender that it is too big
    /// for a link with this MTU.
    fn too_big(from: Self, to: Self, mtu: u32, quote: &[u8; QUOTE]) -> Self::Notice;

    /// What the fragments of one packet have in common, besides their ends.
    fn piece<P: Packet>(packet: &P, ip: &Ip<Self>) -> u32;

    /// What of the change of an address in a quoted header its own checksum does not make up for.
    fn uncovered(change: u32) -> u32;

    /// Changes the addresses in the header `ip` to these, and the header's own checksum if it has one. After
    /// `false` it is half changed.
    #[must_use]
    fn readdress<P: Packet>(packet: &mut P, ip: &Ip<Self>, source: Self, destination: Self) -> bool;

    /// Turns a packet that shows `old` into one that shows `new`, checksums included. After `false`
    /// the packet is half changed and must be dropped.
    #[must_use]
    fn rewrite<P: Packet>(packet: &mut P, ip: &Ip<Self>, old: &Tuple<Self>, new: &Tuple<Self>) -> bool;

    /// Whether it keeps the link itself going, between neighbours only.
    fn is_of_the_link<P: Packet>(packet: &P, ip: &Ip<Self>) -> bool;
}

impl Family for [u8; 4] {
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const HEADER: u32 = 20;

    #[inline(always)]
    fn header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>> {
        ipv4(packet, offset)
    }

    #[inline(always)]
    fn quoted_header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>> {
        header4::<false, P>(packet, offset)
    }

    /// Unreachable, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn is_first<P: Packet>(packet: &P, ip: &Ip<Self>) -> bool {
        matches!(packet.load(ip.offset + 6), Some(at) if u16::from_be_bytes(at) & FRAGMENT_OFFSET == 0)
    }

    #[inline(always)]
    fn piece<P: Packet>(packet: &P, ip: &Ip<Self>) -> u32 {
        packet.load(ip.offset + 4).map_or(0, |id| u16::from_be_bytes(id).into())
    }

    const LEAST_MTU: u32 = 576;

    type Notice = [u8; 28];

    #[inline(always)]
    fn too_big(from: Self, to: Self, mtu: u32, quote: &[u8; QUOTE]) -> Self::Notice {
        too_big4(from, to, mtu, quote)
    }

    #[inline(always)]
    fn uncovered(_: u32) -> u32 {
        0
    }

    #[inline(always)]
    fn readdress<P: Packet>(packet: &mut P, ip: &Ip<Self>, source: Self, destination: Self) -> bool {
        readdress4(packet, ip, source, destination)
    }

    #[inline(always)]
    fn rewrite<P: Packet>(packet: &mut P, ip: &Ip<Self>, old: &Tuple<Self>, new: &Tuple<Self>) -> bool {
        rewrite4(packet, ip, old, new)
    }

    /// ARP is no IP packet.
    #[inline(always)]
    fn is_of_the_link<P: Packet>(_: &P, _: &Ip<Self>) -> bool {
        false
    }
}

/// Implements [`Family`] for one way to see an IPv6 address.
macro_rules! ipv6_family {
    ($address:ty, $kind:expr) => {
        impl Family for $address {
            const ECHO_REQUEST: u8 = 128;
            const ECHO_REPLY: u8 = 129;
            const HEADER: u32 = 40;

            #[inline(always)]
            fn header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>> {
                ipv6(packet, offset)
            }

            #[inline(always)]
            fn quoted_header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>> {
                header6::<false, P, Self>(packet, offset)
            }

            /// Unreachable, packet too big, time exceeded, parameter problem.
            #[inline(always)]
            fn is_error(kind: u8) -> bool {
                matches!(kind, 1..=4)
            }

            #[inline(always)]
            fn is_first<P: Packet>(packet: &P, ip: &Ip<Self>) -> bool {
                // The fragment header is the last one that is passed over.
                matches!(packet.load(ip.payload - 6), Some(at) if u16::from_be_bytes(at) & 0xfff8 == 0)
            }

            #[inline(always)]
            fn piece<P: Packet>(packet: &P, ip: &Ip<Self>) -> u32 {
                packet.load(ip.payload - 4).map_or(0, u32::from_be_bytes)
            }

            const LEAST_MTU: u32 = 1280;

            type Notice = [u8; 48];

            #[inline(always)]
            fn too_big(from: Self, to: Self, mtu: u32, quote: &[u8; QUOTE]) -> Self::Notice {
                too_big6(from.into(), to.into(), mtu, quote)
            }

            #[inline(always)]
            fn uncovered(change: u32) -> u32 {
                change
            }

            #[inline(always)]
            fn readdress<P: Packet>(
                packet: &mut P,
                ip: &Ip<Self>,
                source: Self,
                destination: Self,
            ) -> bool {
                readdress6(packet, ip, source, destination)
            }

            #[inline(always)]
            fn rewrite<P: Packet>(
                packet: &mut P,
                ip: &Ip<Self>,
                old: &Tuple<Self>,
                new: &Tuple<Self>,
            ) -> bool {
                rewrite6(packet, ip, old, new)
            }

            #[inline(always)]
            fn is_of_the_link<P: Packet>(packet: &P, ip: &Ip<Self>) -> bool {
                let kind: fn(&Self) -> [u8; 2] = $kind;
                ip.protocol == ICMP6 && !ip.fragment && of_the_link(packet, kind(&ip.destination), ip.payload)
            }
        }
    };
}

ipv6_family!([u8; 16], |a| [a[0], a[1]]);
ipv6_family!(Words, |a| a.kind());

/// Whether an ICMPv6 message is of neighbour discovery or a listener's report, to the link's groups or
/// to a neighbour.
#[inline(always)]
fn of_the_link<P: Packet>(packet: &P, destination: [u8; 2], payload: u32) -> bool {
    const LISTENERS: [u8; 2] = [130, 132];
    const DISCOVERY: [u8; 2] = [133, 136];
    const LISTENERS_2: u8 = 143;
    let to_group = destination[0] == 0xff && destination[1] & 0x0f <= 2;
    let to_neighbour = destination[0] == 0xfe && destination[1] & 0xc0 == 0x80;
    if !(to_group || to_neighbour) {
        return false;
    }
    let Some([kind]) = packet.load::<1>(payload) else { return false };
    (LISTENERS[0] <= kind && kind <= LISTENERS[1])
        || (DISCOVERY[0] <= kind && kind <= DISCOVERY[1])
        || kind == LISTENERS_2
}
