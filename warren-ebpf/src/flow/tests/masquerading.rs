use std::collections::HashMap;

use super::*;
use crate::abi::Reason;

of_both_families!(
    there_and_back,
    two_containers_with_one_port_are_told_apart,
    ports_run_out_and_come_back,
    a_gone_containers_ports_are_free_at_once,
    tcp_begins_with_a_syn_and_survives_eviction,
    an_old_opening_is_closed,
    a_changed_source_address_is_obeyed,
);

fn out<A: Family>(node: &Model<A>, id: u32, t: Tuple<A>, protocol: u8, flags: u8) -> Tuple<A> {
    let (verdict, shown) = leave(node, id, t, protocol, flags);
    assert_eq!((verdict.action, verdict.ifindex), (Action::Device, UPLINK), "{verdict:?}");
    shown
}

fn there_and_back<A: Family>() {
    let node = node::<A>(2);
    for (protocol, first, answer) in [(TCP, SYN, SYN_ACK), (UDP, 0, 0), (A::ICMP, 0, 0)] {
        let port = if protocol == A::ICMP { 0 } else { 53 };
        let t = tuple(container(1).0, 5353, A::REMOTE, port);
        let shown = out(&node, 1, t, protocol, first);
        assert_eq!((shown.source, shown.destination, shown.destination_port), (A::NODE, A::REMOTE, port));
        assert!(shown.source_port >= node.config.masquerade_first);
        assert_eq!(
            out(&node, 1, t, protocol, if protocol == TCP { ACK } else { 0 }),
            shown,
            "it keeps its port"
        );
        let (verdict, inside) = enter(&node, reversed(shown), protocol, answer);
        assert_eq!((reached(&verdict), inside), (Some(1), reversed(t)));
        // Nobody else can use the opening.
        for stranger in [
            Tuple { source: A::stranger(10), ..reversed(shown) },
            Tuple { destination: A::LAN, ..reversed(shown) },
        ] {
            assert_eq!(enter(&node, stranger, protocol, answer).0, Verdict::PASS);
        }
    }
}

fn two_containers_with_one_port_are_told_apart<A: Family>() {
    let node = node::<A>(40);
    let mut seen = HashMap::new();
    for id in 1..=40 {
        for port in 1000..1100 {
            let t = tuple(container(id).0, port, A::REMOTE, 443);
            assert_eq!(seen.insert(out(&node, id, t, TCP, SYN), (id, t)), None);
        }
    }
    // 4000 of 4536 ports are in use towards this one remote port; each leads home.
    for (shown, (id, t)) in seen {
        assert_eq!(out(&node, id, t, TCP, ACK), shown);
        let (verdict, inside) = enter(&node, reversed(shown), TCP, SYN_ACK);
        assert_eq!((reached(&verdict), inside), (Some(id), reversed(t)));
    }
}

fn ports_run_out_and_come_back<A: Family>() {
    let mut node = node::<A>(1);
    node.config.masquerade_last = node.config.masquerade_first + 7;
    let open = |node: &Model<A>, port| leave(node, 1, tuple(container(1).0, port, A::REMOTE, 443), TCP, SYN);
    let mut used = std::collections::HashSet::new();
    let mut refused = 0;
    for port in 1..=200 {
        let (verdict, shown) = open(&node, port);
        if verdict.action == Action::Device {
            assert!(used.insert(shown.source_port));
        } else {
            assert_eq!(verdict, Verdict::drop(Reason::PortsExhausted));
            refused += 1;
        }
    }
    assert_eq!((used.len(), refused), (8, 192));
    // Towards another remote the same ports are free.
    assert_eq!(
        leave(&node, 1, tuple(container(1).0, 1, A::stranger(77), 443), TCP, SYN).0.action,
        Action::Device
    );
    after(&mut node, 31);
    let (verdict, shown) = open(&node, 5000);
    assert_eq!(verdict.action, Action::Device, "half-open for half a minute, then free");
    // The one whose port was taken must not go on with it.
    for port in 1..=200 {
        let (verdict, other) = leave(&node, 1, tuple(container(1).0, port, A::REMOTE, 443), TCP, ACK);
        if verdict.action == Action::Device {
            assert_ne!(other.source_port, shown.source_port);
        }
    }
    assert_eq!(enter(&node, reversed(shown), TCP, SYN_ACK).1.destination_port, 5000);
}

fn a_gone_containers_ports_are_free_at_once<A: Family>() {
    let mut node = node::<A>(2);
    node.config.masquerade_last = node.config.masquerade_first;
    let first = tuple(container(1).0, 1, A::REMOTE, 443);
    let shown = out(&node, 1, first, TCP, SYN);
    enter(&node, reversed(shown), TCP, SYN_ACK);
    out(&node, 1, first, TCP, ACK);
    let second = tuple(container(2).0, 9, A::REMOTE, 443);
    assert_eq!(leave(&node, 2, second, TCP, SYN).0, Verdict::drop(Reason::PortsExhausted));
    node.backends.get_mut(&1).unwrap().generation = 2;
    assert_eq!(enter(&node, reversed(shown), TCP, ACK).0, Verdict::PASS, "not to the row's new tenant");
    assert_eq!(out(&node, 2, second, TCP, SYN), shown);
}

fn tcp_begins_with_a_syn_and_survives_eviction<A: Family>() {
    let node = node::<A>(1);
    let t = tuple(container(1).0, 1, A::REMOTE, 443);
    assert_eq!(leave(&node, 1, t, TCP, ACK).0, Verdict::drop(Reason::NoFlow));
    let shown = out(&node, 1, t, TCP, SYN);
    node.masq_ret.clear();
    assert_eq!(out(&node, 1, t, TCP, ACK), shown, "the port is taken again");
    assert_eq!(reached(&enter(&node, reversed(shown), TCP, ACK).0), Some(1));
}

fn an_old_opening_is_closed<A: Family>() {
    let mut node = node::<A>(1);
    let t = tuple(container(1).0, 5353, A::REMOTE, 53);
    let shown = out(&node, 1, t, UDP, 0);
    after(&mut node, 29);
    assert_eq!(reached(&enter(&node, reversed(shown), UDP, 0).0), Some(1));
    after(&mut node, 119);
    assert_eq!(reached(&enter(&node, reversed(shown), UDP, 0).0), Some(1), "answered, so it stays longer");
    after(&mut node, 121);
    assert_eq!(enter(&node, reversed(shown), UDP, 0).0, Verdict::PASS);
    assert_eq!(out(&node, 1, t, UDP, 0), shown, "the container itself may open it again");
    assert_eq!(reached(&enter(&node, reversed(shown), UDP, 0).0), Some(1));
}

fn a_changed_source_address_is_obeyed<A: Family>() {
    let mut node = node::<A>(1);
    let t = tuple(container(1).0, 5353, A::REMOTE, 53);
    out(&node, 1, t, UDP, 0);
    node.routes[0].2.source = A::LAN;
    assert_eq!(out(&node, 1, t, UDP, 0).source, A::LAN);
}
