extern crate std;

mod notices;

use std::vec::Vec;

use etherparse::{
    IpHeaders, Ipv6Extensions, Ipv6RawExtHeader, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket,
    TransportSlice,
};
use proptest::prelude::*;

use super::*;
use crate::abi::{ICMP, ICMP6, TCP, UDP};

type V4 = [u8; 4];
type V6 = [u8; 16];

const LINK: usize = 14;

/// A packet, as etherparse makes it: the reference.
#[derive(Debug, Clone)]
struct Made<A> {
    tuple: Tuple<A>,
    protocol: u8,
    /// Words of IPv4 options; of IPv6, which extension headers there are (bits 0 to 2) and how long
    /// the first is.
    options: usize,
    payload: Vec<u8>,
}

/// What tests must know of a family.
trait Known: Family + Arbitrary {
    fn headers(made: &Made<Self>) -> IpHeaders;
    /// Bytes between IP header and payload, and before it.
    fn header_length(made: &Made<Self>) -> usize;
    /// Writes an ICMP error of some kind about a packet.
    fn error(step: PacketBuilderStep<IpHeaders>, kind: u8, quoted: &[u8]) -> Vec<u8>;
    /// Checks header and transport checksums with etherparse's own arithmetic.
    fn assert_valid(ip: &NetSlice<'_>, transport: &TransportSlice<'_>);
}

impl Known for V4 {
    fn headers(made: &Made<V4>) -> IpHeaders {
        let t = &made.tuple;
        let mut ip = etherparse::Ipv4Header::new(0, 64, 0.into(), t.source, t.destination).unwrap();
        ip.options = etherparse::Ipv4Options::try_from(&[1u8; 40][..made.options * 4]).unwrap();
        IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default())
    }

    fn header_length(made: &Made<V4>) -> usize {
        20 + made.options * 4
    }

    fn error(step: PacketBuilderStep<IpHeaders>, kind: u8, quoted: &[u8]) -> Vec<u8> {
        use etherparse::{Icmpv4Type as Type, icmpv4::*};
        let kind = match kind % 4 {
            0 => Type::DestinationUnreachable(DestUnreachableHeader::Port),
            1 => Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu: 1280,
            }),
            2 => Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
            _ => Type::ParameterProblem(ParameterProblemHeader::PointerIndicatesError(9)),
        };
        let mut out = Vec::new();
        step.icmpv4(kind).write(&mut out, quoted).unwrap();
        out
    }

    fn assert_valid(ip: &NetSlice<'_>, transport: &TransportSlice<'_>) {
        let NetSlice::Ipv4(ip) = ip else { panic!("not IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP header checksum");
        match transport {
            TransportSlice::Tcp(tcp) => {
                let want = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap();
                assert_eq!(tcp.checksum(), want, "TCP checksum");
            }
            TransportSlice::Udp(udp) => {
                let want = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                assert!(udp.checksum() == 0 || udp.checksum() == want, "UDP checksum");
            }
            TransportSlice::Icmpv4(icmp) => {
                let want = icmp.icmp_type().calc_checksum(icmp.payload());
                assert_eq!(icmp.checksum(), want, "ICMP checksum");
            }
            other => panic!("{other:?} was not made here"),
        }
    }
}

impl Known for V6 {
    fn headers(made: &Made<V6>) -> IpHeaders {
        let Tuple { source, destination, .. } = made.tuple;
        let ip = etherparse::Ipv6Header { hop_limit: 64, source, destination, ..Default::default() };
        let long = Ipv6RawExtHeader::new_raw(0.into(), &[1; 46][..6 + 8 * (made.options >> 3)]).unwrap();
        let short = Ipv6RawExtHeader::new_raw(0.into(), &[1; 6]).unwrap();
        let mut extensions = Ipv6Extensions::default();
        if made.options & 1 != 0 {
            extensions.hop_by_hop_options = Some(long);
        }
        if made.options & 2 != 0 {
            extensions.destination_options = Some(short);
        }
        if made.options & 4 != 0 {
            extensions.fragment =
                Some(etherparse::Ipv6FragmentHeader::new(0.into(), etherparse::IpFragOffset::ZERO, false, 7));
        }
        IpHeaders::Ipv6(ip, extensions)
    }

    fn header_length(made: &Made<V6>) -> usize {
        let first = if made.options & 1 != 0 { 8 + 8 * (made.options >> 3) } else { 0 };
        40 + first + 8 * usize::from(made.options & 2 != 0) + 8 * usize::from(made.options & 4 != 0)
    }

    fn error(step: PacketBuilderStep<IpHeaders>, kind: u8, quoted: &[u8]) -> Vec<u8> {
        use etherparse::{Icmpv6Type as Type, icmpv6::*};
        let kind = match kind % 4 {
            0 => Type::DestinationUnreachable(DestUnreachableCode::Port),
            1 => Type::PacketTooBig { mtu: 1280 },
            2 => Type::TimeExceeded(TimeExceededCode::HopLimitExceeded),
            _ => Type::ParameterProblem(ParameterProblemHeader {
                code: ParameterProblemCode::UnrecognizedNextHeader,
                pointer: 6,
            }),
        };
        let mut out = Vec::new();
        step.icmpv6(kind).write(&mut out, quoted).unwrap();
        out
    }

    fn assert_valid(ip: &NetSlice<'_>, transport: &TransportSlice<'_>) {
        let NetSlice::Ipv6(ip) = ip else { panic!("not IPv6") };
        let header = ip.header().to_header();
        match transport {
            TransportSlice::Tcp(tcp) => {
                let want = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap();
                assert_eq!(tcp.checksum(), want, "TCP checksum");
            }
            TransportSlice::Udp(udp) => {
                let want = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
                assert!(udp.checksum() == 0 || udp.checksum() == want, "UDP checksum");
            }
            TransportSlice::Icmpv6(icmp) => {
                let kind = icmp.icmp_type();
                let want = kind.calc_checksum(header.source, header.destination, icmp.payload()).unwrap();
                assert_eq!(icmp.checksum(), want, "ICMPv6 checksum");
            }
            other => panic!("{other:?} was not made here"),
        }
    }
}

impl<A: Known> Made<A> {
    fn bytes(&self) -> Vec<u8> {
        let t = &self.tuple;
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(self));
        let mut out = Vec::new();
        let request = t.source_port != 0;
        match self.protocol {
            TCP => builder.tcp(t.source_port, t.destination_port, 7, 1024).write(&mut out, &self.payload),
            UDP => builder.udp(t.source_port, t.destination_port).write(&mut out, &self.payload),
            ICMP if request => builder.icmpv4_echo_request(t.source_port, 3).write(&mut out, &self.payload),
            ICMP => builder.icmpv4_echo_reply(t.destination_port, 3).write(&mut out, &self.payload),
            _ if request => builder.icmpv6_echo_request(t.source_port, 3).write(&mut out, &self.payload),
            _ => builder.icmpv6_echo_reply(t.destination_port, 3).write(&mut out, &self.payload),
        }
        .unwrap();
        out
    }
}

fn tuple<A: Known>() -> impl Strategy<Value = Tuple<A>> {
    (any::<A>(), any::<A>(), 1u16.., 1u16..).prop_map(
        |(source, destination, source_port, destination_port)| Tuple {
            source,
            destination,
            source_port,
            destination_port,
        },
    )
}

fn made<A: Known>() -> impl Strategy<Value = Made<A>> {
    let protocol = prop_oneof![Just(TCP), Just(UDP), Just(A::ICMP)];
    (tuple::<A>(), protocol, 0usize..=10, prop::collection::vec(any::<u8>(), 0..80), any::<bool>()).prop_map(
        |(mut tuple, protocol, options, payload, reply)| {
            if protocol == A::ICMP {
                if reply { tuple.source_port = 0 } else { tuple.destination_port = 0 }
            }
            Made { tuple, protocol, options, payload }
        },
    )
}

fn assert_valid<A: Known>(bytes: &[u8]) {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    A::assert_valid(&packet.net.unwrap(), &packet.transport.unwrap());
}

/// Translated packets are those that etherparse makes from the new tuple, and translating back
/// restores every byte.
fn there_and_back<A: Known>(made: Made<A>, mut new: Tuple<A>) -> Result<(), TestCaseError> {
    let original = made.bytes();
    let mut bytes = original.clone();
    let ip = A::header(&Bytes(&mut bytes), LINK as u32).unwrap();
    let segment = transport(&Bytes(&mut bytes), &ip).unwrap();
    let old = Tuple::of(&ip, &segment);
    prop_assert_eq!(old, made.tuple);
    prop_assert_eq!(ip.length as usize, bytes.len() - LINK - A::header_length(&made));
    if made.protocol == A::ICMP {
        if old.source_port == 0 { new.source_port = 0 } else { new.destination_port = 0 }
    }
    prop_assert!(A::rewrite(&mut Bytes(&mut bytes), &ip, &old, &new));
    assert_valid::<A>(&bytes);
    prop_assert_eq!(&bytes, &Made { tuple: new, ..made }.bytes());
    let ip = A::header(&Bytes(&mut bytes), LINK as u32).unwrap();
    prop_assert!(A::rewrite(&mut Bytes(&mut bytes), &ip, &new, &old));
    prop_assert_eq!(bytes, original);
    Ok(())
}

/// Whatever is cut off is refused, at every length.
fn cut_is_refused<A: Known>(made: Made<A>, keep: f64) -> Result<(), TestCaseError> {
    let mut bytes = made.bytes();
    let keep = (bytes.len() as f64 * keep) as usize;
    bytes.truncate(keep);
    let packet = Bytes(&mut bytes);
    let understood = A::header(&packet, LINK as u32).and_then(|ip| transport(&packet, &ip));
    prop_assert!(understood.is_none());
    Ok(())
}

proptest! {
    #[test]
    fn rewriting_there_and_back_is_identity(made in made::<V4>(), new in tuple()) {
        there_and_back(made, new)?;
    }

    #[test]
    fn rewriting_there_and_back_is_identity_in_ipv6(made in made::<V6>(), new in tuple()) {
        there_and_back(made, new)?;
    }

    #[test]
    fn cut_packets_are_refused(made in made::<V4>(), keep in 0.0f64..1.0) {
        cut_is_refused(made, keep)?;
    }

    #[test]
    fn cut_packets_are_refused_in_ipv6(made in made::<V6>(), keep in 0.0f64..1.0) {
        cut_is_refused(made, keep)?;
    }

    /// Arbitrary bytes: no panic, and what we understand etherparse understands likewise.
    #[test]
    fn noise_in_ipv6(mut bytes in prop::collection::vec(any::<u8>(), 0..160), tame: bool) {
        if tame && bytes.len() > LINK + 48 {
            bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            let length = (bytes.len() - LINK - 40) as u16;
            bytes[18..20].copy_from_slice(&length.to_be_bytes());
            let next = [TCP, UDP, ICMP6, 0, 60, 43, 44];
            bytes[20] = next[usize::from(bytes[20]) % 7];
            bytes[54] = next[usize::from(bytes[54]) % 7];
            bytes[55] %= 3;
        }
        let copy = bytes.clone();
        let packet = Bytes(&mut bytes);
        if let Some(ip) = ipv6::<_, V6>(&packet, LINK as u32)
            && let Some(segment) = transport(&packet, &ip)
        {
            let (header, rest) = etherparse::Ipv6Header::from_slice(&copy[LINK..]).unwrap();
            prop_assert_eq!((ip.source, ip.destination), (header.source, header.destination));
            // It knows each extension once, in its place, and one more that we do not pass.
            if let Ok((extensions, next, rest)) = Ipv6Extensions::from_slice(header.next_header, rest)
                && next.0 == ip.protocol
            {
                prop_assert!(!extensions.is_fragmenting_payload());
                prop_assert_eq!(copy.len() - rest.len(), ip.payload as usize);
                if ip.protocol == UDP {
                    let udp = etherparse::UdpHeaderSlice::from_slice(rest).unwrap();
                    prop_assert_eq!(segment.source_port, udp.source_port());
                    prop_assert_eq!(segment.destination_port, udp.destination_port());
                    prop_assert!(etherparse::UdpSlice::from_slice(&rest[..ip.length as usize]).is_ok());
                }
            }
        }
    }

    /// A UDP packet without checksum stays one.
    #[test]
    fn absent_udp_checksum_stays_absent(made in made::<V4>(), new in tuple()) {
        let made = Made { protocol: UDP, ..made };
        prop_assume!(made.tuple.source_port != 0 && made.tuple.destination_port != 0);
        let mut bytes = made.bytes();
        let ip = ipv4(&Bytes(&mut bytes), LINK as u32).unwrap();
        let check = ip.payload as usize + 6;
        bytes[check..check + 2].fill(0);
        prop_assert!(rewrite4(&mut Bytes(&mut bytes), &ip, &made.tuple, &new));
        prop_assert_eq!(&bytes[check..check + 2], &[0, 0]);
        assert_valid::<V4>(&bytes);
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
fn merged_segments_of_ipv6_may_exceed_the_length_field() {
    let tuple = Tuple { source: [1; 16], destination: [2; 16], source_port: 3, destination_port: 4 };
    let made = Made { tuple, protocol: TCP, options: 0, payload: Vec::new() };
    let mut bytes = made.bytes();
    bytes.resize(100_000, 0);
    bytes[LINK + 4..LINK + 6].fill(0);
    let ip = ipv6::<_, V6>(&Bytes(&mut bytes), LINK as u32).unwrap();
    assert_eq!(ip.length as usize, 100_000 - LINK - 40);
    bytes.truncate(1000);
    let packet = Bytes(&mut bytes);
    let ip = ipv6::<_, V6>(&packet, LINK as u32).unwrap();
    assert_eq!((ip.length, transport(&packet, &ip)), (0, None), "a header without a payload");
}

#[test]
fn sum_of_a_valid_header_is_all_ones() {
    let header =
        [0x45u8, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
    assert_eq!(sum(&header), 0xffff);
}
