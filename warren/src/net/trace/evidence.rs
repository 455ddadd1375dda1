//! What a decision was made from: rows of the tables, and what the program has left.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
};

use ipnet::IpNet;
use warren_ebpf::{
    abi::{
        BACKEND_UP, Backend, BackendRef, CONFIG_ENABLED, ClientKey, Config, Egress, EgressKey, FlowKey,
        Forward, ForwardKey, Layout, Limit, Reason, ReturnKey, Route, SERVICE_LIMITED, SERVICE_PACED,
        Service, ServiceKey, Words, map, program,
    },
    flow::{
        Resolved,
        decide::{Action, Verdict, Work},
        published::Chosen,
    },
    packet::{ACK, FIN, Family, RST, SYN},
};

use super::{
    super::{
        NetError,
        datapath::{
            contents::{Contents, Opened, Rows},
            desired::reference,
            rehearsal::{Entrance, Rehearsed, Stage},
            sources::of_set,
            sys::{bytes_of, from_bytes, program_by_id, program_info},
        },
        engine::Engine,
        flows::{self, BackendRefKey, Read, key, monotonic_ns},
        report::{self, state_name},
    },
    End, Protocol, Question, packet,
    place::Place,
};

/// Everything that is known of a packet's way.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub question: Question,
    pub place: Place,
    /// Whether the datapath is switched on.
    pub enabled: bool,
    /// The fingerprints: of what was asked and of what is on the device.
    pub tag: String,
    pub running_tag: String,
    /// What the program did; `None` for a socket, of which no program can be asked.
    pub done: Option<Done>,
    /// The networks of the deny list that the client is in; `None`: there is no list.
    pub denied: Option<Vec<IpNet>>,
    /// Whether the destination is an address of the node, and the source.
    pub to_node: bool,
    pub from_node: bool,
    /// The container behind the device it comes in by, and the one that has its destination.
    pub behind: Option<String>,
    pub neighbour: Option<String>,
    /// What is published there.
    pub port: Option<Port>,
    /// Whether the destination's port is one that masquerading uses.
    pub in_range: bool,
    /// What is known of the flow.
    pub record: Option<Record>,
    /// The device of the way out, and what is shown there; `None`: no way out.
    pub route: Option<Way>,
    /// Names of devices and their MTU.
    pub devices: BTreeMap<u32, (String, u32)>,
}

/// A way out of the node.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub device: String,
    /// What it shows there; `None`: itself.
    pub source: Option<IpAddr>,
}

/// What a program did.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub end: End,
    pub reason: Option<Reason>,
    /// What it shows afterwards.
    pub shown: Option<(SocketAddr, SocketAddr)>,
    /// The device it goes to; 0: none.
    pub to: u32,
    /// The MTU that its sender is told.
    pub mtu: u32,
    /// Whether a container was recognised as its sender.
    pub owned: bool,
    /// The backend that was chosen for a flow that begins.
    pub chosen: Option<String>,
    /// Whether what it shows outside was looked for.
    pub masqueraded: bool,
    /// Rows of the programs' own maps that would be born.
    pub born: usize,
}

/// A published port.
#[derive(Debug, Clone)]
pub(super) struct Port {
    /// As it is written, with the service.
    pub name: String,
    /// The networks whose clients it answers; everybody when `None`.
    pub sources: Option<Vec<IpNet>>,
    /// What is behind it: name and state.
    pub backends: Vec<(String, &'static str)>,
    /// What one client gets: new connections and packets, a spacing of 0 is no limit.
    pub limit: Limit,
    pub limited: bool,
    pub paced: bool,
}

impl Port {
    /// How many backends take new flows.
    pub fn takers(&self) -> usize {
        let up = self.backends.iter().filter(|(_, s)| *s == state_name(BACKEND_UP)).count();
        if up > 0 { up } else { self.backends.iter().filter(|(_, s)| *s == "draining").count() }
    }
}

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A client's flow to a published port (or a container).
    Forward,
    /// A container's reply to one.
    Reply,
    /// What a container began with somebody outside.
    Egress,
    /// The answer to that.
    Answer,
}

/// A flow that is known.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub kind: Kind,
    /// How far it is; `None`: only the half that names its backend is left.
    pub state: Option<&'static str>,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
    /// Whether it has run out.
    pub over: bool,
    /// Whose it is.
    pub backend: String,
    /// Whether that one is still there.
    pub lives: bool,
}

/// The family's name of a map that is called `v4` in IPv4.
pub(super) fn named(v4: &'static str, is_v4: bool) -> &'static str {
    let is_other = |name: &&&str| name.strip_suffix('6') == v4.strip_suffix('4') && name.ends_with('6');
    if is_v4 { v4 } else { map::ALL.iter().find(is_other).copied().unwrap_or(v4) }
}

/// A whole address as the key of a trie.
pub(super) fn prefix(address: &[u8]) -> Vec<u8> {
    let bits = u32::try_from(8 * address.len()).unwrap_or(0);
    [&bits.to_ne_bytes()[..], address].concat()
}

/// An address that the tables of a family are asked for.
trait Side: Family {
    const V4: bool;
    fn read(address: IpAddr) -> Self;
}

impl Side for [u8; 4] {
    const V4: bool = true;

    fn read(address: IpAddr) -> Self {
        if let IpAddr::V4(a) = address { a.octets() } else { [0; 4] }
    }
}

impl Side for Words {
    const V4: bool = false;

    fn read(address: IpAddr) -> Self {
        Self::new(if let IpAddr::V6(a) = address { a.octets() } else { [0; 16] })
    }
}

/// What the decisions are made from.
struct Tables<'a> {
    live: &'a Opened,
    tasks: &'a BTreeMap<BackendRefKey, String>,
    v4: bool,
}

impl Tables<'_> {
    fn row<V: aya::Pod>(&self, v4: &'static str, key: &[u8]) -> Option<V> {
        self.live[named(v4, self.v4)].get(key).ok().flatten().and_then(|v| from_bytes(&v))
    }

    fn has(&self, v4: &'static str, key: &[u8]) -> bool {
        self.live[named(v4, self.v4)].get(key).is_ok_and(|v| v.is_some())
    }

    /// What a backend is called, and whether its row is still its own.
    fn backend(&self, b: BackendRef) -> (String, bool) {
        let row: Option<Backend> = self.row(map::BACKEND, &b.id.to_ne_bytes());
        let lives = row.is_some_and(|r| r.generation == b.generation && r.state != 0);
        let name = self.tasks.get(&key(&b)).cloned();
        (name.unwrap_or_else(|| format!("backend {} (generation {})", b.id, b.generation)), lives)
    }
}

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
    let (stage, denied, devices, tasks, running) = {
        let state = engine.state();
        let devices: BTreeMap<_, _> =
            state.host.devices.iter().map(|d| (d.index, (d.name.clone(), d.mtu))).collect();
        let tasks: BTreeMap<_, _> =
            state.attached.iter().map(|(t, a)| (key(&reference(&a.attachment)), called(t))).collect();
        (state.loaded.stage(), state.denied.clone(), devices, tasks, state.loaded.links().running()?)
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
    facts.done = Some(done::<A>(&tables, rehearsed, &facts));
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
        limited: service.flags & SERVICE_LIMITED != 0,
        paced: service.flags & SERVICE_PACED != 0,
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

/// What is known of the packet's flow, in the order in which the programs ask.
fn record<A: Side>(
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

/// Reads what the program has left.
fn done<A: Side>(tables: &Tables<'_>, mut r: Rehearsed, facts: &Facts) -> Done {
    const SHOT: i32 = 2;
    const REDIRECT: i32 = 7;
    let number =
        |at: usize| r.work.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let verdict = offset_of!(Work<A>, verdict);
    let action = number(verdict + offset_of!(Verdict<A>, action));
    let to = number(verdict + offset_of!(Verdict<A>, ifindex));
    let reference = |at: usize| BackendRef { id: number(at), generation: number(at + 4) };
    let owner = reference(offset_of!(Work<A>, owner));
    let chosen = reference(
        offset_of!(Work<A>, chosen) + offset_of!(Chosen<A>, backend) + offset_of!(Resolved<A>, backend),
    );
    let masqueraded = number(offset_of!(Work<A>, route) + offset_of!(Route<A>, ifindex)) != 0;
    let born = r.after.iter().map(|(name, rows)| {
        let known = &r.before[name];
        rows.keys().filter(|k| !known.contains_key(*k)).count()
    });
    let born = born.sum();
    let device = action == Action::Device as u32;
    let told = if device && r.action == REDIRECT { packet::too_big(&mut r.frame) } else { None };
    let begins = facts.question.begins();
    let no_taker = facts.port.as_ref().is_some_and(|p| p.takers() == 0);
    let end = match (r.action, told) {
        (REDIRECT, Some(_)) => End::TooBig,
        (REDIRECT, None) if device => End::Device,
        (REDIRECT, None) => End::Container,
        (SHOT, _) => End::Dropped,
        _ if begins && no_taker && facts.to_node && chosen.id == 0 => End::Refused,
        _ => End::Passed,
    };
    let goes = matches!(end, End::Device | End::Container);
    Done {
        end,
        reason: r.dropped,
        shown: if goes { packet::ends(&r.frame) } else { None },
        to: if goes || end == End::TooBig { to } else { 0 },
        mtu: told.unwrap_or(0),
        owned: owner.id != 0,
        chosen: (chosen.id != 0).then(|| tables.backend(chosen).0),
        masqueraded,
        born,
    }
}

impl Question {
    /// Whether it may be a flow's first packet.
    pub(super) fn begins(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => self.flags & (SYN | ACK | FIN | RST) == SYN,
            Protocol::Udp | Protocol::Icmp => true,
        }
    }
}
