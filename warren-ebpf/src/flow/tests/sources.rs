//! Ports that are published for some.

use super::*;
use crate::abi::{Address, BACKEND_DRAINING, Reason, SOURCES_NOBODY};

of_both_families!(
    new_flows_come_from_the_set_of_the_port,
    known_flows_are_not_asked_again,
    containers_are_clients_like_others,
    any_prefix_of_any_set,
    datagrams_of_others_begin_nothing,
);

fn only_for<A: Family>(node: &mut Model<A>, address: A, port: u16, set: u32) {
    let key = ServiceKey { address, port, protocol: TCP, pad: 0 };
    node.services.get_mut(&key).unwrap().sources = set;
}

fn whole<A: Family>() -> u32 {
    8 * size_of::<A>() as u32
}

fn refused<A: Address>(verdict: &Verdict<A>) -> bool {
    verdict.action == Action::Drop && verdict.reason == Reason::Refused
}

fn new_flows_come_from_the_set_of_the_port<A: Family>() {
    let mut node = node::<A>(1);
    for (port, set) in [(8080, 0), (8081, 1), (8082, 2), (8083, SOURCES_NOBODY)] {
        publish(&mut node, A::ZERO, port, &[1]);
        only_for(&mut node, A::ZERO, port, set);
    }
    // The same port of one address is another one.
    publish(&mut node, A::LAN, 8083, &[1]);
    node.sources = [(1, A::CLIENT, whole::<A>()), (2, A::REMOTE, whole::<A>())].into();
    for (client, address, port, comes_in) in [
        (A::CLIENT, A::NODE, 8080, true),
        (A::REMOTE, A::NODE, 8080, true),
        (A::CLIENT, A::NODE, 8081, true),
        (A::REMOTE, A::NODE, 8081, false),
        (A::CLIENT, A::LAN, 8082, false),
        (A::REMOTE, A::LAN, 8082, true),
        (A::CLIENT, A::NODE, 8083, false),
        (A::CLIENT, A::LAN, 8083, true),
    ] {
        let (verdict, _) = enter(&node, tuple(client, 1000, address, port), TCP, SYN);
        assert_eq!(reached(&verdict).is_some(), comes_in, "{client:?} {port}");
        assert_eq!(refused(&verdict), !comes_in);
    }
    assert_eq!(node.flow_new.len(), 5, "a refused packet leaves nothing");
    // Only what would begin something is refused; the rest is not ours, as ever.
    let (verdict, _) = enter(&node, tuple(A::REMOTE, 1000, A::NODE, 8081), TCP, ACK);
    assert_eq!(verdict.action, Action::Pass);
}

fn known_flows_are_not_asked_again<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
    let (id, inside) = connect(&node, t);
    only_for(&mut node, A::ZERO, 8080, SOURCES_NOBODY);
    set_state(&mut node, 1, BACKEND_DRAINING);
    for flags in [ACK, FIN_ACK] {
        let (verdict, shown) = enter(&node, t, TCP, flags);
        assert_eq!((reached(&verdict), shown), (Some(id), inside));
        let (verdict, _) = leave(&node, id, reversed(inside), TCP, flags);
        assert_eq!(verdict.action, Action::Device);
    }
    assert!(refused(&enter(&node, tuple(A::CLIENT, 1001, A::NODE, 8080), TCP, SYN).0));
}

fn containers_are_clients_like_others<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1]);
    only_for(&mut node, A::ZERO, 8080, 1);
    node.sources = [(1, container::<A>(2).0, whole::<A>())].into();
    let ask = |id: u32, port| leave(&node, id, tuple(container::<A>(id).0, port, A::NODE, 8080), TCP, SYN).0;
    assert_eq!(reached(&ask(2, 1000)), Some(1));
    assert!(refused(&ask(1, 1000)), "not through its own port either");
    // Its own address is another matter.
    let t = tuple(container::<A>(2).0, 1001, container::<A>(1).0, 80);
    assert_eq!(reached(&leave(&node, 2, t, TCP, SYN).0), Some(1));
}

fn any_prefix_of_any_set<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    only_for(&mut node, A::ZERO, 8080, 7);
    let asks =
        |node: &Model<A>, port| reached(&enter(node, tuple(A::CLIENT, port, A::NODE, 8080), TCP, SYN).0);
    node.sources = [(6, A::CLIENT, whole::<A>())].into();
    assert_eq!(asks(&node, 1), None, "that is another set");
    for len in 0..=whole::<A>() {
        node.sources = [(7, A::CLIENT, len)].into();
        assert_eq!(asks(&node, 100 + len as u16), Some(1), "/{len}");
    }
}

fn datagrams_of_others_begin_nothing<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 53, &[1]);
    let tcp = ServiceKey { address: A::ZERO, port: 53, protocol: TCP, pad: 0 };
    let row = node.services[&tcp];
    node.services.insert(ServiceKey { protocol: UDP, ..tcp }, Service { sources: 1, ..row });
    node.sources = [(1, A::CLIENT, whole::<A>())].into();
    let ask = |node: &Model<A>, client, port| enter(node, tuple(client, port, A::NODE, 53), UDP, 0);
    let (verdict, inside) = ask(&node, A::CLIENT, 1000);
    assert_eq!(reached(&verdict), Some(1));
    assert!(refused(&ask(&node, A::REMOTE, 1000).0));
    assert_eq!(node.flow_new.len(), 1);
    // The same number of TCP is everybody's.
    assert_eq!(reached(&enter(&node, tuple(A::REMOTE, 1000, A::NODE, 53), TCP, SYN).0), Some(1));
    // What is known goes on.
    node.sources.clear();
    leave(&node, 1, reversed(inside), UDP, 0);
    assert_eq!(reached(&ask(&node, A::CLIENT, 1000).0), Some(1));
    assert!(refused(&ask(&node, A::CLIENT, 1001).0));
}
