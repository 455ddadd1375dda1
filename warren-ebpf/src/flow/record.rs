//! The two records of a flow to a published port, made from each other.

use super::{
    Delivery, Present, Resolved, Seen, hash, tcp,
    udp::{self, second},
};
use crate::{
    abi::{
        Address, BackendRef, FLOW_FROM_CONTAINER, FLOW_HAIRPIN, FLOW_OPENING, Flow, FlowKey, Forward,
        ForwardKey, Service, UDP,
    },
    packet::Tuple,
};

/// The key of the forward record of a client's packet.
#[inline(always)]
pub(super) fn forward_key<A: Address>(seen: &Seen<A>) -> ForwardKey<A> {
    ForwardKey {
        client: seen.tuple.source,
        published: seen.tuple.destination,
        client_port: seen.tuple.source_port,
        published_port: seen.tuple.destination_port,
        protocol: seen.protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
pub(super) fn client_hash<A: Address>(key: &ForwardKey<A>) -> u64 {
    hash::tuple(&key.client, &key.published, key.client_port, key.published_port, key.protocol)
}

#[inline(always)]
pub(super) fn record<A: Address>(
    service: &Service,
    key: &ForwardKey<A>,
    backend: &Resolved<A>,
    origin: BackendRef,
) -> Forward {
    let mut flags = 0;
    if origin.id != 0 {
        flags |= FLOW_FROM_CONTAINER;
    }
    if origin == backend.backend {
        flags |= FLOW_HAIRPIN;
    }
    Forward {
        backend: backend.backend,
        backend_port: service.target,
        client_port: key.client_port,
        flags,
        turn: 0,
        seat: 0,
    }
}

#[inline(always)]
pub(super) fn flow_key<A: Address>(
    present: &Present<'_>,
    key: &ForwardKey<A>,
    backend: &Resolved<A>,
    record: &Forward,
) -> FlowKey<A> {
    FlowKey {
        client: if record.flags & FLOW_HAIRPIN != 0 { A::hairpin(present.config) } else { key.client },
        backend: backend.address,
        client_port: record.client_port,
        backend_port: record.backend_port,
        protocol: key.protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
pub(super) fn flow<A: Address>(
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    key: &ForwardKey<A>,
    backend: &Resolved<A>,
    record: &Forward,
) -> Flow<A> {
    Flow {
        last_seen: present.now,
        backend: backend.backend,
        ifindex: seen.ifindex,
        service: service.id,
        published: key.published,
        client: key.client,
        published_port: key.published_port,
        client_port: key.client_port,
        state: FLOW_OPENING,
        flags: record.flags,
        seat: record.seat,
        expected: if key.protocol == UDP { second(present.now) } else { 0 },
        turn: record.turn,
        pad: [0; 3],
        traffic: seen.size.received(),
    }
}

/// Whether a tracking record is of this conversation.
#[inline(always)]
pub(super) fn same<A: Address>(flow: &Flow<A>, key: &ForwardKey<A>) -> bool {
    // One question instead of four: the verifier follows every answer to each.
    let addresses = flow.client.difference(&key.client) | flow.published.difference(&key.published);
    let ports = (flow.client_port ^ key.client_port) | (flow.published_port ^ key.published_port);
    addresses | u32::from(ports) == 0
}

#[inline(always)]
pub(super) fn delivery<A: Address>(key: &FlowKey<A>, backend: &Resolved<A>) -> Delivery<A> {
    Delivery {
        tuple: Tuple {
            source: key.client,
            destination: key.backend,
            source_port: key.client_port,
            destination_port: key.backend_port,
        },
        ifindex: backend.ifindex,
    }
}

/// For how many seconds a silent flow keeps its tuple.
#[inline(always)]
pub(super) fn patience(present: &Present<'_>, protocol: u8, state: u8) -> u32 {
    match protocol {
        UDP => udp::patience(state, present.config),
        _ => tcp::patience(state, present.config),
    }
}
