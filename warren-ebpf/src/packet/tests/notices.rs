use super::{
    notice::{QUOTE, Quoted, read, requote},
    *,
};

/// An ICMP error about a packet, as etherparse makes it.
#[derive(Debug, Clone)]
struct Error<A> {
    from: A,
    to: A,
    kind: u8,
    about: Made<A>,
    /// How much of the packet after its IP header is quoted, at least and at most what is there.
    quoted: usize,
}

impl<A: Known> Error<A> {
    fn bytes(&self) -> Vec<u8> {
        let tuple = Tuple { source: self.from, destination: self.to, source_port: 1, destination_port: 1 };
        let outer = Made { tuple, protocol: A::ICMP, options: 0, payload: Vec::new() };
        let inner = &self.about.bytes()[LINK..];
        let length = (A::header_length(&self.about) + self.quoted).min(inner.len());
        A::error(PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(&outer)), self.kind, &inner[..length])
    }
}

fn error<A: Known>() -> impl Strategy<Value = Error<A>> {
    // Nobody quotes half a checksum.
    (any::<A>(), any::<A>(), any::<u8>(), made::<A>(), (4usize..60).prop_map(|n| 2 * n))
        .prop_map(|(from, to, kind, about, quoted)| Error { from, to, kind, about, quoted })
}

/// What is translated is what etherparse makes of the new tuple, and translating back restores every byte.
fn there_and_back<A: Known>(error: Error<A>, mut new: Tuple<A>, to: A) -> Result<(), TestCaseError> {
    let original = error.bytes();
    let mut bytes = original.clone();
    let ip = A::header(&Bytes(&mut bytes), LINK as u32).unwrap();
    let mut quoted = Quoted::default();
    prop_assert!(read(&Bytes(&mut bytes), &ip, &mut quoted));
    prop_assert_eq!(quoted.tuple, error.about.tuple);
    if error.about.protocol == A::ICMP {
        if quoted.tuple.source_port == 0 { new.source_port = 0 } else { new.destination_port = 0 }
    }
    let ends = |destination| Tuple { source: error.from, destination, source_port: 0, destination_port: 0 };
    let (old, shown) = (ends(error.to), ends(to));
    quoted.to = new;
    prop_assert!(requote(&mut Bytes(&mut bytes), &ip, &quoted));
    prop_assert!(A::rewrite(&mut Bytes(&mut bytes), &ip, &old, &shown));
    assert_valid::<A>(&bytes);
    let about = Made { tuple: new, ..error.about.clone() };
    prop_assert_eq!(&bytes, &Error { to, about, ..error }.bytes());
    let original_tuple = quoted.tuple;
    let ip = A::header(&Bytes(&mut bytes), LINK as u32).unwrap();
    let mut back = Quoted::default();
    prop_assert!(read(&Bytes(&mut bytes), &ip, &mut back));
    prop_assert_eq!(back.tuple, new);
    back.to = original_tuple;
    prop_assert!(requote(&mut Bytes(&mut bytes), &ip, &back));
    prop_assert!(A::rewrite(&mut Bytes(&mut bytes), &ip, &shown, &old));
    prop_assert_eq!(bytes, original);
    Ok(())
}

/// What tells a sender that its packet is too big is what etherparse makes, and is understood.
fn told_too_big<A: Known>(mut made: Made<A>, from: A, mtu: u16) -> Result<(), TestCaseError> {
    made.payload.resize(600, 7);
    let packet = made.bytes();
    let quote: [u8; QUOTE] = packet[LINK..LINK + QUOTE].try_into().unwrap();
    let mut bytes = packet[..LINK].to_vec();
    bytes.extend(A::too_big(from, made.tuple.source, mtu.into(), &quote).as_ref());
    bytes.extend(quote);
    assert_valid::<A>(&bytes);
    let ip = A::header(&Bytes(&mut bytes), LINK as u32).unwrap();
    prop_assert_eq!((ip.source, ip.destination, ip.protocol), (from, made.tuple.source, A::ICMP));
    let mut quoted = Quoted::default();
    prop_assert!(read(&Bytes(&mut bytes), &ip, &mut quoted));
    prop_assert_eq!(quoted.tuple, made.tuple);
    match SlicedPacket::from_ethernet(&bytes).unwrap().transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => prop_assert_eq!(
            icmp.icmp_type(),
            etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu }
            )
        ),
        TransportSlice::Icmpv6(icmp) => {
            prop_assert_eq!(icmp.icmp_type(), etherparse::Icmpv6Type::PacketTooBig { mtu: mtu.into() });
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

/// Whatever has less than a header and eight bytes of the packet is not understood.
fn cut_is_refused<A: Known>(error: Error<A>, keep: f64) -> Result<(), TestCaseError> {
    let inner = A::header_length(&error.about) + 8;
    let about = &error.about.bytes()[LINK..][..(inner as f64 * keep) as usize];
    let tuple = Tuple { source: error.from, destination: error.to, source_port: 1, destination_port: 1 };
    let outer = Made { tuple, protocol: A::ICMP, options: 0, payload: Vec::new() };
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(&outer));
    let mut bytes = A::error(builder, error.kind, about);
    // What the link has put behind the packet is not of it.
    bytes.resize(bytes.len() + 40, 7);
    let ip = A::header(&Bytes(&mut bytes), LINK as u32).unwrap();
    prop_assert!(!read(&Bytes(&mut bytes), &ip, &mut Quoted::default()));
    Ok(())
}

proptest! {
    #[test]
    fn translating_there_and_back_is_identity(error in error::<V4>(), new in tuple(), to: V4) {
        there_and_back(error, new, to)?;
    }

    #[test]
    fn translating_there_and_back_is_identity_in_ipv6(error in error::<V6>(), new in tuple(), to: V6) {
        there_and_back(error, new, to)?;
    }

    #[test]
    fn a_sender_is_told_the_mtu(made in made::<V4>(), from: V4, mtu in 576u16..) {
        told_too_big(made, from, mtu)?;
    }

    #[test]
    fn a_sender_is_told_the_mtu_in_ipv6(made in made::<V6>(), from: V6, mtu in 1280u16..) {
        told_too_big(made, from, mtu)?;
    }

    #[test]
    fn what_is_cut_is_refused(error in error::<V4>(), keep in 0.0f64..1.0) {
        cut_is_refused(error, keep)?;
    }

    #[test]
    fn what_is_cut_is_refused_in_ipv6(error in error::<V6>(), keep in 0.0f64..1.0) {
        cut_is_refused(error, keep)?;
    }

    /// Arbitrary bytes in an error: no panic, and a translation that goes back.
    #[test]
    fn noise_in_errors(mut about in prop::collection::vec(any::<u8>(), 0..160), v6: bool, new in tuple::<V4>(), new6 in tuple::<V6>()) {
        if let Some(version) = about.first_mut() {
            *version = if v6 { 0x60 } else { 0x45 };
        }
        if let Some(protocol) = about.get_mut(if v6 { 6 } else { 9 }) {
            *protocol = [TCP, UDP, ICMP, ICMP6, 0, 44][usize::from(*protocol) % 6];
        }
        if v6 { noise::<V6>(&about, new6)? } else { noise::<V4>(&about, new)? }
    }

    /// A quoted UDP header without checksum stays one.
    #[test]
    fn an_absent_checksum_stays_absent(error in error::<V4>(), new in tuple::<V4>()) {
        let about = Made { protocol: UDP, ..error.about };
        prop_assume!(about.tuple.source_port != 0 && about.tuple.destination_port != 0);
        let check = LINK + 20 + 8 + V4::header_length(&about) + 6;
        let mut bytes = Error { about, ..error }.bytes();
        bytes[check..check + 2].fill(0);
        bytes[LINK + 22..LINK + 24].fill(0);
        let right = !sum(&bytes[LINK + 20..]);
        bytes[LINK + 22..LINK + 24].copy_from_slice(&right.to_be_bytes());
        let ip = ipv4(&Bytes(&mut bytes), LINK as u32).unwrap();
        let mut quoted = Quoted::default();
        prop_assert!(read(&Bytes(&mut bytes), &ip, &mut quoted));
        quoted.to = new;
        prop_assert!(requote(&mut Bytes(&mut bytes), &ip, &quoted));
        prop_assert_eq!(&bytes[check..check + 2], &[0, 0]);
        assert_valid::<V4>(&bytes);
    }
}

fn noise<A: Known>(about: &[u8], new: Tuple<A>) -> Result<(), TestCaseError> {
    let tuple = Tuple { source_port: 1, destination_port: 1, ..new };
    let outer = Made { tuple, protocol: A::ICMP, options: 0, payload: Vec::new() };
    let mut bytes = A::error(PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(&outer)), 0, about);
    let ip = A::header(&Bytes(&mut bytes), LINK as u32).unwrap();
    let mut quoted = Quoted::default();
    if !read(&Bytes(&mut bytes), &ip, &mut quoted) {
        return Ok(());
    }
    // Of an echo, one number.
    let one = |n, was| if was == 0 { 0 } else { n };
    quoted.to = Tuple {
        source_port: one(new.source_port, quoted.tuple.source_port),
        destination_port: one(new.destination_port, quoted.tuple.destination_port),
        ..new
    };
    prop_assert!(requote(&mut Bytes(&mut bytes), &ip, &quoted));
    assert_valid::<A>(&bytes);
    let mut again = Quoted::default();
    prop_assert!(read(&Bytes(&mut bytes), &ip, &mut again));
    prop_assert_eq!(again.tuple, quoted.to);
    Ok(())
}

/// Of a fragmented packet the first piece has the ports.
#[test]
fn the_first_fragment_is_understood_and_later_ones_are_not() {
    let tuple = Tuple { source: [1; 4], destination: [2; 4], source_port: 3, destination_port: 4 };
    let about = Made { tuple, protocol: UDP, options: 0, payload: Vec::from([0; 64]) };
    for (flags, understood) in [(0x4000u16, true), (0x2000, true), (0x2001, false), (0x0001, false)] {
        let error = Error { from: [3; 4], to: [1; 4], kind: 0, about: about.clone(), quoted: 8 };
        let mut bytes = error.bytes();
        bytes[LINK + 28 + 6..LINK + 28 + 8].copy_from_slice(&flags.to_be_bytes());
        let ip = ipv4(&Bytes(&mut bytes), LINK as u32).unwrap();
        assert_eq!(read(&Bytes(&mut bytes), &ip, &mut Quoted::default()), understood, "{flags:x}");
    }
}
