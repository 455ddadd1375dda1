//! Random histories: whatever happens in whatever order, no packet goes astray.

use std::{collections::HashMap, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::abi::{BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_EMPTY, BACKEND_HELD};

#[derive(Debug, Clone)]
enum Step {
    /// A client sends to a published port.
    Client { client: u8, port: u8, published: u8, flags: u8, udp: bool },
    /// A container answers the conversation that it has seen `which`-th.
    Answer { which: prop::sample::Index, flags: u8 },
    /// A container talks to the outside.
    Out { id: u8, port: u8, flags: u8, udp: bool },
    /// The outside answers.
    Back { which: prop::sample::Index, flags: u8 },
    /// Time passes.
    Wait(u16),
    /// The agent changes a backend.
    State { id: u8, state: u8 },
    /// The row gets another tenant.
    Tenant { id: u8 },
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(SYN), 3 => Just(SYN_ACK), 5 => Just(ACK), 1 => Just(FIN_ACK), 1 => Just(RST), 1 => 0u8..32]
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        8 => (0u8..3, 0u8..4, 0u8..4, flags(), any::<bool>()).prop_map(|(client, port, published, flags, udp)| {
            Step::Client { client, port, published, flags, udp }
        }),
        8 => (which(), flags()).prop_map(|(which, flags)| Step::Answer { which, flags }),
        4 => (1u8..4, 0u8..4, flags(), any::<bool>()).prop_map(|(id, port, flags, udp)| Step::Out { id, port, flags, udp }),
        4 => (which(), flags()).prop_map(|(which, flags)| Step::Back { which, flags }),
        1 => prop_oneof![0u16..3, 8u16..12, 25u16..40, 60u16..130].prop_map(Step::Wait),
        1 => (1u8..4, prop_oneof![3 => Just(BACKEND_UP), 1 => Just(BACKEND_DRAINING), 1 => Just(BACKEND_CLOSED),
                1 => Just(BACKEND_EMPTY), 1 => Just(BACKEND_HELD)]).prop_map(|(id, state)| Step::State { id, state }),
        1 => (1u8..4).prop_map(|id| Step::Tenant { id }),
    ]
}

/// Container, its generation, and what it sent.
type Owner<A> = (u32, u32, Tuple<A>);

/// Whatever happens in whatever order, no packet goes astray.
fn no_packet_goes_astray<A: Family>(steps: Vec<Step>, small: bool) -> Result<(), TestCaseError> {
    let mut node = node::<A>(3);
    if small {
        // Tables so small that records are evicted all the time.
        node.flow_new = crate::flow::model::Lru::new(4);
        node.fwd_new = crate::flow::model::Lru::new(3);
        node.flow_est = crate::flow::model::Lru::new(4);
        node.fwd_est = crate::flow::model::Lru::new(3);
        node.masq_ret = crate::flow::model::Lru::new(4);
        node.masq_out = crate::flow::model::Lru::new(3);
    }
    node.config.masquerade_last = node.config.masquerade_first + 5;
    for protocol in [TCP, UDP] {
        publish_for(&mut node, protocol, A::ZERO, 8080, &[1, 2, 3]);
        publish_for(&mut node, protocol, A::LAN, 8081, &[1]);
        publish_for(&mut node, protocol, A::ZERO, 8082, &[1, 2]);
    }
    // What containers, or the outside, have last seen: (protocol, container, tuple inside) -> tuple
    // outside.
    let mut inside: HashMap<(u8, u32, Tuple<A>), Tuple<A>> = HashMap::new();
    let mut seen: Vec<(u8, u32, Tuple<A>)> = Vec::new();
    let mut outside: HashMap<(u8, Tuple<A>), Owner<A>> = HashMap::new();
    let mut sent: Vec<(u8, Tuple<A>)> = Vec::new();
    for step in steps {
        match step {
            Step::Client { client, port, published, flags, udp } => {
                let protocol = if udp { UDP } else { TCP };
                let (address, number) = [(A::NODE, 8080), (A::LAN, 8080), (A::LAN, 8081), (A::NODE, 8082)]
                    [usize::from(published)];
                let t = tuple(A::stranger(client.into()), 1000 + u16::from(port), address, number);
                let mut before = node.flow_new.rows();
                before.extend(node.flow_est.rows());
                let (verdict, shown) = enter(&node, t, protocol, flags);
                prop_assert!(matches!(verdict.action, Action::Pass | Action::Container));
                if let Some(id) = reached(&verdict) {
                    let backend = node.backends[&id];
                    prop_assert!(matches!(backend.state, BACKEND_UP | BACKEND_DRAINING | BACKEND_HELD));
                    if backend.state == BACKEND_HELD {
                        let known = inside.iter().any(|((p, b, _), o)| (*p, *b, *o) == (protocol, id, t));
                        prop_assert!(known, "a new flow of a held one");
                    }
                    prop_assert_eq!(
                        (shown.source, shown.destination, shown.destination_port),
                        (t.source, A::of(&backend), 80)
                    );
                    if !udp && flags & (SYN | ACK | FIN | RST) != SYN {
                        let known = inside.iter().any(|((p, ..), o)| (*p, *o) == (protocol, t));
                        prop_assert!(known, "it never began with a SYN");
                    }
                    // Nobody's live record was taken for it.
                    let had = before.iter().find(|(k, _)| {
                        (k.protocol, k.client, k.client_port, k.backend)
                            == (protocol, shown.source, shown.source_port, shown.destination)
                    });
                    if let Some((_, had)) = had
                        && had.backend.generation == backend.generation
                        && (had.client_port, had.published, had.published_port)
                            != (t.source_port, t.destination, t.destination_port)
                    {
                        let patience = crate::flow::record::patience(&node.present(), protocol, had.state);
                        prop_assert!(crate::flow::expired(&node.present(), had.last_seen, patience));
                    }
                    inside.insert((protocol, id, shown), t);
                    seen.push((protocol, id, shown));
                }
            }
            Step::Answer { which, flags } => {
                if seen.is_empty() {
                    continue;
                }
                let (protocol, id, shown) = *which.get(&seen);
                let (verdict, told) = leave(&node, id, reversed(shown), protocol, flags);
                if verdict.action == Action::Device && verdict.ifindex == UPLINK && told.source != A::NODE {
                    prop_assert_eq!(told, reversed(inside[&(protocol, id, shown)]));
                } else if verdict.action == Action::Device && told.source_port < 61_000 {
                    let asked = inside[&(protocol, id, shown)];
                    prop_assert_eq!(told, reversed(asked), "a reply to whom it belongs");
                }
            }
            Step::Out { id, port, flags, udp } => {
                let id = u32::from(id);
                let protocol = if udp { UDP } else { TCP };
                let t = tuple(A::container(id), 2000 + u16::from(port), A::REMOTE, 443);
                let (verdict, shown) = leave(&node, id, t, protocol, flags);
                if verdict.action == Action::Device {
                    prop_assert_eq!((shown.source, shown.destination), (A::NODE, A::REMOTE));
                    let generation = node.backends[&id].generation;
                    outside.insert((protocol, shown), (id, generation, t));
                    sent.push((protocol, shown));
                }
            }
            Step::Back { which, flags } => {
                if sent.is_empty() {
                    continue;
                }
                let (protocol, shown) = *which.get(&sent);
                let (verdict, got) = enter(&node, reversed(shown), protocol, flags);
                if let Some(to) = reached(&verdict) {
                    let (id, generation, t) = outside[&(protocol, shown)];
                    prop_assert_eq!((to, got), (id, reversed(t)), "the port's present owner, nobody else");
                    prop_assert_eq!(node.backends[&id].generation, generation);
                }
            }
            Step::Wait(seconds) => after(&mut node, u64::from(seconds)),
            Step::State { id, state } => set_state(&mut node, id.into(), state),
            Step::Tenant { id } => {
                let id = u32::from(id);
                let row = node.backends.get_mut(&id).unwrap();
                row.generation += 1;
                row.state = BACKEND_UP;
                let new = BackendRef { id, generation: row.generation };
                node.links.insert(container::<A>(id).1, new);
                node.endpoints.insert(A::container(id), new);
                for row in &mut node.maglev {
                    if row.id == id {
                        *row = new;
                    }
                }
                for service in node.services.values_mut() {
                    if service.single.id == id {
                        service.single = new;
                    }
                }
                // What it saw is no longer its own.
                inside.retain(|(_, of, _), _| *of != id);
                seen.retain(|(_, of, _)| *of != id);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_goes_astray_v4(steps in prop::collection::vec(step(), 1..250), small: bool) {
        no_packet_goes_astray::<V4>(steps, small)?;
    }

    #[test]
    fn no_packet_goes_astray_v6(steps in prop::collection::vec(step(), 1..250), small: bool) {
        no_packet_goes_astray::<V6>(steps, small)?;
    }
}
