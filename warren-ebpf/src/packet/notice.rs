//! ICMP errors: the packet that one quotes, and its translation. At least the first eight bytes of
//! what follows the quoted IP header are there (RFC 792); often no more.

use super::{Family, Ip, Packet, Tuple, parse::be};
use crate::abi::{Address, ICMP, ICMP6, TCP, UDP};

/// Length of an ICMP header: the quoted packet begins after it.
pub const HEADER: u32 = 8;

/// What is surely quoted of a transport header.
const QUOTED: u32 = 8;

/// How much of a packet the errors made here quote: headers with some options, and more than what follows
/// them must be there of.
pub const QUOTE: usize = 128;

/// The packet that an ICMP error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quoted<A> {
    /// Its header; [`Ip::length`] is what it had, not what is quoted.
    pub ip: Ip<A>,
    /// Its ends.
    pub tuple: Tuple<A>,
    /// What it must show.
    pub to: Tuple<A>,
}

/// Reads what the ICMP error in the payload of `ip` quotes. False: it is none, or about something without ports
/// that we know.
#[inline(always)]
pub fn read<P: Packet, A: Family>(packet: &P, ip: &Ip<A>, quoted: &mut Quoted<A>) -> bool {
    let Some([kind]) = packet.load::<1>(ip.payload) else { return false };
    if !A::is_error(kind) || ip.length < HEADER {
        return false;
    }
    let Some(inner) = A::quoted_header(packet, ip.payload + HEADER) else { return false };
    quoted.ip = inner;
    if inner.payload + QUOTED > ip.payload + ip.length || (inner.fragment && !A::is_first(packet, &inner)) {
        return false;
    }
    let Some(h) = packet.load::<8>(inner.payload) else { return false };
    let (source_port, destination_port) = match inner.protocol {
        TCP | UDP => (be(h[0], h[1]), be(h[2], h[3])),
        protocol if protocol == A::ICMP && h[0] == A::ECHO_REQUEST => (be(h[4], h[5]), 0),
        protocol if protocol == A::ICMP && h[0] == A::ECHO_REPLY => (0, be(h[4], h[5])),
        _ => return false,
    };
    quoted.tuple =
        Tuple { source: inner.source, destination: inner.destination, source_port, destination_port };
    true
}

/// Turns what an ICMP error quotes into `quoted.to`, its checksums and the error's included; not what the
/// error itself shows ([`Family::rewrite`] does that). After `false` the packet is half changed.
#[inline(always)]
#[must_use]
pub fn requote<P: Packet, A: Family>(packet: &mut P, ip: &Ip<A>, quoted: &Quoted<A>) -> bool {
    let (inner, from, to) = (&quoted.ip, &quoted.tuple, &quoted.to);
    let (check, ports, pseudo) = match inner.protocol {
        TCP => (16, [0, 2], true),
        UDP => (6, [0, 2], true),
        // The identifier is where both "ports" are.
        _ => (2, [4, 4], A::FAMILY == 6),
    };
    // The change of what the error's checksum is over, as a sum that is folded at the end.
    let mut change = 0;
    let mut address = 0;
    if from.source != to.source {
        address += difference(&from.source, &to.source);
    }
    if from.destination != to.destination {
        address += difference(&from.destination, &to.destination);
    }
    if !A::readdress(packet, inner, to.source, to.destination) {
        return false;
    }
    change += A::uncovered(address);
    let mut port = 0;
    for (n, from, to) in
        [(0, from.source_port, to.source_port), (1, from.destination_port, to.destination_port)]
    {
        if from != to {
            port += u32::from(!from) + u32::from(to);
            if !packet.store(inner.payload + ports[n], to.to_be_bytes()) {
                return false;
            }
        }
    }
    change += port;
    if inner.payload + check + 2 <= ip.payload + ip.length {
        let Some(old) = packet.load(inner.payload + check) else { return false };
        let old = u16::from_be_bytes(old);
        // Of UDP: 0 is none.
        if old != 0 || inner.protocol != UDP {
            let mut new = !fold(u32::from(!old) + port + if pseudo { address } else { 0 });
            if new == 0 && inner.protocol == UDP {
                new = 0xffff;
            }
            change += u32::from(!old) + u32::from(new);
            if !packet.store(inner.payload + check, new.to_be_bytes()) {
                return false;
            }
        }
    }
    packet.fix_segment(ip.payload + 2, [0; 2], fold(change).to_be_bytes(), false)
}

/// "Fragmentation needed", see [`Family::too_big`].
#[inline(always)]
pub(super) fn too_big4(from: [u8; 4], to: [u8; 4], mtu: u32, quote: &[u8; QUOTE]) -> [u8; 28] {
    let mut h = [0; 28];
    // Of network control (RFC 1812), as the kernel's own errors.
    (h[0], h[1]) = (0x45, 0xc0);
    put(&mut h, 2, 28 + QUOTE as u16);
    (h[8], h[9]) = (64, ICMP);
    [h[12], h[13], h[14], h[15]] = from;
    [h[16], h[17], h[18], h[19]] = to;
    (h[20], h[21]) = (3, 4);
    put(&mut h, 26, mtu.min(0xffff) as u16);
    let sum = fold(total(&h, 0, 20));
    put(&mut h, 10, !sum);
    let sum = fold(total(&h, 20, 28) + total(quote, 0, QUOTE));
    put(&mut h, 22, !sum);
    h
}

/// "Packet too big", see [`Family::too_big`].
#[inline(always)]
pub(super) fn too_big6(from: [u8; 16], to: [u8; 16], mtu: u32, quote: &[u8; QUOTE]) -> [u8; 48] {
    const LENGTH: u16 = 8 + QUOTE as u16;
    let mut h = [0; 48];
    h[0] = 0x60;
    put(&mut h, 4, LENGTH);
    (h[6], h[7]) = (ICMP6, 64);
    let mut i = 0;
    while i < 16 {
        (h[8 + i], h[24 + i]) = (from[i], to[i]);
        i += 1;
    }
    h[40] = 2;
    put(&mut h, 44, (mtu >> 16) as u16);
    put(&mut h, 46, mtu as u16);
    let pseudo = u32::from(LENGTH) + u32::from(ICMP6);
    let sum = fold(pseudo + total(&h, 8, 48) + total(quote, 0, QUOTE));
    put(&mut h, 42, !sum);
    h
}

#[inline(always)]
fn put<const N: usize>(bytes: &mut [u8; N], at: usize, value: u16) {
    [bytes[at], bytes[at + 1]] = value.to_be_bytes();
}

/// The sum of the half words from `from` to before `to`.
#[inline(always)]
fn total<const N: usize>(bytes: &[u8; N], from: usize, to: usize) -> u32 {
    let (mut sum, mut i) = (0, from);
    while i < to {
        sum += u32::from(be(bytes[i], bytes[i + 1]));
        i += 2;
    }
    sum
}

/// What a sum over an address changes by.
#[inline(always)]
fn difference<A: Address>(from: &A, to: &A) -> u32 {
    let (from, to) = (from.widen(), to.widen());
    let mut sum = 0;
    let mut i = 0;
    while i < 16 {
        sum += u32::from(!be(from[i], from[i + 1])) + u32::from(be(to[i], to[i + 1]));
        i += 2;
    }
    sum
}

/// A ones' complement sum in one half word.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
