use super::*;
use crate::abi::{ROUTE_PLAIN, Reason};

const REMOTE: V4 = [203, 0, 113, 9];

fn from_one(node: &Model, destination: V4, port: u16) -> Verdict {
    leave(node, 1, tuple(container(1).0, 5, destination, port), UDP, 0).0
}

#[test]
fn what_a_container_may_not_do_is_dropped_with_its_reason() {
    let mut node = node(2);
    let dropped = Verdict::drop;
    assert_eq!(leave(&node, 1, tuple(container(2).0, 5, REMOTE, 53), UDP, 0).0, dropped(Reason::Spoofed));
    assert_eq!(leave(&node, 1, tuple(NODE, 5, REMOTE, 53), UDP, 0).0, dropped(Reason::Spoofed));
    assert_eq!(leave(&node, 7, tuple(container(1).0, 5, REMOTE, 53), UDP, 0).0, dropped(Reason::Spoofed));
    for multicast in [[224, 0, 0, 1], [239, 255, 255, 250], [255; 4], [127, 0, 0, 1], [0, 0, 0, 1]] {
        assert_eq!(from_one(&node, multicast, 53), dropped(Reason::Multicast));
    }
    assert_eq!(
        from_one(&node, [10, 64, 77, 1], 53),
        dropped(Reason::NoRoute),
        "an address of the pool, nobody's"
    );
    assert_eq!(from_one(&node, NODE, 53), Verdict::PASS, "the node itself");
    assert_eq!(
        leave(&node, 1, tuple(container(1).0, 0, REMOTE, 9), ICMP, 0).0,
        dropped(Reason::NotMasqueraded)
    );
    node.routes[0].2.source = [0; 4];
    assert_eq!(from_one(&node, REMOTE, 53), dropped(Reason::NoRoute));
    node.routes[0].2.flags = ROUTE_PLAIN;
    let (verdict, shown) = leave(&node, 1, tuple(container(1).0, 5, REMOTE, 53), UDP, 0);
    assert_eq!((verdict.action, shown.source), (Action::Device, container(1).0));
    node.routes.clear();
    assert_eq!(from_one(&node, REMOTE, 53), dropped(Reason::NoRoute));
}

#[test]
fn fragments_and_broken_packets() {
    let mut node = node(1);
    publish(&mut node, [0; 4], 8080, &[1]);
    let broken = |bytes: &mut [u8], flags: u16| bytes[20..22].copy_from_slice(&flags.to_be_bytes());
    for flags in [0x2000, 0x0003] {
        let mut bytes = make(tuple([9; 4], 1, NODE, 8080), TCP, SYN);
        broken(&mut bytes, flags);
        assert_eq!(node.node_in(&mut bytes, UPLINK), Verdict::PASS);
        let mut bytes = make(tuple(container(1).0, 1, REMOTE, 80), TCP, SYN);
        broken(&mut bytes, flags);
        assert_eq!(node.veth_in(&mut bytes, container(1).1), Verdict::drop(Reason::Fragment));
        let mut bytes = make(tuple(container(1).0, 1, NODE, 80), TCP, SYN);
        broken(&mut bytes, flags);
        assert_eq!(node.veth_in(&mut bytes, container(1).1), Verdict::PASS);
    }
    let mut cut = make(tuple(container(1).0, 1, REMOTE, 80), TCP, SYN);
    cut[46] = 0xf0; // a TCP header longer than the packet
    assert_eq!(node.veth_in(&mut cut, container(1).1), Verdict::drop(Reason::Malformed));
    cut.truncate(30);
    assert_eq!(node.veth_in(&mut cut, container(1).1), Verdict::drop(Reason::Malformed));
    assert_eq!(node.node_in(&mut cut, UPLINK), Verdict::PASS);
}

#[test]
fn nobody_outside_reaches_a_container_by_its_own_address() {
    let mut node = node(2);
    publish(&mut node, [0; 4], 8080, &[1]);
    let dropped = Verdict::drop(Reason::Unpublished);
    for port in [22, 80, 8080, 61_000] {
        let t = tuple([9; 4], 5, container(1).0, port);
        for flags in 0..32 {
            assert_eq!(enter(&node, t, TCP, flags).0, dropped, "{port}, flags {flags:#x}");
        }
        assert_eq!(enter(&node, t, UDP, 0).0, dropped);
    }
    for (id, sequence) in [(7, 0), (0, 7)] {
        let ping = tuple([9; 4], id, container(2).0, sequence);
        assert_eq!(enter(&node, ping, ICMP, 0).0, dropped);
    }
    // Fragments, and protocols without ports.
    let changes: [(usize, u8); 4] = [(20, 0x20), (21, 3), (23, 132), (23, 47)];
    for (at, byte) in changes {
        let mut bytes = make(tuple([9; 4], 5, container(1).0, 80), TCP, SYN);
        bytes[at] = byte;
        assert_eq!(node.node_in(&mut bytes, UPLINK), dropped);
    }
    assert!(node.flow_new.is_empty() && node.fwd_new.is_empty());
    // An address of the pool that is nobody's is the kernel's business.
    assert_eq!(enter(&node, tuple([9; 4], 5, [10, 64, 77, 1], 80), TCP, SYN).0, Verdict::PASS);
    assert_eq!(enter(&node, tuple([9; 4], 5, NODE, 22), TCP, SYN).0, Verdict::PASS);
}

#[test]
fn without_configuration_everything_passes() {
    let mut node = node(1);
    publish(&mut node, [0; 4], 8080, &[1]);
    node.config = crate::abi::Config::default();
    assert_eq!(enter(&node, tuple([9; 4], 1, NODE, 8080), TCP, SYN).0, Verdict::PASS);
    assert_eq!(leave(&node, 1, tuple(container(1).0, 1, REMOTE, 80), TCP, SYN).0, Verdict::PASS);
}
