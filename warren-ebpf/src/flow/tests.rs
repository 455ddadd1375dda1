//! What DESIGN calls the expectations of flows, on a node in memory, with whole packets.

extern crate std;

mod masquerading;
mod publishing;
mod random;
mod spoofing;
mod verdicts;

use std::vec::Vec;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use super::{
    decide::{Action, V4, Verdict},
    model::Model,
};
use crate::{
    abi::{BACKEND_UP, Backend, BackendRef, ICMP, ROUTE_DROP, Route, Service, ServiceKey, TCP, UDP},
    maglev,
    packet::{ACK, FIN, RST, SYN, Tuple},
};

const NODE: V4 = [192, 0, 2, 1];
const LAN: V4 = [10, 9, 9, 1];
const UPLINK: u32 = 2;
const SYN_ACK: u8 = SYN | ACK;
const FIN_ACK: u8 = FIN | ACK;

/// Address and device of the container with backend id `id`.
fn container(id: u32) -> (V4, u32) {
    ([10, 64, 0, 10 + id as u8], 100 + id)
}

fn backend_ref(id: u32) -> BackendRef {
    BackendRef { id, generation: 1 }
}

/// A node with two addresses, `containers` backends that are up, and a default route.
fn node(containers: u32) -> Model {
    let mut node = Model::new(16_384, 65_536);
    node.locals = [NODE, LAN].into();
    for id in 1..=containers {
        let (address, ifindex) = container(id);
        node.backends
            .insert(id, Backend { generation: 1, ifindex, address, state: BACKEND_UP, ..Backend::default() });
        node.endpoints.insert(address, backend_ref(id));
        node.links.insert(ifindex, backend_ref(id));
    }
    node.routes.push(([0; 4], 0, Route { ifindex: UPLINK, source: NODE, flags: 0, mtu: 1500 }));
    node.routes.push(([10, 64, 0, 0], 16, Route { flags: ROUTE_DROP, ..Route::default() }));
    node
}

/// Publishes `port` at `address` (all zero: everywhere), leading to port 80 of `backends`.
fn publish(node: &mut Model, address: V4, port: u16, backends: &[u32]) {
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
    node.services.insert(ServiceKey { address, port, protocol: TCP, pad: 0 }, service);
}

fn set_state(node: &mut Model, id: u32, state: u8) {
    node.backends.get_mut(&id).unwrap().state = state;
}

fn after(node: &mut Model, seconds: u64) {
    node.now += seconds * 1_000_000_000;
}

fn tuple(source: V4, source_port: u16, destination: V4, destination_port: u16) -> Tuple<V4> {
    Tuple { source, destination, source_port, destination_port }
}

fn reversed(t: Tuple<V4>) -> Tuple<V4> {
    tuple(t.destination, t.destination_port, t.source, t.source_port)
}

/// Sequence number of every SYN.
const FIRST: u32 = u32::MAX;

/// What acknowledges a SYN; and the sequence number of what comes after it.
const SECOND: u32 = FIRST.wrapping_add(1);

fn make(t: Tuple<V4>, protocol: u8, flags: u8) -> Vec<u8> {
    acknowledging(t, protocol, flags, SECOND)
}

fn acknowledging(t: Tuple<V4>, protocol: u8, flags: u8, acknowledgement: u32) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(t.source, t.destination, 64);
    let mut out = Vec::new();
    let payload: &[u8] = if protocol == TCP && flags & SYN != 0 { b"" } else { b"payload" };
    match protocol {
        TCP => {
            let mut tcp = builder.tcp(
                t.source_port,
                t.destination_port,
                if flags & SYN != 0 { FIRST } else { SECOND },
                4096,
            );
            for (flag, set) in [
                (FIN, etherparse::PacketBuilderStep::fin as fn(_) -> _),
                (SYN, etherparse::PacketBuilderStep::syn),
                (RST, etherparse::PacketBuilderStep::rst),
            ] {
                if flags & flag != 0 {
                    tcp = set(tcp);
                }
            }
            if flags & ACK != 0 {
                tcp = tcp.ack(acknowledgement);
            }
            tcp.write(&mut out, payload)
        }
        UDP => builder.udp(t.source_port, t.destination_port).write(&mut out, payload),
        ICMP if t.destination_port == 0 => {
            builder.icmpv4_echo_request(t.source_port, 1).write(&mut out, payload)
        }
        _ => builder.icmpv4_echo_reply(t.destination_port, 1).write(&mut out, payload),
    }
    .unwrap();
    out
}

/// What etherparse reads, after it has checked the checksums.
fn read(bytes: &[u8]) -> Tuple<V4> {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let (source_port, destination_port) = match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            assert_eq!(tcp.checksum(), tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap());
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap());
            (udp.source_port(), udp.destination_port())
        }
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            match icmp.icmp_type() {
                etherparse::Icmpv4Type::EchoRequest(echo) => (echo.id, 0),
                etherparse::Icmpv4Type::EchoReply(echo) => (0, echo.id),
                other => panic!("{other:?} was not made here"),
            }
        }
        other => panic!("{other:?} was not made here"),
    };
    tuple(header.source, source_port, header.destination, destination_port)
}

/// A packet that reaches the node from outside, and what becomes of it.
fn enter(node: &Model, t: Tuple<V4>, protocol: u8, flags: u8) -> (Verdict, Tuple<V4>) {
    arrive(node, t, make(t, protocol, flags))
}

/// A TCP packet from outside with an acknowledgement number, right or wrong.
fn guess(node: &Model, t: Tuple<V4>, flags: u8, acknowledgement: u32) -> (Verdict, Tuple<V4>) {
    arrive(node, t, acknowledging(t, TCP, flags, acknowledgement))
}

fn arrive(node: &Model, t: Tuple<V4>, mut bytes: Vec<u8>) -> (Verdict, Tuple<V4>) {
    let verdict = node.node_in(&mut bytes, UPLINK);
    let shown = read(&bytes);
    match verdict.action {
        Action::Pass | Action::Drop => assert_eq!(shown, t, "a packet that is not ours is not touched"),
        Action::Container | Action::Device => assert_eq!(shown, verdict.to),
    }
    (verdict, shown)
}

/// A packet that container `id` sends, and what becomes of it.
fn leave(node: &Model, id: u32, t: Tuple<V4>, protocol: u8, flags: u8) -> (Verdict, Tuple<V4>) {
    let mut bytes = make(t, protocol, flags);
    let verdict = node.veth_in(&mut bytes, container(id).1);
    let shown = read(&bytes);
    match verdict.action {
        Action::Pass | Action::Drop => assert_eq!(shown, t, "a packet that is not ours is not touched"),
        Action::Container | Action::Device => assert_eq!(shown, verdict.to),
    }
    (verdict, shown)
}

/// The container that a verdict leads into.
fn reached(verdict: &Verdict) -> Option<u32> {
    (verdict.action == Action::Container).then(|| verdict.ifindex - 100)
}

/// Opens a connection from outside through all three packets. Returns the container and the tuple
/// that it sees.
fn connect(node: &Model, t: Tuple<V4>) -> (u32, Tuple<V4>) {
    let (verdict, inside) = enter(node, t, TCP, SYN);
    let id = reached(&verdict).expect("the SYN reaches a container");
    let (verdict, outside) = leave(node, id, reversed(inside), TCP, SYN_ACK);
    assert_eq!((verdict.action, verdict.ifindex), (Action::Device, UPLINK));
    assert_eq!(outside, reversed(t), "the reply comes from where the client asked");
    let (verdict, again) = enter(node, t, TCP, ACK);
    assert_eq!((reached(&verdict), again), (Some(id), inside));
    (id, inside)
}

#[test]
fn helpers_know_their_flags() {
    let syn = make(tuple([1; 4], 1, [2; 4], 2), TCP, SYN);
    assert_eq!(syn[14 + 20 + 13], SYN);
    assert_eq!(make(tuple([1; 4], 1, [2; 4], 2), TCP, FIN_ACK)[14 + 20 + 13], FIN_ACK);
}
