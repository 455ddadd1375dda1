//! What a decision was made from, collected: rows of the tables, and what the program has left.

use std::{collections::BTreeMap, mem::offset_of, net::IpAddr, os::fd::AsFd as _};

use warren_ebpf::abi::{
    BackendRef, CONFIG_ENABLED, ClientKey, Config, FlowKey, Layout, Route, SERVICE_LIMITED, SERVICE_PACED,
    SERVICE_SEATED, Service, ServiceKey, Words, map, program,
};

use super::{
    super::{
        NetError,
        datapath::{
            contents::Contents,
            desired::reference,
            rehearsal::{Entrance, Rehearsed, Stage},
            sources::of_set,
            sys::{bytes_of, from_bytes, program_by_id, program_info},
        },
        engine::Engine,
        flows::key,
        report,
    },
    End, Protocol, Question,
    facts::{Facts, Port, Way},
    outcome::done,
    place::Place,
    record::record,
    seats,
    tables::{Side, Tables, named, prefix},
};

/// Collects everything, and has the packet rehearsed.
pub(super) fn collect(engine: &Engine, question: Question, place: Place) -> Result<Facts, NetError> {
    if question.source.is_ipv4() {
        of::<[u8; 4]>(engine, question, place)
    } else {
        of::<Words>(engine, question, place)
    }
}

fn of<A: Side>(engine: &Engine, question: Question, place: Place) -> Result<Facts, NetError>
where
    FlowKey<A>: aya::Pod,
{
    let assignment = engine.heard();
    let called = |task: &crate::model::TaskId| {
        let tasks = assignment.as_ref().map(|a| a.tasks.as_slice()).unwrap_or_default();
        let found = tasks.iter().find(|t| t.id == *task);
        found.map_or_else(|| format!("task {task}"), |t| format!("{}.{} ({task})", t.service_name, t.slot))
    };
    let (stage, denied, devices, tasks, running, guarded) = {
        let state = engine.state();
        let devices: BTreeMap<_, _> =
            state.host.devices.iter().map(|d| (d.index, (d.name.clone(), d.mtu))).collect();
        let tasks: BTreeMap<_, _> =
            state.attached.iter().map(|(t, a)| (key(&reference(&a.attachment)), called(t))).collect();
        let guarded = matches!(place, Place::Device { index, .. } if state.loaded.links().is_guarded(index));
        let running = state.loaded.links().running()?;
        (state.loaded.stage(), state.denied.clone(), devices, tasks, running, guarded)
    };
    let tables = Tables { live: &stage.live, tasks: &tasks, v4: A::V4 };
    let (source, destination) = (A::read(question.source.ip()), A::read(question.destination.ip()));
    let config: Config = tables.row(map::CONFIG, &0u32.to_ne_bytes()).unwrap_or_default();
    let (port, target) = published::<A>(engine, &tables, &question);
    let owner = match &place {
        Place::Container { index, .. } => tables.row(map::LINK, &index.to_ne_bytes()).unwrap_or_default(),
        Place::Device { .. } | Place::Node => BackendRef::default(),
    };
    let neighbour: BackendRef = tables.row(map::EP4, destination.as_ref()).unwrap_or_default();
    let mut facts = Facts {
        enabled: config.flags & CONFIG_ENABLED != 0,
        tag: String::new(),
        running_tag: String::new(),
        done: None,
        denied: (!denied.is_empty())
            .then(|| denied.iter().copied().filter(|net| net.contains(&question.source.ip())).collect()),
        to_node: tables.has(map::LOCAL4, destination.as_ref()),
        from_node: tables.has(map::LOCAL4, source.as_ref()),
        behind: (owner.id != 0).then(|| tables.backend(owner).0),
        neighbour: (neighbour.id != 0).then(|| tables.backend(neighbour).0),
        port,
        in_range: (config.masquerade_first..=config.masquerade_last).contains(&question.destination.port()),
        record: None,
        route: way::<A>(&tables, destination, &devices),
        devices,
        question,
        place,
    };
    let (program, index) = match &facts.place {
        // A test-run always has an Ethernet header.
        Place::Device { index, .. } => (program::NODE_IN_L2, *index),
        Place::Container { index, .. } => (program::VETH_IN, *index),
        Place::Node => return Ok(facts),
    };
    let frame = facts.question.frame(facts.place.mac());
    let entrance = Entrance { program, ifindex: index, frame, family: A::FAMILY };
    let rehearsed = rehearse::<A>(&stage, &entrance, source, destination)?;
    facts.tag = hex(rehearsed.tag);
    let runs = running.iter().find(|(pin, _)| *pin == format!("dev-{index}"));
    if let Some(fd) = runs.and_then(|(_, id)| program_by_id(*id).ok())
        && let Ok(info) = program_info(fd.as_fd())
    {
        facts.running_tag = hex(info.tag);
    }
    facts.record = record::<A>(&tables, &rehearsed.before, &facts.question, owner, target);
    if let Some(port) = facts.port.as_mut().filter(|p| p.seated) {
        let most = port.limit.connections;
        port.seats = seats::taken::<A>(&tables, &rehearsed.before, &facts.question, port.id, most);
    }
    let before = rehearsed.before.clone();
    let mut done = done::<A>(&tables, rehearsed, &facts);
    // The guard sees it first; but only what is dropped anyway is worth asking it about.
    done.early = guarded && done.end == End::Dropped && stage.guards(&entrance, &before)?;
    facts.done = Some(done);
    Ok(facts)
}

fn hex(tag: [u8; 8]) -> String {
    tag.iter().map(|b| format!("{b:02x}")).collect()
}

fn rehearse<A: Side>(
    stage: &Stage,
    entrance: &Entrance,
    source: A,
    destination: A,
) -> Result<Rehearsed, NetError> {
    let size = size_of::<A>();
    let ends = [source.as_ref(), destination.as_ref()];
    let networks = [source.network(), destination.network()];
    let client = offset_of!(ClientKey, network);
    let is = |k: &[u8], at: usize| k.get(at..at + size).is_some_and(|end| ends.contains(&end));
    stage.rehearse(entrance, |name, k| match name {
        // What a client sends, and what a remote answers, is found by both of its ends.
        map::FWD_NEW4 | map::FWD_EST4 | map::FWD_NEW6 | map::FWD_EST6 | map::MASQ_RET4 | map::MASQ_RET6 => {
            is(k, 0)
        }
        map::MASQ_OUT4 | map::MASQ_OUT6 => is(k, 0) || is(k, size),
        // What a client has is counted by its network.
        map::FLOW_NEW4 | map::FLOW_EST4 | map::FLOW_NEW6 | map::FLOW_EST6 => {
            is(k, 0) || is(k, size) || (!A::V4 && networks.iter().any(|n| k.starts_with(n)))
        }
        _ if k.len() < client + 8 => true,
        _ => networks.iter().any(|n| k[client..].starts_with(n)),
    })
}

/// What is published where the packet goes, and on which port its backends listen.
fn published<A: Side>(engine: &Engine, tables: &Tables<'_>, question: &Question) -> (Option<Port>, u16) {
    let number = question.number();
    let to = question.destination;
    if question.protocol == Protocol::Icmp {
        return (None, 0);
    }
    let at = |address: A| {
        let key = ServiceKey { address, port: to.port(), protocol: number, pad: 0 };
        tables.row::<Service>(map::SVC4, bytes_of(&key))
    };
    let exact = at(A::read(to.ip()));
    let Some(service) = exact.or_else(|| at(A::ZERO)) else { return (None, 0) };
    let host = if exact.is_some() { Some(to.ip()) } else { None };
    let is_it = |p: &&report::Published| {
        let p = &p.port;
        let everywhere = p.host_ip.is_none_or(|ip| ip.is_unspecified());
        p.published == to.port()
            && p.protocol.number() == number
            && if host.is_some() {
                p.host_ip == host
            } else {
                everywhere && p.host_ip.is_none_or(|ip| ip.is_ipv4() == A::V4)
            }
    };
    let all = report::published(engine);
    let known = all.iter().find(is_it);
    let sources = (service.sources != 0).then(|| {
        let rows = engine.state().loaded.maps()[named(map::SRC4, A::V4)].clone();
        let mut contents = Contents::default();
        let into = contents.rows_mut(named(map::SRC4, A::V4));
        let _ = rows.for_each(|k, v| into.insert(k.to_vec(), v.to_vec()).is_none());
        of_set(named(map::SRC4, A::V4), &contents, service.sources)
    });
    let on = host
        .map_or_else(|| "*".to_owned(), |ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() });
    let of =
        known.map_or_else(|| format!("service number {}", service.id), |p| format!("service {}", p.service));
    let backends = known.map(|p| p.backends.as_slice()).unwrap_or_default();
    let port = Port {
        name: format!("{on}:{}/{} of {of}", to.port(), question.protocol.name()),
        sources,
        backends: backends
            .iter()
            .map(|b| (tables.backend(BackendRef { id: b.id, generation: b.generation }).0, b.state))
            .collect(),
        limit: tables.row(map::LIMIT, &service.id.to_ne_bytes()).unwrap_or_default(),
        id: service.id,
        limited: service.flags & SERVICE_LIMITED != 0,
        paced: service.flags & SERVICE_PACED != 0,
        seated: service.flags & SERVICE_SEATED != 0,
        seats: 0,
    };
    (Some(port), service.target)
}

/// The way out to an address.
fn way<A: Side>(tables: &Tables<'_>, destination: A, devices: &BTreeMap<u32, (String, u32)>) -> Option<Way>
where
    Route<A>: Layout,
{
    use warren_ebpf::abi::{ROUTE_DROP, ROUTE_PLAIN};
    let key = prefix(destination.as_ref());
    let bytes = tables.live[named(map::ROUTE4, A::V4)].get(&key).ok().flatten()?;
    let route: Route<A> = from_bytes(&bytes)?;
    if route.flags & ROUTE_DROP != 0 {
        return None;
    }
    let wide = route.source.widen();
    let source = if A::V4 { IpAddr::from([wide[0], wide[1], wide[2], wide[3]]) } else { IpAddr::from(wide) };
    let device = devices.get(&route.ifindex).map_or_else(|| route.ifindex.to_string(), |(n, _)| n.clone());
    let (plain, unknown) = (route.flags & ROUTE_PLAIN != 0, route.source == A::ZERO);
    (plain || !unknown).then_some(Way { device, source: (!plain).then_some(source) })
}
