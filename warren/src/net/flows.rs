//! Live flows: rows of the programs' tables, as people are shown them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use warren_ebpf::abi::{
    self, Address, BackendRef, Config, FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_ESTABLISHED, FLOW_HAIRPIN,
    FLOW_OPENING, FLOW_REPLIED, FLOW_RESET, FLOW_SERVER_FIN, FlowKey, ICMP, ICMP6, MASQUERADE_REPLIED,
    Return, ReturnKey, TCP, UDP, map,
};

use super::{
    NetError,
    datapath::{
        desired::{Attached, reference},
        sys::{RawMap, from_bytes},
    },
    engine::Engine,
};
use crate::model::TaskId;

/// A live flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// "tcp", "udp", "icmp" or "icmp6".
    pub protocol: &'static str,
    /// The other side: the client, or for outgoing flows whom the container talks to.
    pub client: SocketAddr,
    /// Where the client connected to; `None` for outgoing flows.
    pub published: Option<SocketAddr>,
    /// The container's side.
    pub container: SocketAddr,
    /// The container's task, when it is attached.
    pub task: Option<TaskId>,
    /// Which of a service's tasks that is, while the node has to run it.
    pub replica: Option<Replica>,
    /// How far it is.
    pub state: &'static str,
    /// Milliseconds since the last packet, as coarse as the datapath keeps it.
    pub idle_ms: u64,
    /// Milliseconds since it began, to a second; of TCP to a published port since it was established.
    /// `None` when that is not known.
    pub age_ms: Option<u64>,
    /// What it has carried.
    pub traffic: abi::Traffic,
    /// "in", "out" or "hairpin".
    pub kind: &'static str,
}

/// What people call a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its service.
    pub service: String,
    /// Which of the service's replicas it is.
    pub slot: u32,
}

/// A socket's address, as people write it.
pub(super) fn socket<A: Address>(address: A, port: u16) -> SocketAddr {
    let wide = address.widen();
    let ip = match A::FAMILY {
        4 => IpAddr::from([wide[0], wide[1], wide[2], wide[3]]),
        _ => IpAddr::from(Ipv6Addr::from(wide)),
    };
    SocketAddr::new(ip, port)
}

/// What a protocol is called.
pub(super) fn protocol(number: u8) -> &'static str {
    match number {
        TCP => "tcp",
        UDP => "udp",
        ICMP => "icmp",
        ICMP6 => "icmp6",
        _ => "?",
    }
}

/// Name of a flow's state, and how long it lives without a packet, in seconds.
fn phase(protocol: u8, state: u8, both_ways: bool) -> (&'static str, u32) {
    let c = Config::DEFAULT;
    match (protocol, state) {
        (UDP, _) if both_ways => ("both ways", c.udp_both_ways),
        (UDP, _) => ("one way", c.udp_one_way),
        (ICMP | ICMP6, _) => ("echo", c.icmp),
        (_, FLOW_OPENING) => ("opening", c.half_open),
        (_, FLOW_REPLIED) => ("replied", c.half_open),
        (_, FLOW_ESTABLISHED) => ("established", c.established),
        (_, FLOW_CLIENT_FIN | FLOW_SERVER_FIN) => ("closing", c.closing),
        (_, FLOW_CLOSED) => ("closed", c.closed),
        (_, FLOW_RESET) => ("reset", c.closed),
        _ => ("?", c.closed),
    }
}

/// The clock that the programs write into records.
pub(super) fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    now.map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * SECOND + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

/// In nanoseconds.
pub(super) const SECOND: u64 = 1_000_000_000;

type V4 = [u8; 4];
type V6 = [u8; 16];

/// A row of a flow table.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// As people are shown it, but for whose it is and what depends on the present moment.
    pub(super) flow: Flow,
    /// Whose it is.
    pub(super) backend: BackendRef,
    /// The service's number; of outgoing flows 0.
    pub(super) service: u32,
    /// When its last packet came, by the programs' clock.
    pub(super) last_seen: u64,
    /// When it began; `None` when that is not known.
    pub(super) began: Option<u64>,
    /// How long it lives without a packet, in seconds.
    lifetime: u32,
}

impl Row {
    /// Milliseconds since its last packet.
    pub(super) fn idle_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_seen) / 1_000_000
    }

    /// Whether it is more than a row that nothing has come upon since it ran out.
    pub(super) fn lives(&self, now: u64) -> bool {
        self.idle_ms(now) <= u64::from(self.lifetime) * 1000
    }
}

/// Reads a row, its key and its value.
pub(super) type Read = fn(&[u8], &[u8]) -> Option<Row>;

/// The maps that are shown as flows, and how a row of each is read.
const FLOWS: [(&str, Read); 6] = [
    (map::FLOW_EST4, established::<V4>),
    (map::FLOW_EST6, established::<V6>),
    (map::FLOW_NEW4, half_open::<V4>),
    (map::FLOW_NEW6, half_open::<V6>),
    (map::MASQ_RET4, outgoing::<V4>),
    (map::MASQ_RET6, outgoing::<V6>),
];

/// The flow tables, to be read while nobody holds the engine's state: established flows come first.
pub(super) fn tables(engine: &Engine) -> [(Arc<RawMap>, Read); 6] {
    let state = engine.state();
    FLOWS.map(|(name, read)| (Arc::clone(state.loaded.map(name)), read))
}

/// Whose flows are whose.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners(pub(super) BTreeMap<BackendRefKey, (TaskId, Option<Replica>)>);

impl Owners {
    /// The containers that are attached.
    pub(super) fn of(engine: &Engine) -> Self {
        let assignment = engine.heard();
        let assigned = assignment.as_ref().map(|a| a.tasks.as_slice()).unwrap_or_default();
        let replicas: BTreeMap<TaskId, Replica> = assigned
            .iter()
            .map(|t| (t.id, Replica { service: t.service_name.clone(), slot: t.slot }))
            .collect();
        let state = engine.state();
        let owner = |(task, a): (&TaskId, &Attached)| {
            (key(&reference(&a.attachment)), (*task, replicas.get(task).cloned()))
        };
        Self(state.attached.iter().map(owner).collect())
    }

    /// A backend's task.
    pub(super) fn task(&self, backend: &BackendRefKey) -> (Option<TaskId>, Option<Replica>) {
        self.0.get(backend).map_or((None, None), |(task, replica)| (Some(*task), replica.clone()))
    }
}

pub(super) fn flows(engine: &Engine, limit: usize) -> Result<(Vec<Flow>, bool), NetError> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (maps, owners) = (tables(engine), Owners::of(engine));
    let now = monotonic_ns();
    let mut found = Vec::new();
    let mut more = false;
    for (m, read) in maps {
        m.for_each(|k, v| {
            let Some(row) = read(k, v).filter(|row| row.lives(now)) else { return true };
            if found.len() == limit {
                more = true;
                return false;
            }
            let (task, replica) = owners.task(&key(&row.backend));
            let age_ms = row.began.map(|began| now.saturating_sub(began) / 1_000_000);
            found.push(Flow { task, replica, age_ms, idle_ms: row.idle_ms(now), ..row.flow });
            true
        })
        .map_err(|e| NetError::system("read the flows", e))?;
    }
    Ok((found, more))
}

pub(super) type BackendRefKey = (u32, u32);

pub(super) fn key(b: &BackendRef) -> BackendRefKey {
    (b.id, b.generation)
}

/// A row of `FLOW_*`; when a TCP flow began is not in those of `FLOW_NEW*`.
fn incoming<A: Address>(k: &[u8], v: &[u8], established: bool) -> Option<Row> {
    let k: FlowKey<A> = from_bytes(k)?;
    let v: abi::Flow<A> = from_bytes(v)?;
    let (state, lifetime) = phase(k.protocol, v.state, v.state >= FLOW_REPLIED);
    let flow = Flow {
        protocol: protocol(k.protocol),
        client: socket(v.client, v.client_port),
        published: Some(socket(v.published, v.published_port)),
        container: socket(k.backend, k.backend_port),
        task: None,
        replica: None,
        state,
        idle_ms: 0,
        age_ms: None,
        traffic: v.traffic,
        kind: if v.flags & FLOW_HAIRPIN != 0 { "hairpin" } else { "in" },
    };
    let dated = (established || k.protocol != TCP) && v.expected != 0;
    Some(Row {
        flow,
        backend: v.backend,
        service: v.service,
        last_seen: v.last_seen,
        began: dated.then_some(u64::from(v.expected) * SECOND),
        lifetime,
    })
}

/// A row of `FLOW_NEW*`, or of `FLOW_EST*` when its age is no matter.
pub(super) fn half_open<A: Address>(k: &[u8], v: &[u8]) -> Option<Row> {
    incoming::<A>(k, v, false)
}

/// A row of `FLOW_EST*`.
fn established<A: Address>(k: &[u8], v: &[u8]) -> Option<Row> {
    incoming::<A>(k, v, true)
}

/// A row of `MASQ_RET*`.
pub(super) fn outgoing<A: Address>(k: &[u8], v: &[u8]) -> Option<Row> {
    let k: ReturnKey<A> = from_bytes(k)?;
    let v: Return<A> = from_bytes(v)?;
    let (state, lifetime) = phase(k.protocol, v.state, v.flags & MASQUERADE_REPLIED != 0);
    let flow = Flow {
        protocol: protocol(k.protocol),
        client: socket(k.remote, k.remote_port),
        published: None,
        container: socket(v.container, v.container_port),
        task: None,
        replica: None,
        state,
        idle_ms: 0,
        age_ms: None,
        traffic: v.traffic,
        kind: "out",
    };
    Some(Row {
        flow,
        backend: v.backend,
        service: 0,
        last_seen: v.last_seen,
        began: (v.began != 0).then_some(v.began),
        lifetime,
    })
}

#[cfg(test)]
mod tests {
    use warren_ebpf::abi::Traffic;

    use super::{super::datapath::sys::bytes_of, *};

    /// A row of a flow that began in second 100.
    fn row(protocol: u8, read: Read) -> Row {
        let key = FlowKey::<V4> {
            client: [198, 18, 0, 2],
            backend: [10, 86, 0, 1],
            client_port: 40_000,
            backend_port: 80,
            protocol,
            pad: [0; 3],
        };
        let traffic = Traffic { received: 1000, sent: 200, received_packets: 10, sent_packets: 2 };
        let flow = abi::Flow {
            last_seen: 150 * SECOND,
            backend: BackendRef { id: 1, generation: 1001 },
            service: 3,
            published: [198, 18, 0, 1],
            client: key.client,
            published_port: 8080,
            client_port: 40_000,
            state: FLOW_ESTABLISHED,
            expected: 100,
            traffic,
            ..abi::Flow::default()
        };
        read(bytes_of(&key), bytes_of(&flow)).expect("it is a row")
    }

    #[test]
    fn a_flow_is_as_old_as_its_table_can_tell() {
        let began = |protocol, read| row(protocol, read).began;
        assert_eq!(began(TCP, established::<V4>), Some(100 * SECOND));
        assert_eq!(began(TCP, half_open::<V4>), None, "a sequence number stands there");
        assert_eq!(began(UDP, half_open::<V4>), Some(100 * SECOND));
        assert_eq!(began(UDP, established::<V4>), Some(100 * SECOND));
    }

    #[test]
    fn a_row_is_read_with_what_it_has_carried() {
        let row = row(UDP, half_open::<V4>);
        assert_eq!(row.flow.traffic.received_packets, 10);
        assert_eq!((row.service, key(&row.backend)), (3, (1, 1001)));
        assert_eq!(row.idle_ms(152 * SECOND), 2000);
        let lifetime = u64::from(Config::DEFAULT.udp_both_ways);
        assert!(row.lives((150 + lifetime) * SECOND) && !row.lives((151 + lifetime) * SECOND));
    }
}
