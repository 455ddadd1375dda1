//! ICMP errors about packets of flows.

use super::*;
use crate::abi::Reason;

of_both_families!(
    about_what_was_masqueraded,
    about_an_echo_that_was_masqueraded,
    about_replies_of_published_ports,
    of_a_container_about_a_clients_packet,
    of_a_container_about_an_answer,
    between_containers,
    strangers_are_not_believed,
);

/// Bytes of a packet made here after its link header.
fn inside<A: Family>(t: Tuple<A>, protocol: u8, flags: u8) -> Vec<u8> {
    make(t, protocol, flags).split_off(14)
}

/// An ICMP error, cut to what must be quoted at least.
fn error<A: Family>(from: A, to: A, about: &[u8]) -> Vec<u8> {
    let length = (A::PAYLOAD - 14 + 8).min(about.len());
    family::error(from, to, &about[..length])
}

/// Its ends and the packet's that it quotes, with the error's checksum found right.
type Shown<A> = (A, A, Tuple<A>);

fn enters<A: Family>(node: &Model<A>, mut bytes: Vec<u8>) -> (Verdict<A>, Shown<A>) {
    let before = bytes.clone();
    let verdict = node.node_in(&mut bytes, UPLINK);
    untouched(&verdict, &before, &bytes);
    (verdict, family::read_error(&bytes))
}

fn leaves<A: Family>(node: &Model<A>, id: u32, mut bytes: Vec<u8>) -> (Verdict<A>, Shown<A>) {
    let before = bytes.clone();
    let verdict = node.veth_in(&mut bytes, 100 + id);
    untouched(&verdict, &before, &bytes);
    (verdict, family::read_error(&bytes))
}

fn untouched<A>(verdict: &Verdict<A>, before: &[u8], after: &[u8]) {
    if matches!(verdict.action, Action::Pass | Action::Drop) {
        assert_eq!(before, after, "what is not sent on is not touched");
    }
}

fn about_what_was_masqueraded<A: Family>() {
    let node = node::<A>(2);
    for (protocol, flags) in [(TCP, SYN), (UDP, 0)] {
        let t = tuple(container(1).0, 5353, A::REMOTE, 53);
        let (_, shown) = leave(&node, 1, t, protocol, flags);
        // Of a router on the way, and of the remote itself.
        for reporter in [A::stranger(9), A::REMOTE] {
            let (verdict, seen) = enters(&node, error(reporter, A::NODE, &inside(shown, protocol, flags)));
            assert_eq!(reached(&verdict), Some(1));
            assert_eq!(seen, (reporter, container(1).0, t));
        }
    }
}

fn about_an_echo_that_was_masqueraded<A: Family>() {
    let mut node = node::<A>(1);
    let t = tuple(container(1).0, 77, A::REMOTE, 0);
    let (_, shown) = leave(&node, 1, t, A::ICMP, 0);
    let report = error(A::stranger(9), A::NODE, &inside(shown, A::ICMP, 0));
    let (verdict, seen) = enters(&node, report.clone());
    assert_eq!((reached(&verdict), seen), (Some(1), (A::stranger(9), container(1).0, t)));
    after(&mut node, 31);
    assert_eq!(enters(&node, report).0, Verdict::PASS, "the record has run out");
}

fn about_replies_of_published_ports<A: Family>() {
    let mut node = node::<A>(3);
    publish(&mut node, A::ZERO, 8080, &[1, 2, 3]);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2, 3]);
    for port in 4000..4050 {
        let t = tuple(A::CLIENT, port, A::NODE, 8080);
        let (id, seen) = connect(&node, t);
        let (verdict, shown) = enters(&node, error(A::stranger(9), A::NODE, &inside(reversed(t), TCP, ACK)));
        assert_eq!(reached(&verdict), Some(id));
        assert_eq!(shown, (A::stranger(9), container(id).0, reversed(seen)));
        // Datagrams, of a flow that is not established.
        let t = tuple(A::CLIENT, port, A::LAN, 53);
        let (verdict, seen) = enter(&node, t, UDP, 0);
        let id = reached(&verdict).unwrap();
        let (verdict, shown) = enters(&node, error(A::CLIENT, A::LAN, &inside(reversed(t), UDP, 0)));
        assert_eq!(reached(&verdict), Some(id));
        assert_eq!(shown, (A::CLIENT, container(id).0, reversed(seen)));
    }
    // A client that talks to two published ports with one port is seen under another, and told so.
    publish(&mut node, A::ZERO, 8081, &[1]);
    publish(&mut node, A::ZERO, 8082, &[1]);
    connect(&node, tuple(A::CLIENT, 9, A::NODE, 8081));
    let t = tuple(A::CLIENT, 9, A::NODE, 8082);
    let (_, seen) = connect(&node, t);
    assert_ne!(seen.source_port, 9);
    let (_, shown) = enters(&node, error(A::CLIENT, A::NODE, &inside(reversed(t), TCP, ACK)));
    assert_eq!(shown.2, reversed(seen));
    // Nor are errors led to a row's next tenant.
    let t = tuple(A::CLIENT, 77, A::NODE, 8081);
    connect(&node, t);
    node.backends.get_mut(&1).unwrap().generation = 2;
    let (verdict, _) = enters(&node, error(A::CLIENT, A::NODE, &inside(reversed(t), TCP, ACK)));
    assert_eq!(verdict, Verdict::PASS);
}

fn of_a_container_about_a_clients_packet<A: Family>() {
    let mut node = node::<A>(2);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1]);
    let t = tuple(A::CLIENT, 4000, A::NODE, 53);
    let (_, seen) = enter(&node, t, UDP, 0);
    let report = error(container(1).0, A::CLIENT, &inside(seen, UDP, 0));
    let (verdict, shown) = leaves(&node, 1, report.clone());
    assert_eq!((verdict.action, verdict.ifindex), (Action::Device, UPLINK));
    assert_eq!(shown, (A::NODE, A::CLIENT, t), "as if the node's port were closed");
    // Only by whom it concerns.
    let other = error(container(2).0, A::CLIENT, &inside(seen, UDP, 0));
    assert_eq!(leaves(&node, 2, other).0, Verdict::drop(Reason::NoFlow));
    assert_eq!(leaves(&node, 2, report).0, Verdict::drop(Reason::Spoofed));
}

fn of_a_container_about_an_answer<A: Family>() {
    let mut node = node::<A>(2);
    let t = tuple(container(1).0, 5353, A::REMOTE, 53);
    let (_, shown) = leave(&node, 1, t, UDP, 0);
    let report = error(container(1).0, A::REMOTE, &inside(reversed(t), UDP, 0));
    let (verdict, told) = leaves(&node, 1, report.clone());
    assert_eq!((verdict.action, verdict.ifindex), (Action::Device, UPLINK));
    assert_eq!(told, (A::NODE, A::REMOTE, reversed(shown)));
    // Whoever has its address next has got nothing.
    node.backends.get_mut(&1).unwrap().generation = 2;
    node.links.insert(101, BackendRef { id: 1, generation: 2 });
    assert_eq!(leaves(&node, 1, report).0, Verdict::drop(Reason::NoFlow));
}

fn between_containers<A: Family>() {
    let mut node = node::<A>(2);
    publish_for(&mut node, UDP, A::ZERO, 53, &[2]);
    // By its own address, by the node's, and to itself.
    for (from, to) in [(1, (container(2).0, 80)), (1, (A::NODE, 53)), (2, (A::NODE, 53))] {
        let t = tuple(container(from).0, 4000, to.0, to.1);
        let (verdict, seen) = leave(&node, from, t, UDP, 0);
        assert_eq!(reached(&verdict), Some(2));
        let report = error(container(2).0, seen.source, &inside(seen, UDP, 0));
        let (verdict, shown) = leaves(&node, 2, report);
        assert_eq!(reached(&verdict), Some(from));
        assert_eq!(shown, (to.0, container(from).0, t));
    }
}

fn strangers_are_not_believed<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(container(1).0, 5353, A::REMOTE, 53);
    let (_, shown) = leave(&node, 1, t, UDP, 0);
    let known = tuple(A::CLIENT, 4000, A::NODE, 8080);
    let (_, seen) = connect(&node, known);
    // From outside: what no record shows is the node's own to believe or not.
    for (to, about, protocol) in [
        (A::NODE, Tuple { destination_port: 54, ..shown }, UDP),
        (A::NODE, Tuple { source_port: shown.source_port ^ 1, ..shown }, UDP),
        (A::NODE, shown, TCP),
        (A::LAN, shown, UDP),
        (A::NODE, Tuple { source: A::LAN, ..shown }, UDP),
        (A::NODE, known, TCP),
        (A::NODE, tuple(A::NODE, 8080, A::CLIENT, 4001), TCP),
    ] {
        let (verdict, _) = enters(&node, error(A::stranger(9), to, &inside(about, protocol, ACK)));
        assert_eq!(verdict, Verdict::PASS, "{about:?}");
    }
    // To a container's own address, nothing.
    for about in [t, reversed(seen)] {
        let report = error(A::stranger(9), about.source, &inside(about, TCP, ACK));
        assert_eq!(enters(&node, report).0, Verdict::drop(Reason::Unpublished));
    }
    // From a container: about what it has not got, or to somebody who has not sent it.
    for (to, about, protocol) in [
        (A::CLIENT, Tuple { source_port: 4001, ..seen }, TCP),
        (A::CLIENT, seen, UDP),
        (A::REMOTE, seen, TCP),
        (A::REMOTE, tuple(A::REMOTE, 54, container(1).0, 5353), UDP),
        (container(2).0, tuple(container(2).0, 9, container(1).0, 80), UDP),
    ] {
        let report = error(container(1).0, to, &inside(about, protocol, ACK));
        assert_eq!(leaves(&node, 1, report).0, Verdict::drop(Reason::NoFlow), "{about:?}");
    }
    // What the node itself sends, it may be told of.
    let report = error(container(1).0, A::NODE, &inside(tuple(A::NODE, 9, container(1).0, 80), UDP, 0));
    assert_eq!(leaves(&node, 1, report).0, Verdict::PASS);
}
