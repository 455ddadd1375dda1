//! What is known of a packet's flow.

use std::collections::BTreeMap;

use warren_ebpf::abi::{
    Backend, BackendRef, Config, Egress, EgressKey, FlowKey, Forward, ForwardKey, ReturnKey, map,
};

use super::{
    super::{
        datapath::{
            contents::Rows,
            sys::{bytes_of, from_bytes},
        },
        flows::{self, Read, monotonic_ns},
    },
    Protocol, Question,
    facts::{Kind, Record},
    tables::{Side, Tables, named},
};

/// What is known of the packet's flow, in the order in which the programs ask.
pub(super) fn record<A: Side>(
    tables: &Tables<'_>,
    before: &BTreeMap<&'static str, Rows>,
    question: &Question,
    owner: BackendRef,
    target: u16,
) -> Option<Record> {
    let (source, destination) = (A::read(question.source.ip()), A::read(question.destination.ip()));
    let (protocol, pad) = (question.number(), [0; 3]);
    let (from, to) = match question.protocol {
        Protocol::Icmp => (question.source.port(), 0),
        _ => (question.source.port(), question.destination.port()),
    };
    let find = |v4: &'static str, k: &[u8]| before.get(named(v4, A::V4)).and_then(|rows| rows.get(k));
    let shown = |kind, read: Read, k: &[u8], v: &[u8]| {
        let row = read(k, v)?;
        let now = monotonic_ns();
        let (name, lives) = tables.backend(row.backend);
        Some(Record {
            kind,
            state: Some(row.flow.state),
            idle_ms: row.idle_ms(now),
            over: !row.lives(now),
            backend: name,
            lives,
        })
    };
    let tracked = |k: &FlowKey<A>, kind| {
        let v = find(map::FLOW_EST4, bytes_of(k)).or_else(|| find(map::FLOW_NEW4, bytes_of(k)))?;
        let flow: warren_ebpf::abi::Flow<A> = from_bytes(v)?;
        Some((flow, shown(kind, flows::half_open::<A>, bytes_of(k), v)?))
    };
    if owner.id != 0 && question.protocol != Protocol::Icmp {
        let k = FlowKey {
            client: destination,
            backend: source,
            client_port: to,
            backend_port: from,
            protocol,
            pad,
        };
        if let Some((flow, record)) = tracked(&k, Kind::Reply)
            && flow.backend == owner
        {
            return Some(record);
        }
    } else if owner.id == 0 {
        let k = ReturnKey {
            remote: source,
            local: destination,
            remote_port: if question.protocol == Protocol::Icmp { 0 } else { from },
            local_port: if question.protocol == Protocol::Icmp { from } else { to },
            protocol,
            pad,
        };
        let k = bytes_of(&k);
        if let Some(v) = find(map::MASQ_RET4, k)
            && let Some(record) = shown(Kind::Answer, flows::outgoing::<A>, k, v)
            && !record.over
        {
            return Some(record);
        }
    }
    let k = ForwardKey {
        client: source,
        published: destination,
        client_port: from,
        published_port: to,
        protocol,
        pad,
    };
    let k = bytes_of(&k);
    if let Some(forward) = find(map::FWD_EST4, k).or_else(|| find(map::FWD_NEW4, k)) {
        let forward: Forward = from_bytes(forward)?;
        let row: Backend = tables.row(map::BACKEND, &forward.backend.id.to_ne_bytes()).unwrap_or_default();
        let hairpin = forward.flags & warren_ebpf::abi::FLOW_HAIRPIN != 0;
        let config: Config = tables.row(map::CONFIG, &0u32.to_ne_bytes()).unwrap_or_default();
        let k = FlowKey {
            client: if hairpin { A::hairpin(&config) } else { source },
            backend: A::of(&row),
            client_port: forward.client_port,
            backend_port: if forward.backend_port == 0 { target } else { forward.backend_port },
            protocol,
            pad,
        };
        let (backend, lives) = tables.backend(forward.backend);
        let whole = tracked(&k, Kind::Forward).map(|(_, record)| Record {
            backend: backend.clone(),
            lives,
            ..record
        });
        return whole.or(Some(Record {
            kind: Kind::Forward,
            state: None,
            idle_ms: 0,
            over: false,
            backend,
            lives,
        }));
    }
    if owner.id != 0 {
        let k = EgressKey {
            container: source,
            remote: destination,
            container_port: from,
            remote_port: to,
            protocol,
            pad,
        };
        let egress: Egress<A> = from_bytes(find(map::MASQ_OUT4, bytes_of(&k))?)?;
        let k = ReturnKey {
            remote: destination,
            local: egress.local,
            remote_port: to,
            local_port: egress.local_port,
            protocol,
            pad,
        };
        let k = bytes_of(&k);
        return shown(Kind::Egress, flows::outgoing::<A>, k, find(map::MASQ_RET4, k)?);
    }
    None
}
