//! What differs between the headers of the two families.

use super::{Ip, Packet, Tuple, ipv4, ipv6, rewrite4, rewrite6};
use crate::abi::{Address, ICMP6, Words};

/// An address whose family's packets can be read and changed.
pub trait Family: Address {
    /// ICMP type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;

    /// Reads the IP header at `offset`.
    fn header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>>;

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

    #[inline(always)]
    fn header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>> {
        ipv4(packet, offset)
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

            #[inline(always)]
            fn header<P: Packet>(packet: &P, offset: u32) -> Option<Ip<Self>> {
                ipv6(packet, offset)
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
