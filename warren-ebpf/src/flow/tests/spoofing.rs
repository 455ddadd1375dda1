//! Who sends under another's address sees no answer: such packets get a client's treatment, but no
//! place among the established flows.

use std::vec::Vec;

use super::*;
use crate::abi::FLOW_REPLIED;

of_both_families!(
    only_who_has_seen_the_answer_establishes,
    an_end_without_proof_establishes_nothing,
    a_client_that_ends_at_once_is_still_a_client,
    what_must_be_acknowledged_grows_with_what_the_container_sends,
    a_tracking_record_made_again_does_not_promote_before_the_container_has_spoken,
    a_flood_of_blind_handshakes_evicts_no_established_connection,
    nobody_outside_joins_what_containers_tell_each_other,
);

/// Rows of the half-open tables, rows of the established ones.
fn sizes<A: Family>(node: &Model<A>) -> (usize, usize) {
    assert_eq!((node.flow_new.len(), node.flow_est.len()), (node.fwd_new.len(), node.fwd_est.len()));
    (node.flow_new.len(), node.flow_est.len())
}

/// The SYN and the container's answer.
fn answered<A: Family>(node: &Model<A>, t: Tuple<A>) -> Tuple<A> {
    let (_, inside) = enter(node, t, TCP, SYN);
    leave(node, 1, reversed(inside), TCP, SYN_ACK);
    inside
}

fn only_who_has_seen_the_answer_establishes<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 40_000, A::NODE, 8080);
    let inside = answered(&node, t);
    assert_eq!(node.flow_new.rows()[0].1.expected, SECOND);
    for flags in (0..32).filter(|flags| flags & (SYN | RST) == 0) {
        for wrong in [1, 2, 1 << 16, 1 << 31, u32::MAX] {
            let (_, shown) = guess(&node, t, flags, SECOND.wrapping_add(wrong));
            assert_eq!(shown, inside, "what is not established is forwarded all the same");
        }
    }
    assert_eq!((sizes(&node), node.flow_new.rows()[0].1.state), ((1, 0), FLOW_REPLIED));
    // The answer is lost and repeated, then the client's first ACK is lost: data comes with the
    // same number.
    leave(&node, 1, reversed(inside), TCP, SYN_ACK);
    assert_eq!(enter(&node, t, TCP, ACK).1, inside);
    assert_eq!(sizes(&node), (0, 1));
    // From here on any number will do.
    assert_eq!(guess(&node, t, ACK, 12_345).1, inside);
    assert_eq!(leave(&node, 1, reversed(inside), TCP, ACK).1, reversed(t));
    assert_eq!(sizes(&node), (0, 1));
}

fn an_end_without_proof_establishes_nothing<A: Family>() {
    for (end, again) in [(FIN_ACK, SYN_ACK), (RST, SYN_ACK), (RST | ACK, ACK), (RST, FIN_ACK)] {
        let mut node = node::<A>(1);
        publish(&mut node, A::ZERO, 8080, &[1]);
        let t = tuple(A::CLIENT, 40_000, A::NODE, 8080);
        let inside = answered(&node, t);
        guess(&node, t, end, 0x7777);
        // The container repeats itself, or challenges what it got.
        assert_eq!(leave(&node, 1, reversed(inside), TCP, again).1, reversed(t));
        for flags in [ACK, FIN_ACK] {
            assert_eq!(guess(&node, t, flags, 0x7777).1, inside);
        }
        assert_eq!(sizes(&node), (1, 0), "{end:#x} {again:#x}");
        // The client goes on, acknowledging all that it got.
        let next = node.flow_new.rows()[0].1.expected;
        assert_eq!(guess(&node, t, ACK, next).1, inside);
        assert_eq!(sizes(&node), (0, 1), "{end:#x} {again:#x}");
    }
}

fn a_client_that_ends_at_once_is_still_a_client<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 40_000, A::NODE, 8080);
    answered(&node, t);
    enter(&node, t, TCP, FIN_ACK);
    assert_eq!(sizes(&node), (0, 1));
}

/// A server that speaks before the client has acknowledged anything (TCP fast open).
fn what_must_be_acknowledged_grows_with_what_the_container_sends<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 40_000, A::NODE, 8080);
    let inside = answered(&node, t);
    leave(&node, 1, reversed(inside), TCP, ACK);
    let all = SECOND + b"payload".len() as u32;
    assert_eq!(node.flow_new.rows()[0].1.expected, all);
    guess(&node, t, ACK, all);
    assert_eq!(sizes(&node), (0, 1));
}

fn a_tracking_record_made_again_does_not_promote_before_the_container_has_spoken<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 40_000, A::NODE, 8080);
    let inside = answered(&node, t);
    node.flow_new.clear();
    for number in [0, SECOND, 1] {
        assert_eq!(guess(&node, t, ACK, number).1, inside);
    }
    assert_eq!(sizes(&node), (1, 0));
    leave(&node, 1, reversed(inside), TCP, ACK);
    guess(&node, t, ACK, node.flow_new.rows()[0].1.expected);
    assert_eq!(sizes(&node), (0, 1));
}

/// A hundred thousand made-up sources, each with a SYN, which the container answers, and blind
/// ACKs, FINs and resets.
fn a_flood_of_blind_handshakes_evicts_no_established_connection<A: Family>() {
    let mut node = node::<A>(1);
    node.flow_new = crate::flow::model::Lru::new(16);
    node.fwd_new = crate::flow::model::Lru::new(16);
    node.flow_est = crate::flow::model::Lru::new(128);
    node.fwd_est = crate::flow::model::Lru::new(128);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let open: Vec<_> = (1000..1100)
        .map(|port| tuple(A::CLIENT, port, A::NODE, 8080))
        .map(|t| (t, connect(&node, t).1))
        .collect();
    for n in 0..100_000u32 {
        let t = tuple(A::stranger(n), 5, A::NODE, 8080);
        answered(&node, t);
        let number = n.wrapping_mul(2_654_435_761) | 1;
        for flags in [[ACK, RST][n as usize % 2], [FIN_ACK, ACK][n as usize % 2]] {
            assert_eq!(reached(&guess(&node, t, flags, number).0), Some(1));
        }
    }
    assert_eq!(sizes(&node), (16, 100));
    for (t, inside) in open {
        assert_eq!(enter(&node, t, TCP, ACK).1, inside);
        assert_eq!(leave(&node, 1, reversed(inside), TCP, ACK).1, reversed(t));
    }
}

/// A container that talks to another one by its own address, on a port that is published too.
fn nobody_outside_joins_what_containers_tell_each_other<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 80, &[1]);
    let t = tuple(container(1).0, 5000, container(2).0, 80);
    let (_, inside) = leave(&node, 1, t, TCP, SYN);
    leave(&node, 2, reversed(inside), TCP, SYN_ACK);
    leave(&node, 1, t, TCP, ACK);
    assert_eq!(sizes(&node), (0, 1));
    for flags in 0..32 {
        let dropped = Verdict::drop(crate::abi::Reason::Unpublished);
        assert_eq!(enter(&node, t, TCP, flags).0, dropped, "flags {flags:#x}");
    }
    assert_eq!(leave(&node, 1, t, TCP, ACK).1, inside);
}
