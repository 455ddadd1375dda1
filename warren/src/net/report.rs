//! What people are shown of the datapath.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use warren_ebpf::abi::{
    Address, BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_HELD, BACKEND_UP, Backend, BackendRef, Config,
    FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_ESTABLISHED, FLOW_HAIRPIN, FLOW_OPENING, FLOW_REPLIED, FLOW_RESET,
    FLOW_SERVER_FIN, FlowKey, ICMP, ICMP6, MASQUERADE_REPLIED, Return, ReturnKey, Service, TCP, UDP, map,
};

use super::{
    NetError,
    attach::host_name,
    datapath::{
        contents::{Contents, Opened, WRITTEN},
        desired::{Plan, key4, key6, reference},
        links::device_of,
        sources::of_set,
        sys::{RawMap, from_bytes},
    },
    engine::{Engine, unfinished},
};
use crate::model::{Assignment, PortSpec, TaskId};

/// A published port as the datapath has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Name of the service.
    pub service: String,
    /// The port.
    pub port: PortSpec,
    /// The networks whose clients it answers; everybody when `None`.
    pub sources: Option<Vec<IpNet>>,
    /// What is behind it on this node.
    pub backends: Vec<PublishedBackend>,
    /// Rows of the Maglev table; 0 for a single backend.
    pub table_size: u32,
}

/// A container behind a published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedBackend {
    /// The task.
    pub task: TaskId,
    /// Where connections of IPv4 go; of IPv6 for a port that is published on IPv6 only.
    pub address: SocketAddr,
    /// Where connections of IPv6 go, when there is a way.
    pub address6: Option<SocketAddr>,
    /// "up", "draining" or "closed".
    pub state: &'static str,
    /// Row in the backend table.
    pub id: u32,
    /// Which use of the row.
    pub generation: u32,
}

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
    /// How far it is.
    pub state: &'static str,
    /// Milliseconds since the last packet, as coarse as the datapath keeps it.
    pub idle_ms: u64,
    /// "in", "out" or "hairpin".
    pub kind: &'static str,
}

/// Desired against actual.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check {
    /// One sentence for each difference.
    pub problems: Vec<String>,
    /// One sentence for each thing that was asked for and cannot be had here; nothing is wrong.
    pub notes: Vec<String>,
    /// Bytes of memory the maps lock.
    pub map_bytes: u64,
    /// The maps.
    pub maps: Vec<MapUse>,
    /// The programs.
    pub programs: Vec<ProgramUse>,
}

/// A map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapUse {
    /// Name.
    pub name: String,
    /// Rows in use (of arrays: not all zero).
    pub entries: u32,
    /// Rows there are.
    pub capacity: u32,
    /// Memory in bytes.
    pub bytes: u64,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramUse {
    /// Name.
    pub name: String,
    /// Runs; counted only with `kernel.bpf_stats_enabled=1`.
    pub runs: u64,
    /// Nanoseconds spent; counted as runs are.
    pub run_ns: u64,
    /// Instructions the verifier walked.
    pub verified_instructions: u32,
    /// Devices it runs on, or "cgroup".
    pub attached: Vec<String>,
}

fn socket<A: Address>(address: A, port: u16) -> SocketAddr {
    let wide = address.widen();
    let ip = match A::FAMILY {
        4 => IpAddr::from([wide[0], wide[1], wide[2], wide[3]]),
        _ => IpAddr::from(Ipv6Addr::from(wide)),
    };
    SocketAddr::new(ip, port)
}

pub(super) fn published(engine: &Engine) -> Vec<Published> {
    let Some(assignment) = engine.heard() else { return Vec::new() };
    let state = engine.state();
    let mut found = Vec::new();
    for service in &assignment.services {
        for port in &service.ports {
            let row4: Option<Service> = key4(port).and_then(|key| state.current.get(map::SVC4, &key));
            let row6: Option<Service> = key6(port).and_then(|key| state.current.get(map::SVC6, &key));
            let Some(row) = row4.or(row6) else { continue };
            let backends = service.backends.iter().filter_map(|(task, _, attachment)| {
                let b: Backend = state.current.get(map::BACKEND, &attachment.backend)?;
                let address = socket(b.address, row.target);
                let address6 =
                    (b.address6 != [0; 16] && row6.is_some()).then(|| socket(b.address6, row.target));
                (b.generation == attachment.generation).then(|| PublishedBackend {
                    task: *task,
                    address: if row4.is_some() { address } else { address6.unwrap_or(address) },
                    address6,
                    state: state_name(b.state),
                    id: attachment.backend,
                    generation: attachment.generation,
                })
            });
            // Of a port for a set of sources, both rows have one.
            let sets = [(map::SRC4, row4), (map::SRC6, row6)];
            let nets = sets.iter().filter_map(|(m, row)| Some(of_set(m, &state.current, (*row)?.sources)));
            found.push(Published {
                service: service.name.clone(),
                port: port.clone(),
                sources: (row.sources != 0).then(|| nets.flatten().collect()),
                backends: backends.collect(),
                table_size: row.table_size,
            });
        }
    }
    found
}

/// What a backend's state is called.
pub(super) fn state_name(state: u8) -> &'static str {
    match state {
        BACKEND_UP => "up",
        BACKEND_DRAINING => "draining",
        BACKEND_CLOSED => "closed",
        BACKEND_HELD => "held",
        _ => "empty",
    }
}

fn protocol(number: u8) -> &'static str {
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
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

type V4 = [u8; 4];
type V6 = [u8; 16];

/// A row as a flow: the flow, whose it is, when it was last seen, how long it lives.
pub(super) type Shown = (Flow, BackendRef, u64, u32);

/// Reads a row, its key and its value.
pub(super) type Read = fn(&[u8], &[u8]) -> Option<Shown>;

/// The maps that are shown as flows, and how a row of each is read.
const FLOWS: [(&str, Read); 6] = [
    (map::FLOW_EST4, incoming::<V4>),
    (map::FLOW_EST6, incoming::<V6>),
    (map::FLOW_NEW4, incoming::<V4>),
    (map::FLOW_NEW6, incoming::<V6>),
    (map::MASQ_RET4, outgoing::<V4>),
    (map::MASQ_RET6, outgoing::<V6>),
];

pub(super) fn flows(engine: &Engine, limit: usize) -> Result<(Vec<Flow>, bool), NetError> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (maps, tasks) = {
        let state = engine.state();
        let maps = FLOWS.map(|(name, read)| (Arc::clone(state.loaded.map(name)), read));
        let tasks: BTreeMap<BackendRefKey, TaskId> =
            state.attached.iter().map(|(t, a)| (key(&reference(&a.attachment)), *t)).collect();
        (maps, tasks)
    };
    let now = monotonic_ns();
    let mut found = Vec::new();
    let mut more = false;
    for (m, read) in maps {
        m.for_each(|k, v| {
            let Some((mut flow, backend, last_seen, lifetime)) = read(k, v) else { return true };
            flow.idle_ms = now.saturating_sub(last_seen) / 1_000_000;
            if flow.idle_ms > u64::from(lifetime) * 1000 {
                return true;
            }
            if found.len() == limit {
                more = true;
                return false;
            }
            flow.task = tasks.get(&key(&backend)).copied();
            found.push(flow);
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

/// A row of `FLOW_*`.
pub(super) fn incoming<A: Address>(k: &[u8], v: &[u8]) -> Option<Shown> {
    let k: FlowKey<A> = from_bytes(k)?;
    let v: warren_ebpf::abi::Flow<A> = from_bytes(v)?;
    let (state, lifetime) = phase(k.protocol, v.state, v.state >= FLOW_REPLIED);
    let flow = Flow {
        protocol: protocol(k.protocol),
        client: socket(v.client, v.client_port),
        published: Some(socket(v.published, v.published_port)),
        container: socket(k.backend, k.backend_port),
        task: None,
        state,
        idle_ms: 0,
        kind: if v.flags & FLOW_HAIRPIN != 0 { "hairpin" } else { "in" },
    };
    Some((flow, v.backend, v.last_seen, lifetime))
}

/// A row of `MASQ_RET*`.
pub(super) fn outgoing<A: Address>(k: &[u8], v: &[u8]) -> Option<Shown> {
    let k: ReturnKey<A> = from_bytes(k)?;
    let v: Return<A> = from_bytes(v)?;
    let (state, lifetime) = phase(k.protocol, v.state, v.flags & MASQUERADE_REPLIED != 0);
    let flow = Flow {
        protocol: protocol(k.protocol),
        client: socket(k.remote, k.remote_port),
        published: None,
        container: socket(v.container, v.container_port),
        task: None,
        state,
        idle_ms: 0,
        kind: "out",
    };
    Some((flow, v.backend, v.last_seen, lifetime))
}

/// How long [`check`] waits before it looks again at rows that are not as they should be.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn check(engine: &Arc<Engine>) -> Result<Check, NetError> {
    // What is made while we look at the host is not in what we see.
    let made: BTreeSet<TaskId> = {
        let state = engine.state();
        state.attached.keys().filter(|t| !state.making.contains(t)).copied().collect()
    };
    let host = engine.netlink.host().await?;
    let mtu = host.smallest_mtu(&engine.settings.interfaces);
    let mut check = Check::default();
    // What has just been assigned is on its way into the maps: only what stays is a problem.
    for look in 0..3 {
        if look > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let Some((Plan { desired, .. }, found)) = engine.read_again().await? else { continue };
        check.problems = differences(&desired, &found);
        if check.problems.is_empty() {
            break;
        }
    }
    let maps = engine.state().loaded.maps().clone();
    check.maps = tokio::task::spawn_blocking(move || uses(&maps)).await.map_err(|_| NetError::Stopped)?;
    check.map_bytes = check.maps.iter().map(|m| m.bytes).sum();
    let mut state = engine.state();
    state.host = host;
    for task in unfinished(&state, mtu).into_iter().filter(|t| made.contains(t)) {
        check.problems.push(format!(
            "the link of task {task} ({}) is down, has another MTU than {mtu} or no route: it is being mended",
            host_name(task)
        ));
    }
    let running = state.loaded.links().running()?;
    let programs = state.loaded.programs();
    for d in state.host.uplinks(&engine.settings.interfaces) {
        if !state.devices.contains(&(d.index, d.name.clone())) {
            check.problems.push(format!("no program is attached to device {}: see the agent's log", d.name));
        }
        if state.guards.is_missing(&state.loaded, d) {
            check.problems.push(format!(
                "the guard is not attached to device {}: the agent attaches it within ten seconds",
                d.name
            ));
        }
    }
    check.problems.extend(state.host.misnamed(&engine.settings.interfaces));
    check.notes = state.guards.notes();
    if let Some(assignment) = engine.heard() {
        let own: BTreeSet<IpAddr> = state.host.locals().map(|(a, _)| a).collect();
        check.problems.extend(foreign_addresses(&assignment, &own));
    }
    for (pin, program) in &running {
        if !programs.iter().any(|(_, p)| p.id == *program) {
            check.problems.push(format!("link {pin} runs a program of another agent: restart the agent"));
        }
    }
    let device = |index: u32| state.host.devices.iter().find(|d| d.index == index).map(|d| d.name.clone());
    for (name, info) in &programs {
        let attached =
            running.iter().filter(|(_, p)| *p == info.id).filter_map(|(pin, _)| match device_of(pin) {
                Some(index) => device(index),
                None => Some("cgroup".to_owned()),
            });
        check.programs.push(ProgramUse {
            name: name.clone(),
            runs: info.runs,
            run_ns: info.run_ns,
            verified_instructions: info.verified_instructions,
            attached: attached.collect(),
        });
    }
    Ok(check)
}

/// One sentence for each port that is published on an address that the node does not have: nobody
/// reaches it.
fn foreign_addresses(assignment: &Assignment, own: &BTreeSet<IpAddr>) -> Vec<String> {
    let mut sentences = Vec::new();
    for service in &assignment.services {
        for port in &service.ports {
            let Some(a) = port.host_ip else { continue };
            if !a.is_loopback() && !a.is_unspecified() && !own.contains(&a) {
                sentences.push(format!(
                    "port {port} of service {} is published on {a}, which is no address of this node: `ip address` shows those it has",
                    service.name
                ));
            }
        }
    }
    sentences
}

/// How much of each map is in use.
fn uses(maps: &Opened) -> Vec<MapUse> {
    let of = |(name, m): (&&str, &Arc<RawMap>)| {
        let mut entries = 0;
        if *name != map::EVENTS {
            let counted = m.for_each_used(|_, _| {
                entries += 1;
                true
            });
            if counted.is_err() {
                entries = 0;
            }
        }
        MapUse { name: (*name).to_owned(), entries, capacity: m.info().max_entries, bytes: m.memory() }
    };
    maps.iter().map(of).collect()
}

/// One sentence for each map that does not hold what it should.
fn differences(desired: &Contents, found: &Contents) -> Vec<String> {
    let mut sentences = Vec::new();
    for m in WRITTEN {
        let (want, have) = (desired.rows(m), found.rows(m));
        let missing = want.keys().filter(|k| !have.contains_key(*k)).count();
        let wrong = want.iter().filter(|(k, v)| have.get(*k).is_some_and(|h| h != *v)).count();
        let extra = have.keys().filter(|k| !want.contains_key(*k)).count();
        if missing + wrong + extra > 0 {
            sentences.push(format!(
                "map {m}: {missing} rows are missing, {wrong} differ, {extra} are too many: the agent mends it within ten seconds"
            ));
        }
    }
    sentences
}
