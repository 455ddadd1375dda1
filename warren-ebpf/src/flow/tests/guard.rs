//! The guard drops nothing but what would be dropped anyway, for the same reason, and changes nothing.

use std::{
    collections::{HashMap, HashSet},
    vec::Vec,
};

use proptest::prelude::*;

use super::*;
use crate::abi::{
    CONFIG_DENY, Client, ClientKey, Flow, FlowKey, Forward, ForwardKey, Limit, Mac, Reason, SERVICE_LIMITED,
    SERVICE_PACED,
};

of_both_families!(
    what_is_not_plain_is_left_to_others,
    a_number_that_is_too_large_is_left_to_who_lowers_it,
    others_and_other_reasons_are_let_through,
    what_is_addressed_to_another_host_passes,
);

const MILLISECOND: u64 = 1_000_000;

/// Everything that a packet may leave behind.
type Trace<A> =
    (HashMap<ClientKey, Client>, u64, HashMap<FlowKey<A>, Flow<A>>, HashMap<ForwardKey<A>, Forward>);

fn trace<A: Family>(node: &Model<A>) -> Trace<A> {
    let clients = node.clients.rows().into_iter().collect();
    let flows = node.flow_new.rows().into_iter().chain(node.flow_est.rows()).collect();
    let forwards = node.fwd_new.rows().into_iter().chain(node.fwd_est.rows()).collect();
    (clients, node.gate.get(), flows, forwards)
}

/// One packet past the guard and to the node: what both say.
fn pass<A: Family>(node: &Model<A>, packet: &[u8]) -> (Verdict<A>, Verdict<A>) {
    let before = trace(node);
    let early = node.guard(packet, UPLINK);
    assert!(before == trace(node), "the guard changes nothing");
    (early, node.node_in(&mut packet.to_vec(), UPLINK))
}

fn is_early(reason: Reason) -> bool {
    matches!(reason, Reason::Denied | Reason::FlowRate | Reason::PacketRate | Reason::Newcomers)
}

/// A node with a port for each protocol and with or without each limit.
fn limited<A: Family>(limit: Limit) -> Model<A> {
    let mut node = node::<A>(2);
    // Whom the packets are addressed to.
    node.macs.insert(UPLINK, Mac { address: [4; 6], pad: 0 });
    for (port, flags) in [(8080, SERVICE_LIMITED), (8081, SERVICE_LIMITED | SERVICE_PACED), (8082, 0)] {
        for protocol in [TCP, UDP] {
            publish_for(&mut node, protocol, A::ZERO, port, &[1, 2]);
        }
        for (key, service) in &mut node.services {
            if key.port == port {
                service.flags = flags;
            }
        }
        let paced = if flags & SERVICE_PACED == 0 { 0 } else { limit.packet_spacing };
        node.limits.insert(port.into(), Limit { packet_spacing: paced, ..limit });
    }
    node
}

/// Packets of a few clients, most of them of one, in a short time.
fn packets() -> impl Strategy<Value = Vec<(u32, u16, u16, bool, u8, u64)>> {
    let flags = prop_oneof![4 => Just(SYN), 4 => Just(ACK), 1 => 0u8..32];
    let client = prop_oneof![6 => Just(0u32), 2 => 0u32..4, 1 => 0u32..4000];
    let pause = prop_oneof![4 => 0..MILLISECOND, 1 => 0..30 * MILLISECOND];
    let packet = (client, 1u16..12, 8080u16..8083, any::<bool>(), flags, pause);
    proptest::collection::vec(packet, 1..150)
}

/// What the guard drops the node would; what the node drops for these reasons the guard has.
fn foresees_what_is_refused<A: Family>(
    packets: Vec<(u32, u16, u16, bool, u8, u64)>,
    limit: Limit,
    gate: u64,
) -> Result<(), TestCaseError> {
    let mut node = limited::<A>(limit);
    node.denied = [(A::apart(1), 8 * size_of::<A>() as u32)].into();
    node.config.flags |= CONFIG_DENY;
    // As if a flood of newcomers had come, or had not.
    node.gate.set(node.now + gate);
    // What begins anew on a flow that has ended: the guard sees that there is one, and leaves it to others.
    let mut ended = HashSet::new();
    for (client, sport, port, udp, flags, pause) in packets {
        node.now += pause;
        let t = tuple(A::apart(client), sport, A::NODE, port);
        let (early, late) = pass(&node, &make(t, if udp { UDP } else { TCP }, flags));
        if early.action == Action::Drop {
            prop_assert_eq!(late, early);
            prop_assert!(is_early(early.reason));
            continue;
        }
        prop_assert_eq!(early, Verdict::PASS);
        let missed = late.action == Action::Drop && is_early(late.reason);
        prop_assert!(!missed || ended.contains(&(client, sport, port)), "{:?} of {:?}", late, t);
        if !udp && flags & (FIN | RST) != 0 {
            ended.insert((client, sport, port));
        }
    }
    Ok(())
}

fn limit() -> impl Strategy<Value = Limit> {
    let rate = || {
        prop_oneof![1 => Just(0u32), 4 => 1u32..100]
            .prop_map(|r| 1_000_000_000u32.checked_div(r).unwrap_or(0))
    };
    (rate(), 1u32..4, rate(), 1u32..8).prop_map(|(flow_spacing, flow_burst, packet_spacing, packet_burst)| {
        Limit { flow_spacing, flow_burst, packet_spacing, packet_burst, connections: 0 }
    })
}

/// Where the gate stands: wide open, about shut, shut.
fn gate<A: Family>() -> impl Strategy<Value = u64> {
    let (spacing, burst) = A::NEWCOMERS;
    let reach = u64::from(spacing) * u64::from(burst);
    prop_oneof![Just(0), reach - 10 * MILLISECOND..reach + 50 * MILLISECOND, Just(reach + 900 * MILLISECOND)]
}

proptest! {
    #[test]
    fn what_is_refused_is_foreseen_in_ipv4(packets in packets(), limit in limit(), gate in gate::<V4>()) {
        foresees_what_is_refused::<V4>(packets, limit, gate)?;
    }

    #[test]
    fn what_is_refused_is_foreseen_in_ipv6(packets in packets(), limit in limit(), gate in gate::<V6>()) {
        foresees_what_is_refused::<V6>(packets, limit, gate)?;
    }

    #[test]
    fn noise_passes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let node = limited::<V4>(Limit::default());
        prop_assert_eq!(node.guard(&bytes, UPLINK), Verdict::PASS);
        let node = limited::<V6>(Limit::default());
        prop_assert_eq!(node.guard(&bytes, UPLINK), Verdict::PASS);
    }
}

/// One flow at once and one packet, and then none for hours.
const STRICT: Limit =
    Limit { flow_spacing: u32::MAX, flow_burst: 1, packet_spacing: 0, packet_burst: 1, connections: 0 };

fn what_is_not_plain_is_left_to_others<A: Family>() {
    let node = limited::<A>(STRICT);
    let t = tuple(A::CLIENT, 1, A::NODE, 8080);
    assert_eq!(pass(&node, &make(t, UDP, 0)).1.action, Action::Container);
    let packet = make(tuple(A::CLIENT, 2, A::NODE, 8080), UDP, 0);
    assert_eq!(node.guard(&packet, UPLINK), Verdict::drop(Reason::FlowRate));
    if A::OPTIONAL {
        let mut extended = packet.clone();
        extended.splice(54..54, [UDP, 0, 1, 4, 0, 0, 0, 0]);
        (extended[20], extended[19]) = (60, extended[19] + 8);
        assert_eq!(node.guard(&extended, UPLINK), Verdict::PASS);
        let mut fragment = packet.clone();
        fragment.splice(54..54, [UDP, 0, 0, 1, 1, 2, 3, 4]);
        (fragment[20], fragment[19]) = (44, fragment[19] + 8);
        assert_eq!(node.guard(&fragment, UPLINK), Verdict::PASS);
    } else {
        let mut options = packet.clone();
        options.splice(34..34, [1; 4]);
        (options[14], options[17]) = (0x46, options[17] + 4);
        assert_eq!(node.guard(&options, UPLINK), Verdict::PASS);
        assert_eq!(pass(&node, &options).1, Verdict::drop(Reason::FlowRate), "it is refused all the same");
        let mut fragment = packet.clone();
        fragment[20] |= 0x20;
        assert_eq!(node.guard(&fragment, UPLINK), Verdict::PASS);
    }
}

fn a_number_that_is_too_large_is_left_to_who_lowers_it<A: Family>() {
    let node = limited::<A>(Limit { flow_spacing: 1_000_000, ..STRICT });
    let begin = |port| make(tuple(A::CLIENT, port, A::NODE, 8080), TCP, SYN);
    assert_eq!(pass(&node, &begin(1)).1.action, Action::Container);
    // As of another limit, or of another clock.
    let (key, client) = node.clients.rows()[0];
    let far = node.now + 3_600_000 * MILLISECOND;
    super::super::Table::insert(&node.clients, &key, &Client { flows: far, ..client });
    let (early, late) = (node.guard(&begin(2), UPLINK), node.node_in(&mut begin(2), UPLINK));
    assert_eq!((early, late), (Verdict::PASS, Verdict::drop(Reason::FlowRate)));
    assert!(node.clients.rows()[0].1.flows < far, "it was lowered");
    assert_eq!(node.guard(&begin(2), UPLINK), Verdict::drop(Reason::FlowRate), "from now on it is believed");
}

fn others_and_other_reasons_are_let_through<A: Family>() {
    let mut node = limited::<A>(STRICT);
    let begins = |from, port, to, dport| make(tuple(from, port, to, dport), UDP, 0);
    assert_eq!(pass(&node, &begins(A::CLIENT, 1, A::NODE, 8080)).1.action, Action::Container);
    let refused = begins(A::CLIENT, 2, A::NODE, 8080);
    assert_eq!(node.guard(&refused, UPLINK), Verdict::drop(Reason::FlowRate));
    // The flow it has, what it sends elsewhere, what others send.
    for packet in [
        begins(A::CLIENT, 1, A::NODE, 8080),
        begins(A::CLIENT, 2, A::NODE, 8082),
        begins(A::CLIENT, 2, A::REMOTE, 8080),
        begins(A::REMOTE, 2, A::NODE, 8080),
    ] {
        assert_eq!(node.guard(&packet, UPLINK), Verdict::PASS);
    }
    // A socket of the node waits for it.
    node.expected = [tuple(A::CLIENT, 2, A::NODE, 8080)].into();
    assert_eq!(node.guard(&refused, UPLINK), Verdict::PASS);
    node.expected.clear();
    // Published for others: that is another reason.
    node.services.values_mut().for_each(|s| s.sources = 7);
    assert_eq!(node.guard(&refused, UPLINK), Verdict::PASS);
    assert_eq!(node.node_in(&mut refused.clone(), UPLINK), Verdict::drop(Reason::Refused));
    node.services.values_mut().for_each(|s| s.sources = 0);
    // The agent has switched everything off.
    node.config.flags = 0;
    assert_eq!(node.guard(&refused, UPLINK), Verdict::PASS);
}

fn what_is_addressed_to_another_host_passes<A: Family>() {
    let mut node = limited::<A>(STRICT);
    let t = tuple(A::CLIENT, 1, A::NODE, 8080);
    node.denied = [(A::CLIENT, 8 * size_of::<A>() as u32)].into();
    node.config.flags |= CONFIG_DENY;
    let packet = make(t, TCP, SYN);
    assert_eq!(node.guard(&packet, UPLINK), Verdict::drop(Reason::Denied));
    for byte in 0..6 {
        let mut other = packet.clone();
        other[byte] ^= 0x10;
        assert_eq!(node.guard(&other, UPLINK), Verdict::PASS, "byte {byte}");
    }
    assert_eq!(node.guard(&packet, UPLINK + 1), Verdict::PASS, "a device that nothing is known of");
    node.macs.clear();
    assert_eq!(node.guard(&packet, UPLINK), Verdict::PASS);
}
