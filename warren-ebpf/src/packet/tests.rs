extern crate std;

use std::vec::Vec;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::abi::{ICMP, TCP, UDP};

const LINK: usize = 14;

/// A packet, as etherparse makes it: the reference.
#[derive(Debug, Clone)]
struct Made {
    tuple: Tuple<[u8; 4]>,
    protocol: u8,
    options: usize,
    payload: Vec<u8>,
}

impl Made {
    fn bytes(&self) -> Vec<u8> {
        let t = &self.tuple;
        let mut ip = etherparse::Ipv4Header::new(0, 64, 0.into(), t.source, t.destination).unwrap();
        ip.options = etherparse::Ipv4Options::try_from(&[1u8; 40][..self.options * 4]).unwrap();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()));
        let mut out = Vec::new();
        match self.protocol {
            TCP => builder.tcp(t.source_port, t.destination_port, 7, 1024).write(&mut out, &self.payload),
            UDP => builder.udp(t.source_port, t.destination_port).write(&mut out, &self.payload),
            _ if t.source_port != 0 => {
                builder.icmpv4_echo_request(t.source_port, 3).write(&mut out, &self.payload)
            }
            _ => builder.icmpv4_echo_reply(t.destination_port, 3).write(&mut out, &self.payload),
        }
        .unwrap();
        out
    }
}

prop_compose! {
    fn tuple()(source: [u8; 4], destination: [u8; 4], source_port in 1u16.., destination_port in 1u16..)
        -> Tuple<[u8; 4]>
    {
        Tuple { source, destination, source_port, destination_port }
    }
}

prop_compose! {
    fn made()(
        mut tuple in tuple(),
        protocol in prop_oneof![Just(TCP), Just(UDP), Just(ICMP)],
        options in 0usize..=10,
        payload in prop::collection::vec(any::<u8>(), 0..80),
        reply: bool,
    ) -> Made {
        if protocol == ICMP {
            if reply { tuple.source_port = 0 } else { tuple.destination_port = 0 }
        }
        Made { tuple, protocol, options, payload }
    }
}

/// Checks header and transport checksums with etherparse's own arithmetic.
fn assert_valid(bytes: &[u8]) {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP header checksum");
    match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let want = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap();
            assert_eq!(tcp.checksum(), want, "TCP checksum");
        }
        TransportSlice::Udp(udp) => {
            let want = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
            assert!(udp.checksum() == 0 || udp.checksum() == want, "UDP checksum");
        }
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()), "ICMP checksum");
        }
        other => panic!("{other:?} was not made here"),
    }
}

proptest! {
    /// Translated packets are those that etherparse makes from the new tuple, and translating back
    /// restores every byte.
    #[test]
    fn rewriting_there_and_back_is_identity(made in made(), new in tuple()) {
        let original = made.bytes();
        let mut bytes = original.clone();
        let ip = ipv4(&Bytes(&mut bytes), LINK as u32).unwrap();
        let segment = transport(&Bytes(&mut bytes), &ip).unwrap();
        let old = Tuple::of(&ip, &segment);
        prop_assert_eq!(old, made.tuple);
        prop_assert_eq!(ip.length as usize, bytes.len() - LINK - 20 - made.options * 4);
        let mut new = new;
        if made.protocol == ICMP {
            if old.source_port == 0 { new.source_port = 0 } else { new.destination_port = 0 }
        }
        prop_assert!(rewrite4(&mut Bytes(&mut bytes), &ip, &old, &new));
        assert_valid(&bytes);
        prop_assert_eq!(&bytes, &Made { tuple: new, ..made }.bytes());
        prop_assert!(rewrite4(&mut Bytes(&mut bytes), &ip, &new, &old));
        prop_assert_eq!(bytes, original);
    }

    /// A UDP packet without checksum stays one.
    #[test]
    fn absent_udp_checksum_stays_absent(made in made(), new in tuple()) {
        let made = Made { protocol: UDP, ..made };
        prop_assume!(made.tuple.source_port != 0 && made.tuple.destination_port != 0);
        let mut bytes = made.bytes();
        let ip = ipv4(&Bytes(&mut bytes), LINK as u32).unwrap();
        let check = ip.payload as usize + 6;
        bytes[check..check + 2].fill(0);
        prop_assert!(rewrite4(&mut Bytes(&mut bytes), &ip, &made.tuple, &new));
        prop_assert_eq!(&bytes[check..check + 2], &[0, 0]);
        assert_valid(&bytes);
    }

    /// Whatever is cut off is refused, at every length.
    #[test]
    fn cut_packets_are_refused(made in made(), keep in 0.0f64..1.0) {
        let mut bytes = made.bytes();
        let keep = (bytes.len() as f64 * keep) as usize;
        bytes.truncate(keep);
        let packet = Bytes(&mut bytes);
        let understood = ipv4(&packet, LINK as u32).and_then(|ip| transport(&packet, &ip));
        prop_assert!(understood.is_none());
    }

    /// Arbitrary bytes: no panic, and what we understand etherparse understands likewise.
    #[test]
    fn noise(mut bytes in prop::collection::vec(any::<u8>(), 0..120), tame: bool) {
        if tame && bytes.len() > 24 {
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            let total = (bytes.len() - LINK) as u16;
            bytes[16..18].copy_from_slice(&total.to_be_bytes());
            bytes[20..22].fill(0);
            bytes[23] = [TCP, UDP, ICMP][usize::from(bytes[23]) % 3];
        }
        let copy = bytes.clone();
        let packet = Bytes(&mut bytes);
        if let Some(ip) = ipv4(&packet, LINK as u32)
            && let Some(segment) = transport(&packet, &ip)
        {
            let other = etherparse::Ipv4HeaderSlice::from_slice(&copy[LINK..]).unwrap();
            prop_assert_eq!(ip.source, other.source());
            prop_assert_eq!(ip.destination, other.destination());
            prop_assert!(!other.is_fragmenting_payload());
            if ip.protocol == TCP {
                let tcp = etherparse::TcpHeaderSlice::from_slice(&copy[ip.payload as usize..]).unwrap();
                prop_assert_eq!(segment.source_port, tcp.source_port());
                prop_assert_eq!(segment.destination_port, tcp.destination_port());
                prop_assert_eq!(segment.flags & SYN != 0, tcp.syn());
                prop_assert_eq!(segment.flags & ACK != 0, tcp.ack());
                let payload = ip.length - tcp.slice().len() as u32;
                let counted = payload + u32::from(tcp.syn()) + u32::from(tcp.fin());
                prop_assert_eq!(segment.next, tcp.sequence_number().wrapping_add(counted));
                prop_assert_eq!(segment.acknowledgement, tcp.acknowledgment_number());
            }
        }
    }
}

#[test]
fn fragments_have_no_ports() {
    let tuple = Tuple { source: [1; 4], destination: [2; 4], source_port: 3, destination_port: 4 };
    let made = Made { tuple, protocol: UDP, options: 0, payload: Vec::from([0; 64]) };
    for (flags, fragment) in [(0x0000u16, false), (0x4000, false), (0x2000, true), (0x0001, true)] {
        let mut bytes = made.bytes();
        bytes[LINK + 6..LINK + 8].copy_from_slice(&flags.to_be_bytes());
        let packet = Bytes(&mut bytes);
        let ip = ipv4(&packet, LINK as u32).unwrap();
        assert_eq!(ip.fragment, fragment);
        assert_eq!(transport(&packet, &ip).is_none(), fragment);
    }
}

#[test]
fn merged_segments_may_exceed_the_length_field() {
    let tuple = Tuple { source: [1; 4], destination: [2; 4], source_port: 3, destination_port: 4 };
    let made = Made { tuple, protocol: TCP, options: 0, payload: Vec::new() };
    let mut bytes = made.bytes();
    bytes.resize(100_000, 0);
    bytes[LINK + 2..LINK + 4].fill(0);
    let ip = ipv4(&Bytes(&mut bytes), LINK as u32).unwrap();
    assert_eq!(ip.length as usize, 100_000 - LINK - 20);
    bytes.truncate(1000);
    assert!(ipv4(&Bytes(&mut bytes), LINK as u32).is_none());
}

#[test]
fn sum_of_a_valid_header_is_all_ones() {
    let header =
        [0x45u8, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
    assert_eq!(sum(&header), 0xffff);
}
