//! How much one client gets of a port.

use proptest::prelude::*;

use super::*;
use crate::{
    abi::{
        CONFIG_DENY, Client, ClientKey, Limit, NEWCOMER_BURST4, NEWCOMER_BURST6, Reason, SERVICE_LIMITED,
        SERVICE_PACED,
    },
    flow::limit::take,
};

of_both_families!(
    a_client_begins_as_many_flows_as_it_may,
    packets_are_limited_with_each_one,
    clients_do_not_take_from_each_other,
    a_flood_of_newcomers_is_let_in_at_its_pace_and_stops_nobody_else,
    only_what_comes_from_outside_to_the_node_is_limited,
    who_is_denied_gets_nothing,
);

const NANOS: u64 = 1_000_000_000;

/// One client's number.
struct Alone {
    tables: Model<V4>,
    even: u64,
}

impl Alone {
    fn new() -> Self {
        Self { tables: Model::new(1, 1), even: 0 }
    }

    fn takes(&mut self, spacing: u32, burst: u32, now: u64) -> bool {
        take(&self.tables, &mut self.even, spacing, burst, now)
    }
}

/// Rates from 1 to 1,000,000 a second.
fn spacing() -> impl Strategy<Value = u32> {
    prop_oneof![1_000u32..=1_000_000_000, (1u32..=1_000_000).prop_map(|rate| 1_000_000_000 / rate)]
}

fn burst() -> impl Strategy<Value = u32> {
    prop_oneof![1u32..=4, 1u32..=1000, Just(1_000_000)]
}

/// Pauses between arrivals: all at once, about the spacing, long.
fn pauses() -> impl Strategy<Value = Vec<u64>> {
    let pause = prop_oneof![
        4 => Just(0u64),
        4 => 0u64..2_000_000,
        2 => 0u64..2 * NANOS,
        1 => 0u64..1000 * NANOS,
    ];
    proptest::collection::vec(pause, 1..400)
}

proptest! {
    /// From any moment on: at most the burst, and one more for each spacing.
    #[test]
    fn never_more_than_the_burst_and_the_rate(
        spacing in spacing(), burst in burst(), start in 1u64..1 << 60, pauses in pauses(),
    ) {
        let mut client = Alone::new();
        let mut now = start;
        let mut granted = Vec::new();
        for pause in pauses {
            now += pause;
            if client.takes(spacing, burst, now) {
                granted.push(now);
            }
        }
        for (i, from) in granted.iter().enumerate() {
            for (j, to) in granted.iter().enumerate().skip(i) {
                let most = u64::from(burst) + (to - from) / u64::from(spacing);
                prop_assert!((j - i + 1) as u64 <= most, "{} in {} ns", j - i + 1, to - from);
            }
        }
        prop_assert!(!granted.is_empty(), "the first one always");
    }

    /// Who always asks gets all of it, and who keeps to the rate is never refused.
    #[test]
    fn never_less_than_the_rate(
        spacing in spacing(), burst in 1u32..=50, start in 1u64..1 << 60, rounds in 1u64..200, late in 0u64..5,
    ) {
        let (mut greedy, mut modest) = (Alone::new(), Alone::new());
        let mut granted = 0;
        for round in 0..rounds {
            let now = start + round * u64::from(spacing);
            for _ in 0..=burst {
                granted += u64::from(greedy.takes(spacing, burst, now));
            }
            prop_assert!(modest.takes(spacing, burst, now + round * late), "round {round}");
        }
        prop_assert_eq!(granted, u64::from(burst) + rounds - 1);
    }

    /// A clock that jumps, and a limit that was another one, cost a client a second at most; and a jump
    /// gives nobody more than the time that passes after it.
    #[test]
    fn jumps_of_the_clock_and_other_limits_are_overcome(
        before in (spacing(), burst()), now in (spacing(), burst()), start in NANOS..1 << 59, then in NANOS..1 << 59,
    ) {
        let mut client = Alone::new();
        while client.takes(before.0, before.1, start) && client.even < start + 10 * NANOS {}
        let (spacing, burst) = now;
        let _ = client.takes(spacing, burst, then);
        let patience = u64::from(spacing) + NANOS;
        prop_assert!(client.takes(spacing, burst, then + patience));
        let mut granted = 1;
        while granted <= u64::from(burst) + 2 && client.takes(spacing, burst, then + patience) {
            granted += 1;
        }
        prop_assert!(granted <= u64::from(burst), "{granted}");
    }
}

#[test]
fn a_second_s_worth_and_the_rate_to_the_packet() {
    // 100 a second, 100 at once; ten times as many come, for ten seconds.
    let mut client = Alone::new();
    let granted = (0..10_000u64).filter(|i| client.takes(10_000_000, 100, NANOS + i * NANOS / 1000)).count();
    assert!((100 + 999..=100 + 1000).contains(&granted), "{granted}");
}

/// Limits the port: so many flows and packets a second, and as many at once as `burst` says.
fn limit<A: Family>(node: &mut Model<A>, port: u16, protocol: u8, flows: (u32, u32), packets: (u32, u32)) {
    let spacing = |rate: u32| 1_000_000_000u32.checked_div(rate).unwrap_or(0);
    let service =
        node.services.get_mut(&ServiceKey { address: A::ZERO, port, protocol, pad: 0 }).expect("published");
    service.flags = SERVICE_LIMITED | if packets.0 == 0 { 0 } else { SERVICE_PACED };
    let limit = Limit {
        flow_spacing: spacing(flows.0),
        flow_burst: flows.1,
        packet_spacing: spacing(packets.0),
        packet_burst: packets.1,
        connections: 0,
    };
    node.limits.insert(service.id, limit);
}

fn fate<A: Family>(node: &Model<A>, t: Tuple<A>, protocol: u8, flags: u8) -> Result<u32, Reason> {
    let (verdict, _) = enter(node, t, protocol, flags);
    match verdict.action {
        Action::Container => Ok(verdict.ifindex - 100),
        Action::Drop => Err(verdict.reason),
        other => panic!("{other:?}"),
    }
}

fn a_client_begins_as_many_flows_as_it_may<A: Family>() {
    for protocol in [TCP, UDP] {
        let mut node = node::<A>(1);
        publish_for(&mut node, protocol, A::ZERO, 8080, &[1]);
        limit(&mut node, 8080, protocol, (10, 3), (0, 0));
        let begin = |node: &Model<A>, port| fate(node, tuple(A::CLIENT, port, A::NODE, 8080), protocol, SYN);
        for port in 1..=3 {
            assert_eq!(begin(&node, port), Ok(1));
        }
        assert_eq!(begin(&node, 4), Err(Reason::FlowRate));
        assert_eq!(begin(&node, 1), Ok(1), "a SYN once more begins nothing");
        node.now += 100_000_000;
        assert_eq!(begin(&node, 5), Ok(1), "one more after a tenth of a second");
        assert_eq!(begin(&node, 6), Err(Reason::FlowRate));
        assert_eq!(node.flow_new.len(), 4, "what is refused leaves nothing");
        after(&mut node, 60);
        for port in 10..13 {
            assert_eq!(begin(&node, port), Ok(1));
        }
        assert_eq!(begin(&node, 13), Err(Reason::FlowRate), "a pause is worth a burst and no more");
    }
}

fn packets_are_limited_with_each_one<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    limit(&mut node, 8080, TCP, (0, 0), (100, 10));
    let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
    let (id, inside) = connect(&node, t);
    for _ in 2..10 {
        assert_eq!(fate(&node, t, TCP, ACK), Ok(id));
    }
    assert_eq!(fate(&node, t, TCP, ACK), Err(Reason::PacketRate));
    let (verdict, _) = leave(&node, id, reversed(inside), TCP, ACK);
    assert_eq!(verdict.action, Action::Device, "what the container says is not limited");
    node.now += 10_000_000;
    assert_eq!(fate(&node, t, TCP, ACK), Ok(id));
    assert_eq!(fate(&node, t, TCP, ACK), Err(Reason::PacketRate));
    let other = tuple(A::CLIENT, 1001, A::NODE, 8080);
    assert_eq!(fate(&node, other, TCP, SYN), Err(Reason::PacketRate), "by another port of the client");
    // The limit is lifted: from the next packet on.
    node.services.values_mut().for_each(|s| s.flags = 0);
    assert_eq!(fate(&node, t, TCP, ACK), Ok(id));
}

fn clients_do_not_take_from_each_other<A: Family>() {
    let mut node = node::<A>(1);
    for port in [8080, 8081] {
        publish(&mut node, A::ZERO, port, &[1]);
        limit(&mut node, port, TCP, (1, 2), (0, 0));
    }
    publish_for(&mut node, UDP, A::ZERO, 8080, &[1]);
    limit(&mut node, 8080, UDP, (1, 2), (0, 0));
    let begin =
        |client, sport, port, protocol| fate(&node, tuple(client, sport, A::NODE, port), protocol, SYN);
    for sport in 1..=100 {
        let said = begin(A::CLIENT, sport, 8080, TCP);
        assert_eq!(said, if sport <= 2 { Ok(1) } else { Err(Reason::FlowRate) });
    }
    assert_eq!(begin(A::apart(1), 1, 8080, TCP), Ok(1));
    assert_eq!(begin(A::CLIENT, 200, 8081, TCP), Ok(1), "another port");
    assert_eq!(begin(A::CLIENT, 201, 8080, UDP), Ok(1), "another protocol");
    // One address of IPv4; of IPv6 all that have the first half in common.
    let together = [
        begin(A::stranger(1), 1, 8081, TCP),
        begin(A::stranger(2), 1, 8081, TCP),
        begin(A::stranger(3), 1, 8081, TCP),
    ];
    let of_its_own = if A::OPTIONAL { Err(Reason::FlowRate) } else { Ok(1) };
    assert_eq!(together[2], of_its_own);
}

fn a_flood_of_newcomers_is_let_in_at_its_pace_and_stops_nobody_else<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    publish(&mut node, A::ZERO, 8081, &[1]);
    limit(&mut node, 8080, TCP, (100, 100), (100_000, 1000));
    let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
    let (id, _) = connect(&node, t);
    let burst = if A::OPTIONAL { NEWCOMER_BURST6 } else { NEWCOMER_BURST4 };
    let asks = |node: &Model<A>, n: u32| fate(node, tuple(A::apart(n), 5, A::NODE, 8080), TCP, SYN);
    let mut let_in = 0;
    for n in 0..burst + 1000 {
        match asks(&node, n) {
            Ok(_) => let_in += 1,
            Err(reason) => assert_eq!(reason, Reason::Newcomers),
        }
    }
    assert_eq!(let_in, burst - 1, "the client was the first");
    // Who is known goes on, and ports without limits know nothing of all this.
    assert_eq!(fate(&node, t, TCP, ACK), Ok(id));
    assert_eq!(fate(&node, tuple(A::CLIENT, 1001, A::NODE, 8080), TCP, SYN), Ok(1));
    assert_eq!(fate(&node, tuple(A::apart(30_000), 5, A::NODE, 8081), TCP, SYN), Ok(1));
    assert!(node.clients.len() <= burst as usize);
    // A flow whose client was forgotten goes on, too.
    let rows: Vec<(ClientKey, Client)> = node.clients.rows();
    node.clients.clear();
    assert!(!rows.is_empty());
    assert_eq!(fate(&node, t, TCP, ACK), Ok(id));
    assert_eq!(fate(&node, tuple(A::CLIENT, 1002, A::NODE, 8080), TCP, SYN), Err(Reason::Newcomers));
    after(&mut node, 1);
    let (spacing, _) = A::NEWCOMERS;
    let let_in = (0..5000).filter(|n| asks(&node, 40_000 + n).is_ok()).count();
    assert_eq!(let_in, (NANOS / u64::from(spacing)) as usize, "in a second");
}

fn only_what_comes_from_outside_to_the_node_is_limited<A: Family>() {
    let mut node = node::<A>(2);
    publish(&mut node, A::ZERO, 8080, &[1]);
    limit(&mut node, 8080, TCP, (1, 1), (1, 1));
    for port in 1..20 {
        let (verdict, _) = leave(&node, 2, tuple(container::<A>(2).0, port, A::NODE, 8080), TCP, SYN);
        assert_eq!(reached(&verdict), Some(1), "containers are not limited");
        // Through the node to somebody else's port of the same number.
        let (verdict, _) = enter(&node, tuple(A::CLIENT, port, A::REMOTE, 8080), TCP, SYN);
        assert_eq!(verdict, Verdict::PASS);
    }
    assert!(node.clients.is_empty());
}

fn who_is_denied_gets_nothing<A: Family>() {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    let t = tuple(A::CLIENT, 1000, A::NODE, 8080);
    let (id, inside) = connect(&node, t);
    let whole = 8 * size_of::<A>() as u32;
    node.denied = [(A::CLIENT, whole)].into();
    assert_eq!(fate(&node, t, TCP, ACK), Ok(id), "not looked at until the agent says so");
    node.config.flags |= CONFIG_DENY;
    for flags in [SYN, ACK, FIN_ACK, RST] {
        assert_eq!(fate(&node, t, TCP, flags), Err(Reason::Denied));
    }
    assert_eq!(fate(&node, tuple(A::REMOTE, 1, A::NODE, 8080), TCP, SYN), Ok(1), "others come in");
    let pass = |node: &Model<A>, t| enter(node, t, TCP, SYN).0 == Verdict::PASS;
    assert!(pass(&node, tuple(A::CLIENT, 1, A::NODE, 22)), "other ports are the host's matter");
    assert!(pass(&node, tuple(A::CLIENT, 1, A::REMOTE, 8080)), "and other hosts theirs");
    // The container may ask it, and gets its answers.
    let out = tuple(container::<A>(1).0, 5000, A::CLIENT, 443);
    let (verdict, shown) = leave(&node, 1, out, TCP, SYN);
    assert_eq!(verdict.action, Action::Device);
    assert_eq!(reached(&enter(&node, reversed(shown), TCP, SYN_ACK).0), Some(1));
    assert_eq!(leave(&node, id, reversed(inside), TCP, ACK).0.action, Action::Device);
    for len in [0, 1, 7, 8, 31, 32, whole] {
        node.denied = [(A::CLIENT, len)].into();
        assert_eq!(fate(&node, t, TCP, ACK), Err(Reason::Denied), "/{len}");
    }
    node.denied.clear();
    assert_eq!(fate(&node, t, TCP, ACK), Ok(id), "back in, on the connection it had");
}
