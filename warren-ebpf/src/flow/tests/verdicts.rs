use super::{family::make, *};
use crate::abi::{ROUTE_PLAIN, Reason};

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
    for flags in [0x2000, 0x0003] {
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
