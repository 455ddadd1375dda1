//! Every layout, byte by byte and in both families: what is pinned on a node was written by another
//! build, and `bpftool` users read it by these offsets.

use super::*;

type V4 = [u8; 4];
type V6 = [u8; 16];

/// Checks the size of a struct, that these are all its fields, and where they lie.
macro_rules! lies {
    ($of:ty, $size:expr, $($field:ident $offset:expr),+) => {{
        let name = stringify!($of);
        assert_eq!(size_of::<$of>(), $size, "size of {name}");
        $(assert_eq!(core::mem::offset_of!($of, $field), $offset, "{name}, {}", stringify!($field));)+
        assert_ne!(<$of>::HASH, 0, "evaluated: it refuses hidden padding");
        // Exhaustive: a new field must be named here.
        type Whole = $of;
        let Whole { $($field: _),+ } = Whole::default();
    }};
}

#[test]
fn of_one_family() {
    lies!(Config, 72, netns_cookie 0, flags 8, hairpin 12, half_open 16, established 20, closing 24,
        closed 28, udp_one_way 32, udp_both_ways 36, icmp 40, masquerade_first 44, masquerade_last 46,
        containers 48, containers_mask 52, containers6 56, containers6_mask 64);
    lies!(Schema, 16, magic 0, version 4, abi_hash 8);
    lies!(BackendRef, 8, id 0, generation 4);
    lies!(Backend, 40, generation 0, ifindex 4, node 8, address 12, address6 16, mac 32, state 38, flags 39);
    lies!(Local, 4, ifindex 0);
    lies!(Mac, 8, address 0, pad 6);
    lies!(Forward, 16, backend 0, backend_port 8, client_port 10, flags 12, turn 13, seat 14);
    lies!(Service, 32 + size_of::<ServicePad>(), id 0, generation 4, single 8, table 16, table_size 20,
        target 24, flags 26, sources 28, pad 32);
    lies!(Limit, 20, flow_spacing 0, flow_burst 4, packet_spacing 8, packet_burst 12, connections 16);
    lies!(ClientKey, 16, service 0, port 4, protocol 6, pad 7, network 8);
    lies!(Client, 24, flows 0, packets 8, seats 16);
    lies!(SeatKey, 20, client 0, seat 16);
    lies!(Gate, 8, clients 0);
    lies!(DropCounter, 16, packets 0, reported 8);
    lies!(Event, 64, time 0, kind 8, reason 12, ifindex 16, length 20, source 24, destination 40,
        source_port 56, destination_port 58, protocol 60, family 61, pad 62);
}

#[test]
fn of_ipv4() {
    lies!(ServiceKey<V4>, 8, address 0, port 4, protocol 6, pad 7);
    lies!(Route<V4>, 16, ifindex 0, source 4, flags 8, mtu 12);
    lies!(Traffic, 24, received 0, sent 8, received_packets 16, sent_packets 20);
    lies!(FlowKey<V4>, 16, client 0, backend 4, client_port 8, backend_port 10, protocol 12, pad 13);
    lies!(Flow<V4>, 72, last_seen 0, backend 8, ifindex 16, service 20, published 24, client 28,
        published_port 32, client_port 34, state 36, flags 37, seat 38, expected 40, turn 44, pad 45,
        traffic 48);
    lies!(Seat<V4>, 24, taken 0, flow 8);
    lies!(ForwardKey<V4>, 16, client 0, published 4, client_port 8, published_port 10, protocol 12, pad 13);
    lies!(ReturnKey<V4>, 16, remote 0, local 4, remote_port 8, local_port 10, protocol 12, pad 13);
    lies!(Return<V4>, 56, last_seen 0, backend 8, container 16, container_port 20, state 22, flags 23, pad 24, began 24,
        traffic 32);
    lies!(EgressKey<V4>, 16, container 0, remote 4, container_port 8, remote_port 10, protocol 12, pad 13);
    lies!(Egress<V4>, 8, local 0, local_port 4, pad 6);
    lies!(PieceKey<V4>, 20, source 0, destination 4, id 8, from 12, protocol 16);
    lies!(Piece<V4>, 24, last_seen 0, ifindex 8, container 12, source 16, destination 20);
    lies!(SocketPeer<V4>, 12, address 0, port 4, backend_port 6, backend_address 8);
    lies!(SocketKey<V4>, 16, cookie 0, address 8, port 12, side 14, pad 16);
    lies!(SocketFlow<V4>, 16, backend 0, address 8, port 12, pad 14);
}

#[test]
fn of_ipv6() {
    lies!(ServiceKey<V6>, 20, address 0, port 16, protocol 18, pad 19);
    lies!(Route<V6>, 28, ifindex 0, source 4, flags 20, mtu 24);
    lies!(FlowKey<V6>, 40, client 0, backend 16, client_port 32, backend_port 34, protocol 36, pad 37);
    lies!(Flow<V6>, 96, last_seen 0, backend 8, ifindex 16, service 20, published 24, client 40,
        published_port 56, client_port 58, state 60, flags 61, seat 62, expected 64, turn 68, pad 69,
        traffic 72);
    lies!(Seat<V6>, 48, taken 0, flow 8);
    lies!(ForwardKey<V6>, 40, client 0, published 16, client_port 32, published_port 34, protocol 36, pad 37);
    lies!(ReturnKey<V6>, 40, remote 0, local 16, remote_port 32, local_port 34, protocol 36, pad 37);
    lies!(Return<V6>, 72, last_seen 0, backend 8, container 16, container_port 32, state 34, flags 35, pad 36, began 40,
        traffic 48);
    lies!(EgressKey<V6>, 40, container 0, remote 16, container_port 32, remote_port 34, protocol 36, pad 37);
    lies!(Egress<V6>, 20, local 0, local_port 16, pad 18);
    lies!(PieceKey<V6>, 44, source 0, destination 16, id 32, from 36, protocol 40);
    lies!(Piece<V6>, 48, last_seen 0, ifindex 8, container 12, source 16, destination 32);
    lies!(SocketPeer<V6>, 36, address 0, port 16, backend_port 18, backend_address 20);
    lies!(SocketKey<V6>, 32, cookie 0, address 8, port 24, side 26, pad 28);
    lies!(SocketFlow<V6>, 28, backend 0, address 8, port 24, pad 26);
}

/// Every struct with an IPv6 address in it is the same in memory whichever way the address is seen.
#[test]
fn words_are_octets() {
    type W = Words;
    lies!(ServiceKey<W>, 20, address 0, port 16, protocol 18, pad 19);
    lies!(Route<W>, 28, ifindex 0, source 4, flags 20, mtu 24);
    lies!(FlowKey<W>, 40, client 0, backend 16, client_port 32, backend_port 34, protocol 36, pad 37);
    lies!(Flow<W>, 96, last_seen 0, backend 8, ifindex 16, service 20, published 24, client 40,
        published_port 56, client_port 58, state 60, flags 61, seat 62, expected 64, turn 68, pad 69,
        traffic 72);
    lies!(Seat<W>, 48, taken 0, flow 8);
    lies!(ForwardKey<W>, 40, client 0, published 16, client_port 32, published_port 34, protocol 36, pad 37);
    lies!(ReturnKey<W>, 40, remote 0, local 16, remote_port 32, local_port 34, protocol 36, pad 37);
    lies!(Return<W>, 72, last_seen 0, backend 8, container 16, container_port 32, state 34, flags 35, pad 36, began 40,
        traffic 48);
    lies!(EgressKey<W>, 40, container 0, remote 16, container_port 32, remote_port 34, protocol 36, pad 37);
    lies!(Egress<W>, 20, local 0, local_port 16, pad 18);
    lies!(SocketPeer<W>, 36, address 0, port 16, backend_port 18, backend_address 20);
}

proptest::proptest! {
    #[test]
    fn words_say_what_octets_say(mut octets: [u8; 16], kind in 0..6, other: [u8; 16]) {
        match kind {
            0 => octets[0] = 0xff,
            1 => (octets[0], octets[1]) = (0xfe, 0x80 | octets[1] & 0x3f),
            2 => octets[0] = 0xfe,
            3 => octets[..15].fill(0),
            4 => octets = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, octets[0] & 3],
            _ => {}
        }
        let words = Words::new(octets);
        proptest::prop_assert_eq!(words.octets(), octets);
        proptest::prop_assert_eq!(words.widen(), octets.widen());
        proptest::prop_assert_eq!(words.fold(), octets.fold());
        proptest::prop_assert_eq!(words.undeliverable(), octets.undeliverable());
        proptest::prop_assert_eq!(words.network(), octets.network());
        proptest::prop_assert_eq!(words.as_ref(), &octets[..]);
        let mut half = [0; 8];
        half.copy_from_slice(&other[..8]);
        for bits in [0, 16, 48, 64] {
            let mask = u64::MAX.checked_shl(64 - bits).unwrap_or(0).to_be_bytes();
            let containers = Config { containers6: half, containers6_mask: mask, ..Config::DEFAULT };
            let same = bits == 0 || (0..bits as usize).all(|i| (octets[i / 8] ^ other[i / 8]) & (0x80 >> (i % 8)) == 0);
            proptest::prop_assert_eq!(octets.may_be_inside(&containers), same);
            proptest::prop_assert_eq!(words.may_be_inside(&containers), same);
        }
        proptest::prop_assert_eq!(words == Words::new(other), octets == other);
        let config = Config { hairpin: [octets[0], octets[1], octets[2], octets[3]], ..Config::DEFAULT };
        proptest::prop_assert_eq!(Words::hairpin(&config).octets(), V6::hairpin(&config));
        let backend = Backend { address6: octets, ..Backend::default() };
        proptest::prop_assert_eq!(Words::of(&backend).octets(), V6::of(&backend));
    }
}
