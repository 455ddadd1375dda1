use std::{collections::HashMap, vec::Vec};

use super::*;
use crate::abi::{BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_EMPTY, BACKEND_HELD};

of_both_families!(
    a_half_open_flow_that_is_recalled_answers_by_the_way_it_comes,
    a_connection_keeps_the_clients_address_and_moves_to_the_large_tables,
    flows_spread_over_all_backends,
    collisions_never_mix_connections,
    a_flood_of_syns_evicts_no_established_connection,
    nothing_but_a_pure_syn_makes_a_record,
    draining_keeps_its_flows_and_serves_when_nobody_else_does,
    held_keeps_its_flows_and_gets_no_new_ones_even_alone,
    another_tenant_of_a_row_gets_nothing_of_the_old_ones_flows,
    a_syn_reopens_what_is_closing_or_closed_or_refused,
    a_syn_on_a_live_connection_stays_with_it,
    half_open_moves_off_a_draining_backend,
    evicted_records_are_made_again,
    replies_leave_by_the_device_the_client_uses_now,
    a_published_port_answers_only_where_it_was_published,
    a_container_reaches_published_ports_neighbours_and_itself,
    expired_records_free_their_tuple,
);

fn a_connection_keeps_the_clients_address_and_moves_to_the_large_tables<A: Family>() {
    let mut node = node::<A>(3);
    publish(&mut node, A::ZERO, 8080, &[1, 2, 3]);
    let t = tuple(A::CLIENT, 40_000, A::NODE, 8080);
    let (verdict, inside) = enter(&node, t, TCP, SYN);
    let id = reached(&verdict).unwrap();
    assert_eq!(inside, tuple(A::CLIENT, 40_000, container(id).0, 80));
    assert_eq!(
        (node.flow_new.len(), node.fwd_new.len(), node.flow_est.len(), node.fwd_est.len()),
        (1, 1, 0, 0)
    );
    enter(&node, t, TCP, ACK);
    assert!(node.flow_est.is_empty(), "an ACK proves nothing before the container has answered");
    let (_, outside) = leave(&node, id, reversed(inside), TCP, SYN_ACK);
    assert_eq!(outside, reversed(t));
    assert!(node.flow_est.is_empty());
    enter(&node, t, TCP, ACK);
    assert_eq!(
        (node.flow_new.len(), node.fwd_new.len(), node.flow_est.len(), node.fwd_est.len()),
        (0, 0, 1, 1)
    );
    let (_, outside) = leave(&node, id, reversed(inside), TCP, ACK);
    assert_eq!(outside, reversed(t));
    let (_, flow) = node.flow_est.rows()[0];
    assert_eq!((flow.backend, flow.ifindex, flow.service), (backend_ref(id), UPLINK, 8080));
}

fn flows_spread_over_all_backends<A: Family>() {
    let mut node = node::<A>(3);
    publish(&mut node, A::ZERO, 8080, &[1, 2, 3]);
    let mut hits = [0; 4];
    for port in 10_000..13_000 {
        hits[connect(&node, tuple(A::CLIENT, port, A::NODE, 8080)).0 as usize] += 1;
    }
    assert!(hits[1..].iter().all(|n| (850..1150).contains(n)), "{hits:?}");
}

/// One client, the same ports, two published tuples, one socket behind both: every connection has
/// a tuple of its own, replies find the right one, and the client's address is kept.
fn collisions_never_mix_connections<A: Family>() {
    for backends in [&[1][..], &[1, 2, 3]] {
        let mut node = node::<A>(3);
        publish(&mut node, A::ZERO, 8080, backends);
        publish(&mut node, A::ZERO, 8081, backends);
        let mut open: HashMap<(u32, Tuple<A>), Tuple<A>> = HashMap::new();
        let mut moved = 0;
        for port in 20_000..24_000 {
            for published in [(A::NODE, 8080), (A::NODE, 8081), (A::LAN, 8080)] {
                let t = tuple(A::CLIENT, port, published.0, published.1);
                let (id, inside) = connect(&node, t);
                assert_eq!(inside.source, A::CLIENT);
                moved += u32::from(inside.source_port != port);
                assert_eq!(open.insert((id, inside), t), None, "two connections share {inside:?}");
            }
        }
        for ((id, inside), t) in &open {
            assert_eq!(leave(&node, *id, reversed(*inside), TCP, ACK).1, reversed(*t));
            assert_eq!(enter(&node, *t, TCP, ACK).1, *inside);
        }
        if backends.len() == 1 {
            // And those whose own port was given to another before.
            assert!((8000..9000).contains(&moved), "two of three have another port: {moved}");
        } else {
            assert!(moved < 4000, "with others to choose from, few need another port: {moved}");
        }
    }
}

fn a_flood_of_syns_evicts_no_established_connection<A: Family>() {
    let mut node = node::<A>(2);
    node.flow_new = crate::flow::model::Lru::new(64);
    node.fwd_new = crate::flow::model::Lru::new(64);
    publish(&mut node, A::ZERO, 8080, &[1, 2]);
    let open: Vec<_> = (1000..1100)
        .map(|port| tuple(A::CLIENT, port, A::NODE, 8080))
        .map(|t| (t, connect(&node, t)))
        .collect();
    for n in 0..20_000u32 {
        enter(&node, tuple(A::stranger(n), 5, A::NODE, 8080), TCP, SYN);
    }
    assert_eq!((node.flow_est.len(), node.fwd_est.len(), node.flow_new.len()), (100, 100, 64));
    for (t, (id, inside)) in open {
        assert_eq!(enter(&node, t, TCP, ACK).1, inside);
        assert_eq!(leave(&node, id, reversed(inside), TCP, ACK).1, reversed(t));
    }
}

fn nothing_but_a_pure_syn_makes_a_record<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    for flags in 0..32u8 {
        if flags & (SYN | ACK | FIN | RST) == SYN {
            continue;
        }
        let (verdict, _) = enter(&node, tuple(A::CLIENT, 1, A::NODE, 8080), TCP, flags);
        assert_eq!(verdict.action, Action::Pass, "flags {flags:#x}: the node's stack answers");
    }
    assert!(
        node.flow_new.is_empty()
            && node.flow_est.is_empty()
            && node.fwd_new.is_empty()
            && node.fwd_est.is_empty()
    );
}

fn draining_keeps_its_flows_and_serves_when_nobody_else_does<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1, 2]);
    let (on_one, t) = (1000..)
        .map(|port| tuple(A::CLIENT, port, A::NODE, 8080))
        .map(|t| (connect(&node, t), t))
        .find(|((id, _), _)| *id == 1)
        .unwrap();
    set_state(&mut node, 1, BACKEND_DRAINING);
    assert_eq!(enter(&node, t, TCP, ACK).1, on_one.1);
    for port in 5000..5500 {
        assert_eq!(connect(&node, tuple(A::CLIENT, port, A::NODE, 8080)).0, 2);
    }
    set_state(&mut node, 2, BACKEND_CLOSED);
    assert_eq!(connect(&node, tuple(A::CLIENT, 6000, A::NODE, 8080)).0, 1, "draining is better than nothing");
    set_state(&mut node, 1, BACKEND_CLOSED);
    let before = node.flow_new.len();
    assert_eq!(enter(&node, tuple(A::CLIENT, 6001, A::NODE, 8080), TCP, SYN).0, Verdict::PASS);
    assert_eq!(node.flow_new.len(), before, "no backend, no record");
    assert_eq!(enter(&node, t, TCP, ACK).0, Verdict::PASS, "a closed backend serves nobody");
}

fn held_keeps_its_flows_and_gets_no_new_ones_even_alone<A: Family>() {
    for backends in [&[1][..], &[1, 2]] {
        let mut node = node::<A>(2);
        publish(&mut node, A::ZERO, 8080, backends);
        let (t, inside) = (1000..)
            .map(|port| tuple(A::CLIENT, port, A::NODE, 8080))
            .find_map(|t| {
                let (id, inside) = connect(&node, t);
                (id == 1).then_some((t, inside))
            })
            .unwrap();
        set_state(&mut node, 1, BACKEND_HELD);
        set_state(&mut node, 2, BACKEND_CLOSED);
        assert_eq!(enter(&node, t, TCP, ACK).1, inside, "its connection goes on");
        assert_eq!(leave(&node, 1, reversed(inside), TCP, ACK).1, reversed(t));
        for port in 5000..5500 {
            let shown = enter(&node, tuple(A::CLIENT, port, A::NODE, 8080), TCP, SYN).0;
            assert_eq!(shown, Verdict::PASS, "nobody takes it");
        }
        set_state(&mut node, 1, BACKEND_UP);
        assert_eq!(connect(&node, tuple(A::CLIENT, 6000, A::NODE, 8080)).0, 1);
    }
}

fn another_tenant_of_a_row_gets_nothing_of_the_old_ones_flows<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
    let (_, inside) = connect(&node, t);
    // The task is gone; its row, and even its address, are another one's.
    let new = BackendRef { id: 1, generation: 2 };
    node.backends.get_mut(&1).unwrap().generation = 2;
    node.links.insert(container::<A>(1).1, new);
    node.endpoints.insert(container(1).0, new);
    assert_eq!(enter(&node, t, TCP, ACK).0, Verdict::PASS);
    let (verdict, shown) = leave(&node, 1, reversed(inside), TCP, ACK);
    assert_eq!(verdict, Verdict::drop(crate::abi::Reason::NoFlow), "{shown:?}");
    // A table that still names the old tenant leads nowhere; the updated one to the new tenant.
    assert_eq!(enter(&node, t, TCP, SYN).0, Verdict::PASS);
    node.services.values_mut().for_each(|s| s.single = new);
    assert_eq!(connect(&node, t), (1, inside));
    set_state(&mut node, 1, BACKEND_EMPTY);
    assert_eq!(enter(&node, t, TCP, ACK).0, Verdict::PASS);
}

fn a_syn_reopens_what_is_closing_or_closed_or_refused<A: Family>() {
    type Steps<A> = fn(&Model<A>, Tuple<A>, Tuple<A>);
    let ends: [Steps<A>; 4] = [
        |node, t, _| {
            enter(node, t, TCP, FIN_ACK);
        },
        |node, t, inside| {
            leave(node, 1, reversed(inside), TCP, FIN_ACK);
            enter(node, t, TCP, FIN_ACK);
        },
        |node, t, _| {
            enter(node, t, TCP, RST);
        },
        |node, _, inside| {
            leave(node, 1, reversed(inside), TCP, RST | ACK);
        },
    ];
    for end in ends {
        let mut node = node::<A>(2);
        publish(&mut node, A::ZERO, 8080, &[1]);
        let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
        let (_, inside) = connect(&node, t);
        end(&node, t, inside);
        // Late packets of the old connection still find their way.
        assert_eq!(leave(&node, 1, reversed(inside), TCP, ACK).1, reversed(t));
        end(&node, t, inside);
        node.services.values_mut().for_each(|s| s.single = backend_ref(2));
        assert_eq!(connect(&node, t).0, 2, "it is a new connection");
        assert_eq!((node.flow_new.len(), node.fwd_new.len(), node.fwd_est.len()), (0, 0, 1));
    }
}

fn a_syn_on_a_live_connection_stays_with_it<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
    let (_, inside) = connect(&node, t);
    node.services.values_mut().for_each(|s| s.single = backend_ref(2));
    set_state(&mut node, 1, BACKEND_DRAINING);
    assert_eq!(enter(&node, t, TCP, SYN).1, inside, "the container challenges it");
    assert_eq!(enter(&node, t, TCP, ACK).1, inside);
    after(&mut node, 90_000);
    assert_eq!(reached(&enter(&node, t, TCP, SYN).0), Some(2), "unless it has been silent for a day");
}

fn half_open_moves_off_a_draining_backend<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1, 2]);
    let t = (1000..)
        .map(|port| tuple(A::CLIENT, port, A::NODE, 8080))
        .find(|t| reached(&enter(&node, *t, TCP, SYN).0) == Some(1))
        .unwrap();
    assert_eq!(reached(&enter(&node, t, TCP, SYN).0), Some(1), "a repeated SYN goes where the first went");
    set_state(&mut node, 1, BACKEND_DRAINING);
    assert_eq!(connect(&node, t).0, 2);
}

fn evicted_records_are_made_again<A: Family>() {
    let mut node = node::<A>(3);
    publish(&mut node, A::ZERO, 8080, &[1, 2, 3]);
    let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
    let (id, inside) = connect(&node, t);
    node.fwd_est.clear();
    assert_eq!(enter(&node, t, TCP, ACK).1, inside, "the forward record follows from the table");
    assert_eq!(node.fwd_est.len(), 1);
    node.flow_est.clear();
    assert_eq!(enter(&node, t, TCP, ACK).1, inside, "the tracking record from the forward record");
    assert_eq!(leave(&node, id, reversed(inside), TCP, ACK).1, reversed(t));
    node.flow_est.clear();
    node.fwd_est.clear();
    assert_eq!(enter(&node, t, TCP, ACK).0, Verdict::PASS, "both gone: the node's stack resets it");
}

fn replies_leave_by_the_device_the_client_uses_now<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
    let (_, inside) = connect(&node, t);
    enter_by(&node, t, TCP, ACK, SECOND, 9);
    assert_eq!(leave(&node, 1, reversed(inside), TCP, ACK).0.ifindex, 9);
}

fn a_published_port_answers_only_where_it_was_published<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::LAN, 8080, &[1]);
    publish(&mut node, A::ZERO, 9090, &[2]);
    assert_eq!(connect(&node, tuple(A::CLIENT, 1, A::LAN, 8080)).0, 1);
    for t in [
        tuple(A::CLIENT, 1, A::NODE, 8080),        // another address of the node
        tuple(A::CLIENT, 1, A::stranger(5), 9090), // no address of the node
        tuple(A::NODE, 1, A::LAN, 9090),           // its own address as the source
        tuple(A::CLIENT, 1, A::NODE, 22),          // not published
    ] {
        assert_eq!(enter(&node, t, TCP, SYN).0, Verdict::PASS, "{t:?}");
    }
    // The exact address goes before "everywhere".
    publish(&mut node, A::ZERO, 8080, &[2]);
    assert_eq!(connect(&node, tuple(A::CLIENT, 2, A::LAN, 8080)).0, 1);
    assert_eq!(connect(&node, tuple(A::CLIENT, 3, A::NODE, 8080)).0, 2);
    // UDP to the same number is not published.
    assert_eq!(enter(&node, tuple(A::CLIENT, 1, A::NODE, 9090), UDP, 0).0, Verdict::PASS);
}

fn a_container_reaches_published_ports_neighbours_and_itself<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[2]);
    let (one, two) = (container(1).0, container(2).0);
    let open = |from: u32, t: Tuple<A>| {
        let (verdict, inside) = leave(&node, from, t, TCP, SYN);
        let to = reached(&verdict).unwrap();
        let (verdict, back) = leave(&node, to, reversed(inside), TCP, SYN_ACK);
        assert_eq!((reached(&verdict), back), (Some(from), reversed(t)));
        assert_eq!(leave(&node, from, t, TCP, ACK).1, inside);
        (to, inside)
    };
    // Through the published port: the address is kept.
    assert_eq!(open(1, tuple(one, 5000, A::NODE, 8080)), (2, tuple(one, 5000, two, 80)));
    // Directly, from the same port: told apart by another source port.
    let (to, inside) = open(1, tuple(one, 5000, two, 80));
    assert_eq!((to, inside.source), (2, one));
    assert_ne!(inside.source_port, 5000);
    // Itself: the one case in which the address is translated.
    assert_eq!(open(2, tuple(two, 6000, A::NODE, 8080)), (2, tuple(A::hairpin(&node.config), 6000, two, 80)));
    assert_eq!(open(2, tuple(two, 6000, A::LAN, 8080)).1.source, A::hairpin(&node.config));
    // What is not TCP goes to a neighbour as it is.
    let ping = tuple(one, 7, two, 0);
    let (verdict, shown) = leave(&node, 1, ping, A::ICMP, 0);
    assert_eq!((reached(&verdict), shown), (Some(2), ping));
}

fn expired_records_free_their_tuple<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    publish(&mut node, A::ZERO, 8081, &[1]);
    enter(&node, tuple(A::CLIENT, 1000, A::NODE, 8080), TCP, SYN);
    let (_, inside) = enter(&node, tuple(A::CLIENT, 1000, A::NODE, 8081), TCP, SYN);
    assert_ne!(inside.source_port, 1000);
    after(&mut node, 31);
    let (_, inside) = enter(&node, tuple(A::CLIENT, 1000, A::LAN, 8081), TCP, SYN);
    assert_eq!(inside.source_port, 1000, "the first one never got past its SYN");
}

fn a_half_open_flow_that_is_recalled_answers_by_the_way_it_comes<A: Family>() {
    const OTHER: u32 = 3;
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 4000, A::NODE, 8080);
    let (_, inside) = enter(&node, t, TCP, SYN);
    node.fwd_new.clear();
    let (verdict, _) = enter_by(&node, t, TCP, ACK, SECOND, OTHER);
    assert_eq!(reached(&verdict), Some(1));
    assert_eq!(leave(&node, 1, reversed(inside), TCP, SYN_ACK).0.ifindex, OTHER);
}
