use super::*;
use crate::abi::{Address as _, ICMP6, ROUTE_PLAIN, Reason};

of_both_families!(
    what_a_container_may_not_do_is_dropped_with_its_reason,
    nobody_outside_reaches_a_container_by_its_own_address,
);

fn from_one<A: Family>(node: &Model<A>, destination: A, port: u16) -> Verdict<A> {
    leave(node, 1, tuple(container(1).0, 5, destination, port), UDP, 0).0
}

fn what_a_container_may_not_do_is_dropped_with_its_reason<A: Family>() {
    let mut node = node::<A>(2);
    let dropped = Verdict::drop;
    assert_eq!(leave(&node, 1, tuple(container(2).0, 5, A::REMOTE, 53), UDP, 0).0, dropped(Reason::Spoofed));
    assert_eq!(leave(&node, 1, tuple(A::NODE, 5, A::REMOTE, 53), UDP, 0).0, dropped(Reason::Spoofed));
    assert_eq!(leave(&node, 7, tuple(container(1).0, 5, A::REMOTE, 53), UDP, 0).0, dropped(Reason::Spoofed));
    for nobodys in A::nobodys() {
        assert_eq!(from_one(&node, *nobodys, 53), dropped(Reason::Multicast));
    }
    assert_eq!(
        from_one(&node, A::unused(), 53),
        dropped(Reason::NoRoute),
        "an address of the pool, nobody's"
    );
    assert_eq!(from_one(&node, A::NODE, 53), Verdict::PASS, "the node itself");
    assert_eq!(
        leave(&node, 1, tuple(container(1).0, 0, A::REMOTE, 9), A::ICMP, 0).0,
        dropped(Reason::NotMasqueraded)
    );
    // An echo's number may be 0: what it is tells a request from a reply.
    let asks = tuple(container(1).0, 0, A::REMOTE, 0);
    assert_eq!(leave(&node, 1, asks, A::ICMP, 0).0.action, Action::Device);
    let mut replies = make(Tuple { destination_port: 9, ..asks }, A::ICMP, 0);
    replies[A::PAYLOAD + 4..A::PAYLOAD + 6].fill(0);
    assert_eq!(node.veth_in(&mut replies, container::<A>(1).1), dropped(Reason::NotMasqueraded));
    node.routes[0].2.source = A::ZERO;
    assert_eq!(from_one(&node, A::REMOTE, 53), dropped(Reason::NoRoute));
    node.routes[0].2.flags = ROUTE_PLAIN;
    let (verdict, shown) = leave(&node, 1, tuple(container(1).0, 5, A::REMOTE, 53), UDP, 0);
    assert_eq!((verdict.action, shown.source), (Action::Device, container(1).0));
    node.routes.clear();
    assert_eq!(from_one(&node, A::REMOTE, 53), dropped(Reason::NoRoute));
}

#[test]
fn fragments_and_broken_packets() {
    let mut node = node::<V4>(1);
    publish(&mut node, [0; 4], 8080, &[1]);
    let broken = |bytes: &mut [u8], flags: u16| bytes[20..22].copy_from_slice(&flags.to_be_bytes());
    for flags in [0x2003, 0x0003] {
        let mut bytes = make(tuple(V4::CLIENT, 1, V4::NODE, 8080), TCP, SYN);
        broken(&mut bytes, flags);
        assert_eq!(node.node_in(&mut bytes, UPLINK), Verdict::PASS);
        let mut bytes = make(tuple(container(1).0, 1, V4::REMOTE, 80), TCP, SYN);
        broken(&mut bytes, flags);
        assert_eq!(node.veth_in(&mut bytes, container::<V4>(1).1), Verdict::drop(Reason::Fragment));
        let mut bytes = make(tuple(container(1).0, 1, V4::NODE, 80), TCP, SYN);
        broken(&mut bytes, flags);
        assert_eq!(node.veth_in(&mut bytes, container::<V4>(1).1), Verdict::PASS);
    }
    let mut cut = make(tuple(container(1).0, 1, V4::REMOTE, 80), TCP, SYN);
    cut[46] = 0xf0; // a TCP header longer than the packet
    assert_eq!(node.veth_in(&mut cut, container::<V4>(1).1), Verdict::drop(Reason::Malformed));
    cut.truncate(30);
    assert_eq!(node.veth_in(&mut cut, container::<V4>(1).1), Verdict::drop(Reason::Malformed));
    assert_eq!(node.node_in(&mut cut, UPLINK), Verdict::PASS);
}

fn nobody_outside_reaches_a_container_by_its_own_address<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let dropped = Verdict::drop(Reason::Unpublished);
    for port in [22, 80, 8080, 61_000] {
        let t = tuple(A::CLIENT, 5, container(1).0, port);
        for flags in 0..32 {
            assert_eq!(enter(&node, t, TCP, flags).0, dropped, "{port}, flags {flags:#x}");
        }
        assert_eq!(enter(&node, t, UDP, 0).0, dropped);
    }
    for (id, sequence) in [(7, 0), (0, 7)] {
        let ping = tuple(A::CLIENT, id, container(2).0, sequence);
        assert_eq!(enter(&node, ping, A::ICMP, 0).0, dropped);
    }
    assert!(node.flow_new.is_empty() && node.fwd_new.is_empty());
    // An address of the pool that is nobody's is the kernel's business.
    assert_eq!(enter(&node, tuple(A::CLIENT, 5, A::unused(), 80), TCP, SYN).0, Verdict::PASS);
    assert_eq!(enter(&node, tuple(A::CLIENT, 5, A::NODE, 22), TCP, SYN).0, Verdict::PASS);
}

#[test]
fn without_configuration_everything_passes() {
    let mut node = node::<V4>(1);
    publish(&mut node, [0; 4], 8080, &[1]);
    node.config = crate::abi::Config::default();
    assert_eq!(enter(&node, tuple(V4::CLIENT, 1, V4::NODE, 8080), TCP, SYN).0, Verdict::PASS);
    assert_eq!(leave(&node, 1, tuple(container(1).0, 1, V4::REMOTE, 80), TCP, SYN).0, Verdict::PASS);
}

#[test]
fn neither_with_fragments_and_protocols_without_ports() {
    let node = node::<V4>(2);
    let dropped = Verdict::drop(Reason::Unpublished);
    let changes: [(usize, u8); 4] = [(20, 0x20), (21, 3), (23, 132), (23, 47)];
    for (at, byte) in changes {
        let mut bytes = make(tuple(V4::CLIENT, 5, container(1).0, 80), TCP, SYN);
        bytes[at] = byte;
        assert_eq!(node.node_in(&mut bytes, UPLINK), dropped);
    }
}

/// An IPv6 packet without payload, and what is put before it.
fn with_extensions(t: Tuple<V6>, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let whole = make(t, TCP, SYN);
    let (mut packet, mut rest) = (whole[..54].to_vec(), Vec::new());
    for (n, (kind, body)) in extensions.iter().enumerate() {
        match n {
            0 => packet[20] = *kind,
            _ => rest[..].last_mut().map_or((), |last: &mut Vec<u8>| last[0] = *kind),
        }
        let mut extension = Vec::from([TCP]);
        extension.extend_from_slice(body);
        rest.push(extension);
    }
    let length = rest.iter().map(Vec::len).sum::<usize>() + whole.len() - 54;
    packet[18..20].copy_from_slice(&(length as u16).to_be_bytes());
    packet.extend(rest.into_iter().flatten());
    packet.extend_from_slice(&whole[54..]);
    packet
}

/// A kernel that forwards does not look behind the first header: what nobody can read there is for a
/// container all the same.
#[test]
fn extension_headers_that_are_cut_off_hide_nobody() {
    let mut node = node::<V6>(1);
    publish(&mut node, V6::ZERO, 80, &[1]);
    let (address, device) = container::<V6>(1);
    let packet = |t, next, length, there: usize| {
        let mut bytes = make(t, TCP, SYN);
        bytes.truncate(54 + there);
        (bytes[19], bytes[20]) = (length, next);
        bytes
    };
    for (next, length, there) in [(60, 0, 0), (60, 4, 4), (0, 7, 7), (43, 0, 3), (44, 0, 0), (44, 4, 20)] {
        let mut bytes = packet(tuple(V6::CLIENT, 40_000, address, 80), next, length, there);
        assert_eq!(node.node_in(&mut bytes, UPLINK), Verdict::drop(Reason::Unpublished), "{next} {length}");
        let mut bytes = packet(tuple(V6::CLIENT, 40_000, V6::NODE, 80), next, length, there);
        assert_eq!(node.node_in(&mut bytes, UPLINK), Verdict::PASS, "{next} {length}");
        let mut bytes = packet(tuple(address, 40_000, V6::REMOTE, 80), next, length, there);
        assert_eq!(
            node.veth_in(&mut bytes, device),
            Verdict::drop(Reason::NotMasqueraded),
            "{next} {length}"
        );
    }
}

#[test]
fn extension_headers_are_passed() {
    const OPTIONS: (u8, &[u8]) = (60, &[0, 1, 4, 0, 0, 0, 0]);
    const HOP_BY_HOP: (u8, &[u8]) = (0, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    const ARRIVED: (u8, &[u8]) =
        (43, &[2, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    const ON_ITS_WAY: (u8, &[u8]) =
        (43, &[2, 4, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    const WHOLE: (u8, &[u8]) = (44, &[0, 0, 6, 1, 2, 3, 4]);
    const LATER_PART: (u8, &[u8]) = (44, &[0, 1, 0, 1, 2, 3, 4]);
    const SECURED: (u8, &[u8]) = (51, &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut node = node::<V6>(1);
    publish(&mut node, V6::ZERO, 8080, &[1]);
    let t = tuple(V6::CLIENT, 40_000, V6::NODE, 8080);
    let out = tuple(container(1).0, 40_000, V6::REMOTE, 80);
    let understood: [&[(u8, &[u8])]; 7] = [
        &[],
        &[OPTIONS],
        &[HOP_BY_HOP, OPTIONS],
        &[HOP_BY_HOP, ARRIVED, OPTIONS],
        &[WHOLE],
        &[HOP_BY_HOP, WHOLE, OPTIONS],
        &[HOP_BY_HOP, OPTIONS, WHOLE, OPTIONS],
    ];
    for extensions in understood {
        let sent = with_extensions(t, extensions);
        let mut bytes = sent.clone();
        assert_eq!(reached(&node.node_in(&mut bytes, UPLINK)), Some(1), "{extensions:?}");
        assert_eq!(read::<V6>(&bytes), tuple(V6::CLIENT, 40_000, container(1).0, 80));
        assert_eq!(bytes[54..bytes.len() - 20], sent[54..sent.len() - 20], "what was passed is as it was");
        let mut bytes = with_extensions(out, extensions);
        assert_eq!(node.veth_in(&mut bytes, container::<V6>(1).1).action, Action::Device);
        assert_eq!(read::<V6>(&bytes).source, V6::NODE);
    }
    type Extensions = &'static [(u8, &'static [u8])];
    let refused: [(Extensions, Reason); 5] = [
        (&[HOP_BY_HOP, LATER_PART], Reason::Fragment),
        (&[ON_ITS_WAY], Reason::NotMasqueraded),
        (&[SECURED], Reason::NotMasqueraded),
        (&[OPTIONS, OPTIONS, OPTIONS, OPTIONS, OPTIONS], Reason::NotMasqueraded),
        (&[(47, &[0, 0, 0, 0, 0, 0, 0])], Reason::NotMasqueraded),
    ];
    for (extensions, reason) in refused {
        let sent = with_extensions(t, extensions);
        let mut bytes = sent.clone();
        assert_eq!(node.node_in(&mut bytes, UPLINK), Verdict::PASS, "{extensions:?}");
        let mut to_container = with_extensions(tuple(V6::CLIENT, 1, container(1).0, 80), extensions);
        assert_eq!(node.node_in(&mut to_container, UPLINK), Verdict::drop(Reason::Unpublished));
        assert_eq!(bytes, sent);
        let mut bytes = with_extensions(out, extensions);
        assert_eq!(node.veth_in(&mut bytes, container::<V6>(1).1), Verdict::drop(reason), "{extensions:?}");
    }
}

/// An ICMPv6 message of a container.
fn message(source: V6, destination: V6, kind: u8) -> Vec<u8> {
    let mut packet = make(tuple(source, 7, destination, 0), ICMP6, 0);
    packet[54] = kind;
    packet
}

#[test]
fn neighbour_discovery_is_left_to_the_kernel() {
    const GROUP: V6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    const SITE: V6 = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const GATEWAY: V6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut node = node::<V6>(1);
    publish(&mut node, V6::ZERO, 8080, &[1]);
    let (own, device) = container::<V6>(1);
    for kind in [130, 131, 132, 133, 134, 135, 136, 143] {
        for source in [own, V6::ZERO, GATEWAY] {
            for destination in [GROUP, GATEWAY] {
                let mut bytes = message(source, destination, kind);
                let sent = bytes.clone();
                assert_eq!(node.veth_in(&mut bytes, device), Verdict::PASS, "{kind} to {destination:?}");
                assert_eq!(bytes, sent);
            }
        }
        for destination in [V6::NODE, GATEWAY] {
            let mut bytes = message(V6::CLIENT, destination, kind);
            assert_eq!(node.node_in(&mut bytes, UPLINK), Verdict::PASS, "{kind}");
        }
        let beyond = |to| node.veth_in(&mut message(own, to, kind), device);
        assert_eq!(beyond(V6::REMOTE), Verdict::drop(Reason::NotMasqueraded));
        assert_eq!(beyond(SITE), Verdict::drop(Reason::Multicast));
    }
    // A listener's report comes behind a header with the router alert.
    let mut report = message(V6::ZERO, GROUP, 143);
    report.splice(54..54, [ICMP6, 0, 5, 2, 0, 0, 1, 0]);
    (report[20], report[19]) = (0, report[19] + 8);
    assert_eq!(node.veth_in(&mut report, device), Verdict::PASS);
    // A container is nobody's router, and pings are no discovery.
    assert_eq!(node.veth_in(&mut message(own, GATEWAY, 137), device), Verdict::drop(Reason::Multicast));
    assert_eq!(node.veth_in(&mut message(V6::ZERO, GROUP, 128), device), Verdict::drop(Reason::Spoofed));
    assert_eq!(node.veth_in(&mut message(own, GROUP, 128), device), Verdict::drop(Reason::Multicast));
}

/// Link-local addresses name a host on its link only: what comes by a device goes back by it.
#[test]
fn a_neighbour_on_the_link_is_served_as_what_it_is() {
    let ours: V6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let theirs: V6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8];
    let mut node = node::<V6>(1);
    node.locals.push(ours);
    publish(&mut node, V6::ZERO, 8080, &[1]);
    for published in [ours, V6::NODE] {
        let t = tuple(theirs, 40_000, published, 8080);
        let (verdict, inside) = enter_by(&node, t, TCP, SYN, SECOND, 33);
        assert_eq!((reached(&verdict), inside.source), (Some(1), theirs));
        let (verdict, outside) = leave(&node, 1, reversed(inside), TCP, SYN_ACK);
        assert_eq!((verdict.action, verdict.ifindex, outside), (Action::Device, 33, reversed(t)));
    }
}

#[test]
fn a_container_without_ipv6_gets_none() {
    let mut node = node::<V6>(2);
    publish(&mut node, V6::ZERO, 8080, &[1]);
    publish(&mut node, V6::ZERO, 8081, &[1, 2]);
    node.backends.get_mut(&1).unwrap().address6 = V6::ZERO;
    assert_eq!(enter(&node, tuple(V6::CLIENT, 1, V6::NODE, 8080), TCP, SYN).0, Verdict::PASS);
    for port in 1..100 {
        let (verdict, _) = enter(&node, tuple(V6::CLIENT, port, V6::NODE, 8081), TCP, SYN);
        assert_eq!(reached(&verdict), Some(2));
    }
    let (verdict, _) = leave(&node, 1, tuple(V6::ZERO, 1, V6::REMOTE, 80), TCP, SYN);
    assert_eq!(verdict, Verdict::drop(Reason::Spoofed), "an address of nobody is nobody's");
}
