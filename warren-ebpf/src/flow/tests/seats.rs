//! How many flows a client may have of a port at a time.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{
    abi::{
        Client, FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_ESTABLISHED, FLOW_RESET, Limit, Reason, SERVICE_LIMITED,
        SERVICE_SEATED,
    },
    flow::{Table, model::Lru, seat::PAUSE},
};

of_both_families!(
    a_client_has_so_many_connections_at_a_time,
    flows_of_udp_end_by_their_silence,
    whatever_ends_a_connection_gives_its_seat_back,
    one_connection_after_the_other_has_one_seat,
    who_comes_back_after_losing_its_seat_is_not_served,
    clients_and_ports_have_seats_of_their_own,
    evicted_flows_leave_no_seats_behind,
    who_has_none_free_is_not_looked_at_all_the_time,
    a_larger_limit_holds_at_once_and_a_smaller_one_for_what_begins,
);

const MILLISECOND: u64 = 1_000_000;

/// Lets each client have so many flows of the port.
fn limit<A: Family>(node: &mut Model<A>, port: u16, connections: u32) {
    for (key, service) in &mut node.services {
        if key.port == port {
            service.flags = SERVICE_LIMITED | SERVICE_SEATED;
            node.limits.insert(service.id, Limit { connections, ..Limit::default() });
        }
    }
}

fn site<A: Family>(connections: u32) -> Model<A> {
    let mut node = node::<A>(1);
    publish(&mut node, A::ZERO, 8080, &[1]);
    limit(&mut node, 8080, connections);
    node
}

fn from<A: Family>(client: A, port: u16) -> Tuple<A> {
    tuple(client, port, A::NODE, 8080)
}

/// Whether a flow may begin; refused ones leave nothing and say why. Time passes before it.
fn begins<A: Family>(node: &mut Model<A>, t: Tuple<A>, protocol: u8) -> bool {
    node.now += 11 * MILLISECOND;
    begins_now(node, t, protocol)
}

fn begins_now<A: Family>(node: &Model<A>, t: Tuple<A>, protocol: u8) -> bool {
    let before = node.flow_new.len();
    let (verdict, _) = enter(node, t, protocol, SYN);
    match verdict.action {
        Action::Container => return true,
        Action::Drop => assert_eq!(verdict.reason, Reason::Connections),
        other => panic!("{other:?}"),
    }
    assert_eq!(node.flow_new.len(), before);
    false
}

fn a_client_has_so_many_connections_at_a_time<A: Family>() {
    let mut node = site::<A>(3);
    for port in 1..=3 {
        node.now += 11 * MILLISECOND;
        connect(&node, from(A::CLIENT, port));
    }
    assert!(!begins(&mut node, from(A::CLIENT, 4), TCP));
    assert!(begins(&mut node, from(A::CLIENT, 2), TCP), "a SYN once more begins nothing");
    assert!(begins(&mut node, from(A::apart(1), 4), TCP), "another client");
    assert_eq!(node.seats.len(), 4);
    // Day in, day out.
    after(&mut node, 3600);
    assert!(!begins(&mut node, from(A::CLIENT, 4), TCP), "a connection may be silent for long");
    node.services.values_mut().for_each(|s| s.flags = 0);
    assert!(begins(&mut node, from(A::CLIENT, 4), TCP), "lifted");
}

fn flows_of_udp_end_by_their_silence<A: Family>() {
    let mut node = node::<A>(1);
    publish_for(&mut node, UDP, A::ZERO, 8080, &[1]);
    limit(&mut node, 8080, 2);
    assert!(begins(&mut node, from(A::CLIENT, 1), UDP) && begins(&mut node, from(A::CLIENT, 2), UDP));
    assert!(!begins(&mut node, from(A::CLIENT, 3), UDP));
    after(&mut node, 20);
    let (_, inside) = enter(&node, from(A::CLIENT, 1), UDP, 0);
    leave(&node, 1, reversed(inside), UDP, 0);
    after(&mut node, 20);
    assert!(begins(&mut node, from(A::CLIENT, 3), UDP), "nobody answered the second");
    assert!(!begins(&mut node, from(A::CLIENT, 4), UDP));
    assert!(!begins(&mut node, from(A::CLIENT, 2), UDP), "and its place is gone");
}

fn whatever_ends_a_connection_gives_its_seat_back<A: Family>() {
    let mut node = site::<A>(1);
    let t = |port| from(A::CLIENT, port);
    let (id, inside) = connect(&node, t(1));
    enter(&node, t(1), TCP, FIN_ACK);
    assert!(!begins(&mut node, t(2), TCP), "half of it");
    leave(&node, id, reversed(inside), TCP, FIN_ACK);
    assert!(begins(&mut node, t(2), TCP), "both have closed it");

    enter(&node, t(2), TCP, RST);
    assert!(begins(&mut node, t(3), TCP), "the client gave up");
    leave(&node, 1, reversed(enter(&node, t(3), TCP, SYN).1), TCP, RST | ACK);
    assert!(begins(&mut node, t(4), TCP), "the container refused");
    assert!(!begins(&mut node, t(5), TCP));
    after(&mut node, 31);
    assert!(begins(&mut node, t(5), TCP), "nobody answered");
    connect(&node, t(5));
    after(&mut node, 86_401);
    assert!(begins(&mut node, t(6), TCP), "nobody spoke for a day");
    // The same port once more, while the container has not closed.
    connect(&node, t(6));
    enter(&node, t(6), TCP, FIN_ACK);
    assert!(begins(&mut node, t(6), TCP), "the new one takes the place of the old one");
    assert!(!begins(&mut node, t(7), TCP));
}

fn one_connection_after_the_other_has_one_seat<A: Family>() {
    let mut node = site::<A>(100);
    let mut one = |port| {
        // Without a pause.
        let (id, inside) = connect(&node, from(A::CLIENT, port));
        leave(&node, id, reversed(inside), TCP, FIN_ACK);
        enter(&node, from(A::CLIENT, port), TCP, FIN_ACK);
        node.now += 1;
    };
    (1..=1000).for_each(&mut one);
    assert_eq!(node.seats.len(), 1);
}

fn who_comes_back_after_losing_its_seat_is_not_served<A: Family>() {
    // A reset that the container ignores, since its sequence number is wrong.
    let mut node = site::<A>(1);
    let (id, inside) = connect(&node, from(A::CLIENT, 1));
    enter(&node, from(A::CLIENT, 1), TCP, RST);
    assert!(reached(&enter(&node, from(A::CLIENT, 1), TCP, ACK).0).is_some(), "until another has its seat");
    assert!(begins(&mut node, from(A::CLIENT, 2), TCP));
    assert_eq!(reached(&enter(&node, from(A::CLIENT, 1), TCP, ACK).0), None);
    assert_ne!(leave(&node, id, reversed(inside), TCP, ACK).0.action, Action::Device);
    assert_eq!(reached(&enter(&node, from(A::CLIENT, 1), TCP, ACK).0), None);
    // Nobody else's.
    let mut node = site::<A>(1);
    let (id, inside) = connect(&node, from(A::CLIENT, 1));
    enter(&node, from(A::CLIENT, 1), TCP, RST);
    assert_eq!(leave(&node, id, reversed(inside), TCP, ACK).0.action, Action::Device, "it was no reset");
    assert!(!begins(&mut node, from(A::CLIENT, 2), TCP));
}

fn clients_and_ports_have_seats_of_their_own<A: Family>() {
    let mut node = site::<A>(1);
    publish(&mut node, A::ZERO, 8081, &[1]);
    limit(&mut node, 8081, 1);
    publish_for(&mut node, UDP, A::ZERO, 8080, &[1]);
    limit(&mut node, 8080, 1);
    let to = |client, port| tuple(client, 1, A::NODE, port);
    assert!(begins(&mut node, to(A::CLIENT, 8080), TCP) && begins(&mut node, to(A::CLIENT, 8081), TCP));
    assert!(begins(&mut node, to(A::CLIENT, 8080), UDP));
    for n in 0..100 {
        assert!(begins(&mut node, to(A::apart(n), 8080), TCP));
        assert!(!begins(&mut node, tuple(A::apart(n), 2, A::NODE, 8080), TCP));
    }
    // One address of IPv4; of IPv6 all that have the first half in common.
    begins(&mut node, to(A::stranger(1), 8081), TCP);
    assert_eq!(begins(&mut node, to(A::stranger(2), 8081), TCP), !A::OPTIONAL);
    // Containers are no clients from outside.
    node.backends
        .insert(2, Backend { generation: 1, ifindex: 102, state: BACKEND_UP, ..A::row(container::<A>(2).0) });
    node.endpoints.insert(container::<A>(2).0, backend_ref(2));
    node.links.insert(102, backend_ref(2));
    for port in 1..20 {
        let (verdict, _) = leave(&node, 2, tuple(container::<A>(2).0, port, A::NODE, 8080), TCP, SYN);
        assert_eq!(reached(&verdict), Some(1));
    }
}

fn evicted_flows_leave_no_seats_behind<A: Family>() {
    let mut node = site::<A>(5);
    (node.flow_new, node.fwd_new) = (Lru::new(2), Lru::new(2));
    for port in 1..200 {
        assert!(begins(&mut node, from(A::CLIENT, port), TCP), "{port}: two of them are left");
    }
    assert!(node.seats.len() <= 5);
    // A record that is made anew has the seat it had.
    let mut node = site::<A>(1);
    let (_, inside) = connect(&node, from(A::CLIENT, 1));
    node.flow_est.clear();
    assert_eq!(enter(&node, from(A::CLIENT, 1), TCP, ACK).1, inside);
    assert!(!begins(&mut node, from(A::CLIENT, 2), TCP));
    node.fwd_est.clear();
    assert_eq!(enter(&node, from(A::CLIENT, 1), TCP, ACK).1, inside);
    node.flow_est.clear();
    assert_eq!(enter(&node, from(A::CLIENT, 1), TCP, ACK).1, inside);
    assert!(!begins(&mut node, from(A::CLIENT, 2), TCP));
}

fn who_has_none_free_is_not_looked_at_all_the_time<A: Family>() {
    let mut node = site::<A>(1000);
    for port in 1..=1000 {
        assert!(begins(&mut node, from(A::CLIENT, port), TCP));
    }
    assert!(!begins(&mut node, from(A::CLIENT, 2000), TCP));
    enter(&node, from(A::CLIENT, 1), TCP, RST);
    assert!(!begins_now(&node, from(A::CLIENT, 2000), TCP), "for a moment it is not seen that one is free");
    node.now += 1000 * PAUSE;
    assert!(begins_now(&node, from(A::CLIENT, 2000), TCP));
    assert!(!begins_now(&node, from(A::CLIENT, 2001), TCP));
    // A moment of another clock is of no meaning.
    enter(&node, from(A::CLIENT, 2), TCP, RST);
    for (key, client) in node.clients.rows() {
        node.clients.insert(&key, &Client { seats: u64::MAX, ..client });
    }
    assert!(begins_now(&node, from(A::CLIENT, 2001), TCP));
}

fn a_larger_limit_holds_at_once_and_a_smaller_one_for_what_begins<A: Family>() {
    let mut node = site::<A>(2);
    let t = |port| from(A::CLIENT, port);
    assert!(begins(&mut node, t(1), TCP) && begins(&mut node, t(2), TCP) && !begins(&mut node, t(3), TCP));
    limit(&mut node, 8080, 4);
    assert!(begins(&mut node, t(3), TCP) && begins(&mut node, t(4), TCP) && !begins(&mut node, t(5), TCP));
    limit(&mut node, 8080, 1);
    assert!(!begins(&mut node, t(5), TCP));
    for port in 1..=4 {
        enter(&node, t(port), TCP, RST);
    }
    assert!(begins(&mut node, t(5), TCP) && !begins(&mut node, t(6), TCP));
}

/// Something that happens to one of a client's connections.
#[derive(Debug, Clone, Copy)]
enum Step {
    Client { client: u8, port: u8, flags: u8 },
    Server { client: u8, port: u8, flags: u8 },
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let flags = || prop_oneof![5 => Just(SYN), 3 => Just(SYN_ACK), 4 => Just(ACK), 2 => Just(FIN_ACK), 1 => Just(RST), 1 => 0u8..32];
    prop_oneof![
        6 => (0u8..2, 1u8..8, flags()).prop_map(|(client, port, flags)| Step::Client { client, port, flags }),
        4 => (0u8..2, 1u8..8, flags()).prop_map(|(client, port, flags)| Step::Server { client, port, flags }),
        1 => prop_oneof![8u16..12, 25u16..40, 100u16..130].prop_map(Step::Wait),
    ]
}

/// The client's connections that go on, counted in the tables: its ports.
fn live<A: Family>(node: &Model<A>, client: A) -> Vec<u16> {
    let goes_on = |f: &crate::abi::Flow<A>| {
        let patience = match f.state {
            FLOW_CLOSED | FLOW_RESET => return false,
            FLOW_ESTABLISHED => node.config.established,
            state if state >= FLOW_CLIENT_FIN => node.config.closing,
            _ => node.config.half_open,
        };
        f.client == client && node.now - f.last_seen <= u64::from(patience) * 1_000_000_000
    };
    let rows = node.flow_est.rows().into_iter().chain(node.flow_new.rows());
    rows.filter(|(_, f)| goes_on(f)).map(|(_, f)| f.client_port).collect()
}

fn never_more_and_never_refused_with_less<A: Family>(steps: &[Step], most: u32) -> Result<(), TestCaseError> {
    let mut node = site::<A>(most);
    let clients = [A::CLIENT, A::apart(1)];
    for step in steps {
        node.now += 11 * MILLISECOND;
        match *step {
            Step::Wait(seconds) => after(&mut node, seconds.into()),
            Step::Server { client, port, flags } => {
                let (address, _) = container::<A>(1);
                leave(&node, 1, tuple(address, 80, clients[client as usize], port.into()), TCP, flags);
            }
            Step::Client { client, port, flags } => {
                let client = clients[client as usize];
                let before = live(&node, client);
                let (verdict, _) = enter(&node, from(client, port.into()), TCP, flags);
                if verdict.action == Action::Drop {
                    prop_assert_eq!(verdict.reason, Reason::Connections);
                    prop_assert!(!before.contains(&port.into()), "what was there goes on");
                    prop_assert_eq!(before.len(), most as usize, "refused without need");
                }
            }
        }
        for client in clients {
            let live = live(&node, client);
            prop_assert!(live.len() <= most as usize, "{:?} of {most} after {step:?}", live);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn never_more_and_never_refused_with_less_v4(steps in proptest::collection::vec(step(), 1..150), most in 1u32..5) {
        never_more_and_never_refused_with_less::<V4>(&steps, most)?;
    }

    #[test]
    fn never_more_and_never_refused_with_less_v6(steps in proptest::collection::vec(step(), 1..150), most in 1u32..5) {
        never_more_and_never_refused_with_less::<V6>(&steps, most)?;
    }
}
