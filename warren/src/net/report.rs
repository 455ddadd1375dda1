//! What people are shown of the datapath.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use warren_ebpf::abi::{BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_HELD, BACKEND_UP, Backend, Service, map};

use super::{
    NetError,
    attach::host_name,
    datapath::{
        contents::{Contents, Opened, WRITTEN},
        desired::{Plan, key4, key6},
        links::device_of,
        sources::of_set,
        sys::RawMap,
    },
    engine::{Engine, unfinished},
    flows::socket,
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
