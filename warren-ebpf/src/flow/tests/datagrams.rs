//! UDP to published ports.

use std::{collections::HashMap, vec::Vec};

use super::*;
use crate::abi::{
    BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_EMPTY, BACKEND_HELD, FLOW_ESTABLISHED, FLOW_OPENING,
    FLOW_REPLIED,
};

of_both_families!(
    the_first_packet_makes_a_flow_which_keeps_the_clients_address,
    a_question_and_its_answer_stay_in_the_small_tables,
    no_flood_evicts_what_goes_both_ways,
    a_flow_follows_its_service_through_every_change,
    a_draining_backend_goes_on_while_it_is_the_last,
    a_connected_socket_of_the_node_gets_what_it_waits_for,
    colliding_flows_are_never_mixed,
    what_a_container_begins_itself_is_no_reply,
    containers_reach_published_ports_neighbours_and_themselves,
    a_neighbour_is_asked_by_its_address_whatever_its_state,
    silence_ends_a_flow,
    evicted_records_are_made_again,
    udp_is_published_apart_from_tcp_and_only_where_it_is,
);

/// A packet of a client, which must reach a container: which, and what it shows there.
fn ask<A: Family>(node: &Model<A>, t: Tuple<A>) -> (u32, Tuple<A>) {
    let (verdict, inside) = enter(node, t, UDP, 0);
    (reached(&verdict).unwrap_or_else(|| panic!("{t:?}: {verdict:?}")), inside)
}

/// The container's answer, which must reach the client as from whom it asked.
fn answer<A: Family>(node: &Model<A>, t: Tuple<A>, (id, inside): (u32, Tuple<A>)) {
    let (verdict, outside) = leave(node, id, reversed(inside), UDP, 0);
    assert_eq!((verdict.action, verdict.ifindex, outside), (Action::Device, UPLINK, reversed(t)));
}

/// A flow that has gone both ways for long enough.
fn steady<A: Family>(node: &mut Model<A>, t: Tuple<A>) -> (u32, Tuple<A>) {
    let at = ask(node, t);
    answer(node, t, at);
    after(node, 2);
    assert_eq!(ask(node, t), at);
    at
}

/// Rows of the small tables, rows of the large ones.
fn sizes<A: Family>(node: &Model<A>) -> (usize, usize) {
    assert_eq!((node.flow_new.len(), node.flow_est.len()), (node.fwd_new.len(), node.fwd_est.len()));
    (node.flow_new.len(), node.flow_est.len())
}

fn the_first_packet_makes_a_flow_which_keeps_the_clients_address<A: Family>() {
    let mut node = node::<A>(3);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2, 3]);
    let t = tuple(A::CLIENT, 40_000, A::NODE, 53);
    let (id, inside) = ask(&node, t);
    assert_eq!(inside, tuple(A::CLIENT, 40_000, container(id).0, 80));
    assert_eq!((sizes(&node), node.flow_new.rows()[0].1.state), ((1, 0), FLOW_OPENING));
    for _ in 0..3 {
        assert_eq!(ask(&node, t), (id, inside));
    }
    answer(&node, t, (id, inside));
    assert_eq!((sizes(&node), node.flow_new.rows()[0].1.state), ((1, 0), FLOW_REPLIED));
    after(&mut node, 2);
    assert_eq!(ask(&node, t), (id, inside));
    assert_eq!((sizes(&node), node.flow_est.rows()[0].1.state), ((0, 1), FLOW_ESTABLISHED));
    answer(&node, t, (id, inside));
    // It comes by another way, and so do the answers.
    enter_by(&node, t, UDP, 0, 0, 9);
    assert_eq!(leave(&node, id, reversed(inside), UDP, 0).0.ifindex, 9);
}

fn a_question_and_its_answer_stay_in_the_small_tables<A: Family>() {
    let mut node = node::<A>(1);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1]);
    let t = tuple(A::CLIENT, 40_000, A::NODE, 53);
    for _ in 0..10 {
        let at = ask(&node, t);
        answer(&node, t, at);
    }
    assert_eq!(sizes(&node), (1, 0), "a burst of questions");
    let never = tuple(A::CLIENT, 40_001, A::NODE, 53);
    for _ in 0..10 {
        ask(&node, never);
        after(&mut node, 1);
    }
    assert_eq!(sizes(&node), (2, 0), "nobody has answered the other one");
}

/// Made-up sources, half of which the container answers, each twice at once.
fn no_flood_evicts_what_goes_both_ways<A: Family>() {
    let mut node = node::<A>(2);
    node.flow_new = crate::flow::model::Lru::new(128);
    node.fwd_new = crate::flow::model::Lru::new(128);
    node.flow_est = crate::flow::model::Lru::new(128);
    node.fwd_est = crate::flow::model::Lru::new(128);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2]);
    let flows: Vec<_> = (1000..1100).map(|port| tuple(A::CLIENT, port, A::NODE, 53)).collect();
    let first: Vec<_> = flows.iter().map(|t| ask(&node, *t)).collect();
    flows.iter().zip(&first).for_each(|(t, at)| answer(&node, *t, *at));
    after(&mut node, 2);
    for t in &flows {
        ask(&node, *t);
    }
    assert_eq!(sizes(&node), (0, 100));
    for n in 0..50_000u32 {
        let t = tuple(A::stranger(n), 5, A::NODE, 53);
        let at = ask(&node, t);
        if n % 2 == 0 {
            answer(&node, t, at);
        }
        ask(&node, t);
        node.now += 1_000_000;
    }
    assert_eq!(sizes(&node), (128, 100));
    for (t, at) in flows.iter().zip(&first) {
        assert_eq!(ask(&node, *t), *at);
        answer(&node, *t, *at);
    }
    assert_eq!(sizes(&node), (128, 100));
}

fn a_flow_follows_its_service_through_every_change<A: Family>() {
    let mut node = node::<A>(3);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2]);
    let flows: Vec<_> = (1000..1200).map(|port| tuple(A::CLIENT, port, A::NODE, 53)).collect();
    let all = |node: &Model<A>| -> Vec<u32> {
        flows
            .iter()
            .map(|t| {
                let at = ask(node, *t);
                answer(node, *t, at);
                at.0
            })
            .collect()
    };
    let first = all(&node);
    assert!(first.contains(&1) && first.contains(&2));
    // Another one comes: nobody who has a backend moves.
    publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2, 3]);
    assert_eq!(all(&node), first);
    // One does not work, drains, or is gone: its flows move, the others stay, no packet is lost.
    for state in [BACKEND_HELD, BACKEND_DRAINING, BACKEND_CLOSED, BACKEND_EMPTY] {
        set_state(&mut node, 1, state);
        publish_for(&mut node, UDP, A::ZERO, 53, &[2, 3]);
        let now = all(&node);
        assert!(now.iter().all(|id| *id != 1), "state {state}");
        assert!(now.iter().zip(&first).all(|(now, first)| *first != 2 || *now == 2));
        assert!(now.contains(&3));
        set_state(&mut node, 1, BACKEND_UP);
        publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2, 3]);
        assert_eq!(all(&node), now, "coming back moves nobody");
        // All over.
        for table in [&node.fwd_new, &node.fwd_est] {
            table.clear();
        }
        node.flow_new.clear();
        node.flow_est.clear();
        publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2]);
        assert_eq!(all(&node), first);
    }
    // Another tenant of the row, at the same address.
    let new = BackendRef { id: 1, generation: 2 };
    node.backends.get_mut(&1).unwrap().generation = 2;
    node.links.insert(container::<A>(1).1, new);
    node.endpoints.insert(container(1).0, new);
    publish_for(&mut node, UDP, A::ZERO, 53, &[2]);
    assert!(all(&node).iter().all(|id| *id == 2));
    // None is up: the node's stack refuses. And back.
    set_state(&mut node, 2, BACKEND_CLOSED);
    assert!(flows.iter().all(|t| enter(&node, *t, UDP, 0).0 == Verdict::PASS));
    set_state(&mut node, 2, BACKEND_UP);
    assert!(all(&node).iter().all(|id| *id == 2));
}

fn a_draining_backend_goes_on_while_it_is_the_last<A: Family>() {
    for state in [BACKEND_DRAINING, BACKEND_HELD] {
        let mut node = node::<A>(2);
        publish_for(&mut node, UDP, A::ZERO, 53, &[1]);
        let t = tuple(A::CLIENT, 1000, A::NODE, 53);
        let at = steady(&mut node, t);
        set_state(&mut node, 1, state);
        assert_eq!(ask(&node, t), at, "there is no other");
        answer(&node, t, at);
        // A new flow gets the draining one, but not one that is known not to work.
        let (verdict, _) = enter(&node, tuple(A::CLIENT, 1001, A::NODE, 53), UDP, 0);
        assert_eq!(reached(&verdict), (state == BACKEND_DRAINING).then_some(1));
        publish_for(&mut node, UDP, A::ZERO, 53, &[2]);
        let (id, inside) = ask(&node, t);
        assert_eq!(id, 2);
        // What the old one still has to say is heard.
        answer(&node, t, at);
        answer(&node, t, (id, inside));
    }
}

fn a_connected_socket_of_the_node_gets_what_it_waits_for<A: Family>() {
    let mut node = node::<A>(2);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1]);
    let t = tuple(A::REMOTE, 53, A::NODE, 53);
    node.expected.push(t);
    assert_eq!(enter(&node, t, UDP, 0).0, Verdict::PASS);
    assert_eq!(sizes(&node), (0, 0));
    ask(&node, Tuple { source_port: 54, ..t });
    // From a container too.
    let t = tuple(container(2).0, 4000, A::NODE, 53);
    node.expected.push(t);
    assert_eq!(leave(&node, 2, t, UDP, 0).0, Verdict::PASS);
    assert_eq!(reached(&leave(&node, 2, Tuple { source_port: 4001, ..t }, UDP, 0).0), Some(1));
}

fn colliding_flows_are_never_mixed<A: Family>() {
    for backends in [&[1][..], &[1, 2, 3]] {
        let mut node = node::<A>(3);
        publish_for(&mut node, UDP, A::ZERO, 8080, backends);
        publish_for(&mut node, UDP, A::ZERO, 8081, backends);
        let mut open: HashMap<(u32, Tuple<A>), Tuple<A>> = HashMap::new();
        for port in 20_000..24_000 {
            for published in [(A::NODE, 8080), (A::NODE, 8081), (A::LAN, 8080)] {
                let t = tuple(A::CLIENT, port, published.0, published.1);
                let at = ask(&node, t);
                assert_eq!(at.1.source, A::CLIENT);
                assert_eq!(open.insert(at, t), None, "two flows share {at:?}");
            }
        }
        for (at, t) in &open {
            answer(&node, *t, *at);
            assert_eq!(ask(&node, *t), *at);
        }
    }
}

/// One socket that asks and answers, as peers of a peer-to-peer protocol have.
fn what_a_container_begins_itself_is_no_reply<A: Family>() {
    let mut node = node::<A>(1);
    publish_for(&mut node, UDP, A::ZERO, 8080, &[1]);
    let own = tuple(container(1).0, 80, A::REMOTE, 5000);
    let (verdict, shown) = leave(&node, 1, own, UDP, 0);
    assert_eq!((verdict.action, shown.source), (Action::Device, A::NODE));
    assert!(shown.source_port >= 61_000);
    // The same peer comes by the published port.
    let t = tuple(A::REMOTE, 5000, A::NODE, 8080);
    let at = ask(&node, t);
    assert_ne!(at.1.source_port, 5000, "told apart");
    assert_eq!(leave(&node, 1, own, UDP, 0).1, shown, "what it began goes on as it was");
    assert_eq!(enter(&node, reversed(shown), UDP, 0).1, reversed(own));
    answer(&node, t, at);
    // The other way round: a client is answered, whoever thinks of it first.
    let t = tuple(A::REMOTE, 6000, A::NODE, 8080);
    let at = ask(&node, t);
    assert_eq!(at.1.source_port, 6000);
    answer(&node, t, at);
    // And what it began and gave up is in nobody's way.
    leave(&node, 1, tuple(container(1).0, 80, A::REMOTE, 7000), UDP, 0);
    after(&mut node, 31);
    assert_eq!(ask(&node, tuple(A::REMOTE, 7000, A::NODE, 8080)).1.source_port, 7000);
}

fn containers_reach_published_ports_neighbours_and_themselves<A: Family>() {
    let mut node = node::<A>(2);
    publish_for(&mut node, UDP, A::ZERO, 8080, &[2]);
    let (one, two) = (container(1).0, container(2).0);
    let talk = |from: u32, t: Tuple<A>| {
        let (verdict, inside) = leave(&node, from, t, UDP, 0);
        let to = reached(&verdict).unwrap();
        let (verdict, back) = leave(&node, to, reversed(inside), UDP, 0);
        assert_eq!((reached(&verdict), back), (Some(from), reversed(t)));
        (to, inside)
    };
    assert_eq!(talk(1, tuple(one, 5000, A::NODE, 8080)), (2, tuple(one, 5000, two, 80)));
    let (to, inside) = talk(1, tuple(one, 5000, two, 80));
    assert_eq!((to, inside.source), (2, one));
    assert_ne!(inside.source_port, 5000, "told apart from what came by the published port");
    assert_eq!(talk(1, tuple(one, 5001, two, 80)), (2, tuple(one, 5001, two, 80)));
    assert_eq!(talk(2, tuple(two, 6000, A::NODE, 8080)), (2, tuple(A::hairpin(&node.config), 6000, two, 80)));
    // Neighbours that talk first by turns, from the ports that they listen on.
    assert_eq!(talk(2, tuple(two, 7000, one, 7000)), (1, tuple(two, 7000, one, 7000)));
    assert_eq!(talk(1, tuple(one, 7000, two, 7000)), (2, tuple(one, 7000, two, 7000)));
    // A port of the node that is not published is the node's own.
    assert_eq!(leave(&node, 1, tuple(one, 5000, A::NODE, 53), UDP, 0).0, Verdict::PASS);
}

fn a_neighbour_is_asked_by_its_address_whatever_its_state<A: Family>() {
    let mut node = node::<A>(2);
    publish_for(&mut node, UDP, A::ZERO, 8080, &[2]);
    let (one, two) = (container(1).0, container(2).0);
    let published = tuple(one, 5000, A::NODE, 8080);
    let inside = leave(&node, 1, published, UDP, 0).1;
    assert_eq!(leave(&node, 2, reversed(inside), UDP, 0).1, reversed(published));
    for state in [BACKEND_HELD, BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_UP] {
        set_state(&mut node, 2, state);
        for (protocol, flags) in [(UDP, 0), (TCP, SYN)] {
            // From the port that has asked the published one, so that its answers must be told apart.
            let direct = tuple(one, 5000, two, 80);
            let (verdict, inside) = leave(&node, 1, direct, protocol, flags);
            assert_eq!(reached(&verdict), Some(2), "{state}");
            assert_eq!(protocol == UDP, inside.source_port != 5000, "{state}: {inside:?}");
            let (_, back) = leave(&node, 2, reversed(inside), protocol, flags | ACK);
            assert_eq!(back, reversed(direct), "{state}");
            assert_eq!(
                leave(&node, 1, direct, protocol, ACK).1,
                inside,
                "{state}: it stays with what it has"
            );
        }
    }
}

fn silence_ends_a_flow<A: Family>() {
    let mut node = node::<A>(2);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1]);
    let [asked, both] = [1000, 1001].map(|port| tuple(A::CLIENT, port, A::NODE, 53));
    assert_eq!(ask(&node, asked).0, 1);
    steady(&mut node, both);
    publish_for(&mut node, UDP, A::ZERO, 53, &[2]);
    after(&mut node, 29);
    assert_eq!((ask(&node, asked).0, ask(&node, both).0), (2, 1), "30 seconds without an answer");
    after(&mut node, 119);
    assert_eq!(ask(&node, both).0, 1);
    after(&mut node, 121);
    assert_eq!(ask(&node, both).0, 2, "two minutes of silence");
    assert_eq!(node.flow_new.rows().iter().filter(|(k, _)| k.client_port == 1001).count(), 1);
}

fn evicted_records_are_made_again<A: Family>() {
    let mut node = node::<A>(3);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2, 3]);
    let t = tuple(A::CLIENT, 1000, A::NODE, 53);
    let at = steady(&mut node, t);
    node.flow_est.clear();
    assert_eq!(ask(&node, t), at);
    answer(&node, t, at);
    assert_eq!(sizes(&node), (0, 1));
    node.fwd_est.clear();
    assert_eq!(ask(&node, t), at);
    answer(&node, t, at);
    node.flow_new.clear();
    node.flow_est.clear();
    node.fwd_new.clear();
    node.fwd_est.clear();
    assert_eq!(ask(&node, t), at, "all gone: it begins anew, with the backend that its tuple gives");
}

fn udp_is_published_apart_from_tcp_and_only_where_it_is<A: Family>() {
    let mut node = node::<A>(2);
    publish_for(&mut node, UDP, A::LAN, 53, &[1]);
    publish(&mut node, A::ZERO, 53, &[2]);
    assert_eq!(ask(&node, tuple(A::CLIENT, 1, A::LAN, 53)).0, 1);
    assert_eq!(connect(&node, tuple(A::CLIENT, 1, A::LAN, 53)).0, 2);
    publish_for(&mut node, UDP, A::ZERO, 54, &[1]);
    for t in [
        tuple(A::CLIENT, 1, A::NODE, 53),        // another address of the node
        tuple(A::CLIENT, 1, A::stranger(5), 54), // no address of the node
        tuple(A::NODE, 1, A::LAN, 54),           // its own address as the source
    ] {
        assert_eq!(enter(&node, t, UDP, 0).0, Verdict::PASS, "{t:?}");
    }
    // Nobody outside joins what containers tell each other.
    let t = tuple(container(1).0, 5000, container(2).0, 54);
    leave(&node, 1, t, UDP, 0);
    assert_eq!(enter(&node, t, UDP, 0).0, Verdict::drop(crate::abi::Reason::Unpublished));
}
