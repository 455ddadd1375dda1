//! What DESIGN calls the expectations of flows, on a node in memory, with whole packets of both
//! families.

extern crate std;

/// Names tests, which are functions of the family, once for each.
macro_rules! of_both_families {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test]
            fn v4() {
                super::$test::<crate::flow::tests::V4>();
            }

            #[test]
            fn v6() {
                super::$test::<crate::flow::tests::V6>();
            }
        })+
    };
}

mod datagrams;
mod family;
mod guard;
mod limits;
mod masquerading;
mod notices;
mod pieces;
mod publishing;
mod random;
mod seats;
mod sources;
mod spoofing;
mod verdicts;

use std::vec::Vec;

use family::{Family, acknowledging, make, read};

use super::{
    decide::{Action, V4, V6, Verdict},
    model::Model,
};
use crate::{
    abi::{BACKEND_UP, Backend, BackendRef, ROUTE_DROP, Route, Service, ServiceKey, TCP, UDP},
    maglev,
    packet::{ACK, FIN, RST, SYN, Tuple},
};

const UPLINK: u32 = 2;
const SYN_ACK: u8 = SYN | ACK;
const FIN_ACK: u8 = FIN | ACK;

/// Address and device of the container with backend id `id`.
fn container<A: Family>(id: u32) -> (A, u32) {
    (A::container(id), 100 + id)
}

fn backend_ref(id: u32) -> BackendRef {
    BackendRef { id, generation: 1 }
}

/// A node with two addresses, `containers` backends that are up, and a default route.
fn node<A: Family>(containers: u32) -> Model<A> {
    let mut node = Model::new(16_384, 65_536);
    node.locals = [A::NODE, A::LAN].into();
    for id in 1..=containers {
        let (address, ifindex) = container(id);
        let row = Backend { generation: 1, ifindex, state: BACKEND_UP, ..A::row(address) };
        node.backends.insert(id, row);
        node.endpoints.insert(address, backend_ref(id));
        node.links.insert(ifindex, backend_ref(id));
    }
    node.routes.push((A::ZERO, 0, Route { ifindex: UPLINK, source: A::NODE, flags: 0, mtu: 1500 }));
    let (pool, length) = A::POOL;
    node.routes.push((pool, length, Route { flags: ROUTE_DROP, ..Route::default() }));
    node.sum_up(A::POOL);
    node
}

/// Publishes `port` at `address` (all zero: everywhere), leading to port 80 of `backends`.
fn publish<A: Family>(node: &mut Model<A>, address: A, port: u16, backends: &[u32]) {
    publish_for(node, TCP, address, port, backends);
}

/// The same for a protocol.
fn publish_for<A: Family>(node: &mut Model<A>, protocol: u8, address: A, port: u16, backends: &[u32]) {
    let refs: Vec<_> = backends.iter().map(|id| backend_ref(*id)).collect();
    let mut service = Service { id: u32::from(port), target: 80, ..Service::default() };
    match refs[..] {
        [] => {}
        [one] => service.single = one,
        _ => {
            service.table_size = maglev::table_size(refs.len());
            service.table = node.maglev.len() as u32;
            node.maglev.extend(maglev::build(&refs, service.table_size));
        }
    }
    node.services.insert(ServiceKey { address, port, protocol, pad: 0 }, service);
    node.sum_up(A::POOL);
}

fn set_state<A: Family>(node: &mut Model<A>, id: u32, state: u8) {
    node.backends.get_mut(&id).unwrap().state = state;
}

fn after<A: Family>(node: &mut Model<A>, seconds: u64) {
    node.now += seconds * 1_000_000_000;
}

fn tuple<A>(source: A, source_port: u16, destination: A, destination_port: u16) -> Tuple<A> {
    Tuple { source, destination, source_port, destination_port }
}

fn reversed<A>(t: Tuple<A>) -> Tuple<A> {
    tuple(t.destination, t.destination_port, t.source, t.source_port)
}

/// Sequence number of every SYN.
const FIRST: u32 = u32::MAX;

/// What acknowledges a SYN; and the sequence number of what comes after it.
const SECOND: u32 = FIRST.wrapping_add(1);

/// What packets carry: nothing on a SYN.
fn payload(protocol: u8, flags: u8) -> &'static [u8] {
    if protocol == TCP && flags & SYN != 0 { b"" } else { b"payload" }
}

/// A packet that reaches the node from outside, and what becomes of it.
fn enter<A: Family>(node: &Model<A>, t: Tuple<A>, protocol: u8, flags: u8) -> (Verdict<A>, Tuple<A>) {
    enter_by(node, t, protocol, flags, SECOND, UPLINK)
}

/// A TCP packet from outside with an acknowledgement number, right or wrong.
fn guess<A: Family>(node: &Model<A>, t: Tuple<A>, flags: u8, acknowledgement: u32) -> (Verdict<A>, Tuple<A>) {
    enter_by(node, t, TCP, flags, acknowledgement, UPLINK)
}

fn enter_by<A: Family>(
    node: &Model<A>,
    t: Tuple<A>,
    protocol: u8,
    flags: u8,
    acknowledgement: u32,
    ifindex: u32,
) -> (Verdict<A>, Tuple<A>) {
    let mut bytes = acknowledging(t, protocol, flags, acknowledgement);
    let verdict = node.node_in(&mut bytes, ifindex);
    shown(t, verdict, &bytes)
}

/// A packet that container `id` sends, and what becomes of it.
fn leave<A: Family>(
    node: &Model<A>,
    id: u32,
    t: Tuple<A>,
    protocol: u8,
    flags: u8,
) -> (Verdict<A>, Tuple<A>) {
    let mut bytes = make(t, protocol, flags);
    let verdict = node.veth_in(&mut bytes, 100 + id);
    shown(t, verdict, &bytes)
}

/// Checks what a packet shows after the verdict.
fn shown<A: Family>(t: Tuple<A>, verdict: Verdict<A>, bytes: &[u8]) -> (Verdict<A>, Tuple<A>) {
    let shown = read(bytes);
    match verdict.action {
        Action::Pass | Action::Drop => assert_eq!(shown, t, "a packet that is not ours is not touched"),
        Action::Container | Action::Device => assert_eq!(shown, verdict.to),
    }
    (verdict, shown)
}

/// The container that a verdict leads into.
fn reached<A>(verdict: &Verdict<A>) -> Option<u32> {
    (verdict.action == Action::Container).then(|| verdict.ifindex - 100)
}

/// Opens a connection from outside through all three packets. Returns the container and the tuple
/// that it sees.
fn connect<A: Family>(node: &Model<A>, t: Tuple<A>) -> (u32, Tuple<A>) {
    let (verdict, inside) = enter(node, t, TCP, SYN);
    let id = reached(&verdict).expect("the SYN reaches a container");
    let (verdict, outside) = leave(node, id, reversed(inside), TCP, SYN_ACK);
    assert_eq!((verdict.action, verdict.ifindex), (Action::Device, UPLINK));
    assert_eq!(outside, reversed(t), "the reply comes from where the client asked");
    let (verdict, again) = enter(node, t, TCP, ACK);
    assert_eq!((reached(&verdict), again), (Some(id), inside));
    (id, inside)
}
