//! Flows to published ports. A flow has two records: the tracking record, keyed by the tuple that
//! the container's reply shows, and the forward record, keyed by what the client's packets show,
//! from which (with the backend's address) the first one is found.
//!
//! - A flow is born from a pure SYN only.
//! - Two flows never share a tracking record: when one client port talks to two published tuples
//!   that lead to one container socket, the second flow takes another backend, else another source
//!   port. The client's address is kept, except for a container that reaches itself.
//! - Both records name their backend and its generation, which must hold for every packet.
//! - Half-open flows lie in tables of their own until the client has acknowledged what the container
//!   has sent, which nobody can who sends under another's address ([`Flow::expected`]).

use super::{
    Delivery, Operation, Present, Resolved, Search, Seen, Table, Tables,
    balance::{candidate, pick},
    expired, hash, resolve,
    tcp::{self, Side},
    touch,
};
use crate::{
    abi::{
        Address, BACKEND_UP, BackendRef, FLOW_ESTABLISHED, FLOW_FROM_CONTAINER, FLOW_HAIRPIN, FLOW_OPENING,
        FLOW_REPLIED, FLOW_RESET, Flow, FlowKey, Forward, ForwardKey, Service,
    },
    packet::{ACK, RST, Segment, Tuple},
};

/// Source ports that are tried after a collision.
const PORTS: u32 = 8;

/// Sends a client's packet to a backend. `origin` is the container that sent it, or 0 for a client
/// from outside. Nothing: not to be forwarded, the node's own stack answers.
#[inline(always)]
pub fn forward<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    origin: BackendRef,
) -> Delivery<A> {
    let key = ForwardKey {
        client: seen.tuple.source,
        published: seen.tuple.destination,
        client_port: seen.tuple.source_port,
        published_port: seen.tuple.destination_port,
        protocol: seen.protocol,
        pad: [0; 3],
    };
    let established = tables.established_forwards().with(&key, |f| *f);
    // All zero: none. See `resolve` on `Option`.
    let record = match established {
        Some(f) => f,
        None => tables.half_open_forwards().with(&key, |f| *f).unwrap_or_default(),
    };
    if record.backend.id != 0 {
        let found = follow(tables, present, service, seen, &key, &record, established.is_some());
        if found.exists() || !seen.segment.pure_syn() {
            return found;
        }
    }
    if seen.segment.pure_syn() {
        birth(tables, present, service, seen, &key, origin)
    } else {
        recompute(tables, present, service, seen, &key, origin)
    }
}

/// What a container's reply must show, and the way it takes; or nothing, see [`resolve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reply<A> {
    /// What it must show.
    pub tuple: Tuple<A>,
    /// Device the flow came in by; 0: it is no reply.
    pub ifindex: u32,
    /// [`Flow::flags`].
    pub flags: u8,
}

impl<A> Reply<A> {
    /// Whether it is one.
    #[inline(always)]
    #[must_use]
    pub fn exists(&self) -> bool {
        self.ifindex != 0
    }
}

/// Recognises the reply of container `owner` to a flow. Nothing: not of a flow.
#[inline(always)]
pub fn reply<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    seen: &Seen<A>,
    owner: BackendRef,
) -> Reply<A> {
    let key = FlowKey {
        client: seen.tuple.destination,
        backend: seen.tuple.source,
        client_port: seen.tuple.destination_port,
        backend_port: seen.tuple.source_port,
        protocol: seen.protocol,
        pad: [0; 3],
    };
    let mut answer = Answer { owner, segment: seen.segment, now: present.now, established: true };
    match tables.established().apply(&key, answer) {
        Some(found) => found,
        None => {
            answer.established = false;
            tables.half_open().apply(&key, answer).unwrap_or_default()
        }
    }
}

/// One packet of the container on its record.
#[derive(Clone, Copy)]
struct Answer {
    owner: BackendRef,
    segment: Segment,
    now: u64,
    established: bool,
}

impl<A: Address> Operation<Flow<A>> for Answer {
    type Output = Reply<A>;

    #[inline(always)]
    fn run(self, flow: &mut Flow<A>) -> Reply<A> {
        if flow.backend != self.owner {
            return Reply::default();
        }
        let state = tcp::next(flow.state, self.segment.flags, Side::Server, true);
        if self.established {
            flow.state = state;
        } else {
            if self.segment.flags & (ACK | RST) == ACK {
                flow.expected = self.segment.next;
            }
            // What the container says after a reset establishes nothing that was not before.
            flow.state = if established(state) { FLOW_REPLIED } else { state };
        }
        touch(&mut flow.last_seen, self.now);
        Reply {
            tuple: Tuple {
                source: flow.published,
                destination: flow.client,
                source_port: flow.published_port,
                destination_port: flow.client_port,
            },
            ifindex: flow.ifindex,
            flags: flow.flags,
        }
    }
}

/// What a known flow's packet leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Keep,
    Promote,
    Gone,
}

/// Follows a forward record.
#[inline(always)]
fn follow<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    key: &ForwardKey<A>,
    record: &Forward,
    established: bool,
) -> Delivery<A> {
    let backend = resolve(tables, record.backend);
    if !backend.serves() {
        return Delivery::default();
    }
    let flow_key = flow_key(present, key, &backend, record);
    let mut advance = Advance {
        present,
        key,
        backend: backend.backend,
        up: backend.state == BACKEND_UP,
        segment: seen.segment,
        ifindex: seen.ifindex,
        established: true,
    };
    let in_established = tables.established().apply(&flow_key, advance);
    let step = match in_established {
        Some(step) => step,
        None => {
            advance.established = false;
            match tables.half_open().apply(&flow_key, advance) {
                Some(step) => step,
                None if seen.segment.pure_syn() => Step::Gone,
                // The tracking record was evicted: the forward record knows it all.
                None => {
                    let mut flow = flow(present, service, seen, key, &backend, record.flags);
                    if established {
                        flow.state = FLOW_ESTABLISHED;
                        tables.established().insert(&flow_key, &flow);
                    } else {
                        // As if nothing had been answered: what was is forgotten, the container's
                        // next packet tells what the client must acknowledge.
                        tables.half_open().insert(&flow_key, &flow);
                    }
                    Step::Keep
                }
            }
        }
    };
    match step {
        Step::Gone => return Delivery::default(),
        Step::Keep => {}
        Step::Promote => {
            if let Some(flow) = tables.half_open().with(&flow_key, |flow| *flow) {
                // In this order, so that a reply finds the record at any moment.
                tables.established().insert(&flow_key, &flow);
                tables.established_forwards().insert(key, record);
                tables.half_open().remove(&flow_key);
                tables.half_open_forwards().remove(key);
            }
        }
    }
    delivery(&flow_key, &backend)
}

/// One packet of the client on its record.
#[derive(Clone, Copy)]
struct Advance<'a, A: Address> {
    present: &'a Present<'a>,
    key: &'a ForwardKey<A>,
    backend: BackendRef,
    up: bool,
    segment: Segment,
    ifindex: u32,
    established: bool,
}

impl<A: Address> Operation<Flow<A>> for Advance<'_, A> {
    type Output = Step;

    #[inline(always)]
    fn run(self, flow: &mut Flow<A>) -> Step {
        if !same(flow, self.key) || flow.backend != self.backend {
            return Step::Gone;
        }
        if self.segment.pure_syn() {
            let renewed = tcp::over(flow.state)
                || expired(self.present, flow.last_seen, tcp::patience(flow.state, self.present.config))
                || (flow.state == FLOW_OPENING && !self.up);
            if renewed {
                return Step::Gone;
            }
        } else {
            let proven = self.established || self.segment.acknowledgement == flow.expected;
            flow.state = tcp::next(flow.state, self.segment.flags, Side::Client, proven);
        }
        touch(&mut flow.last_seen, self.present.now);
        if flow.ifindex != self.ifindex {
            flow.ifindex = self.ifindex;
        }
        let due = !self.established && self.segment.flags & ACK != 0 && established(flow.state);
        if due { Step::Promote } else { Step::Keep }
    }
}

/// Whether a flow in this state was established once. One that was reset may have been, too: its
/// table tells.
#[inline(always)]
fn established(state: u8) -> bool {
    state >= FLOW_ESTABLISHED && state != FLOW_RESET
}

/// Begins a flow.
#[inline(always)]
fn birth<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    key: &ForwardKey<A>,
    origin: BackendRef,
) -> Delivery<A> {
    let hash = client_hash(key);
    let mut backend = pick(tables, service, hash, 0);
    if !backend.exists() {
        return Delivery::default();
    }
    let mut record = record(service, key, &backend, origin);
    if taken(tables, present, key, &backend, &record) {
        // Another conversation of this client port has that socket: another backend, or port.
        let other = pick(tables, service, hash, backend.backend.id);
        let other_record = self::record(service, key, &other, origin);
        let free = (other.state == BACKEND_UP || backend.state != BACKEND_UP)
            && other.exists()
            && !taken(tables, present, key, &other, &other_record);
        if free {
            (backend, record) = (other, other_record);
        } else {
            let flow_key = flow_key(present, key, &backend, &record);
            let mut search = FreePort { hash: hash ^ present.now, key: flow_key, found: 0 };
            tables.search(PORTS, &mut search);
            if search.found == 0 {
                return Delivery::default();
            }
            record.client_port = search.found;
        }
    }
    open(tables, present, service, seen, key, &backend, &record)
}

/// Looks for a source port under which a backend knows nobody.
struct FreePort<A: Address> {
    hash: u64,
    key: FlowKey<A>,
    found: u16,
}

impl<A: Address, T: Tables<A>> Search<A, T> for FreePort<A> {
    #[inline(always)]
    fn step(&mut self, tables: &T, i: u32) -> bool {
        // Above the ports that need privileges.
        let port = 1024 + (hash::scramble(self.hash ^ u64::from(i)) % (65_536 - 1024)) as u16;
        self.key.client_port = port;
        if tables.established().with(&self.key, |_| ()).is_some()
            || tables.half_open().with(&self.key, |_| ()).is_some()
        {
            return false;
        }
        self.found = port;
        true
    }
}

/// Whether another live conversation has the tracking record's key.
#[inline(always)]
fn taken<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    key: &ForwardKey<A>,
    backend: &Resolved<A>,
    record: &Forward,
) -> bool {
    let flow_key = flow_key(present, key, backend, record);
    let live = Live { present, key, backend: backend.backend };
    match tables.established().apply(&flow_key, live) {
        Some(true) => true,
        _ => tables.half_open().apply(&flow_key, live) == Some(true),
    }
}

/// Whether a tracking record is of another conversation that still lives.
#[derive(Clone, Copy)]
struct Live<'a, A: Address> {
    present: &'a Present<'a>,
    key: &'a ForwardKey<A>,
    backend: BackendRef,
}

impl<A: Address> Operation<Flow<A>> for Live<'_, A> {
    type Output = bool;

    #[inline(always)]
    fn run(self, flow: &mut Flow<A>) -> bool {
        !same(flow, self.key)
            && flow.backend == self.backend
            && !expired(self.present, flow.last_seen, tcp::patience(flow.state, self.present.config))
    }
}

/// Makes the records of a new flow, unless another live one has the tracking record's key.
#[inline(always)]
fn open<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    key: &ForwardKey<A>,
    backend: &Resolved<A>,
    record: &Forward,
) -> Delivery<A> {
    let flow_key = flow_key(present, key, backend, record);
    let live = Live { present, key, backend: backend.backend };
    match tables.established().apply(&flow_key, live) {
        Some(true) => return Delivery::default(),
        Some(false) => tables.established().remove(&flow_key),
        None => {}
    }
    match tables.half_open().apply(&flow_key, live) {
        Some(true) => return Delivery::default(),
        Some(false) => tables.half_open().remove(&flow_key),
        None => {}
    }
    let flow = flow(present, service, seen, key, backend, record.flags);
    if !tables.half_open().create(&flow_key, &flow) {
        return Delivery::default();
    }
    tables.established_forwards().remove(key);
    tables.half_open_forwards().insert(key, record);
    delivery(&flow_key, backend)
}

/// Finds a flow whose forward record was evicted, where the backend that a new flow would get is
/// still the one it has.
#[inline(always)]
fn recompute<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    key: &ForwardKey<A>,
    origin: BackendRef,
) -> Delivery<A> {
    let backend = resolve(tables, candidate(tables, service, client_hash(key)));
    if !backend.serves() {
        return Delivery::default();
    }
    let record = record(service, key, &backend, origin);
    let flow_key = flow_key(present, key, &backend, &record);
    let advance = Advance {
        present,
        key,
        backend: backend.backend,
        up: backend.state == BACKEND_UP,
        segment: seen.segment,
        ifindex: seen.ifindex,
        established: true,
    };
    let in_established = tables.established().apply(&flow_key, advance);
    match in_established {
        Some(Step::Gone) => return Delivery::default(),
        Some(_) => tables.established_forwards().insert(key, &record),
        None => {
            // Promotion, if it is due, comes with the next packet.
            let known =
                tables.half_open().with(&flow_key, |flow| same(flow, key) && flow.backend == backend.backend);
            if known != Some(true) {
                return Delivery::default();
            }
            tables.half_open_forwards().insert(key, &record);
        }
    }
    delivery(&flow_key, &backend)
}

#[inline(always)]
fn client_hash<A: Address>(key: &ForwardKey<A>) -> u64 {
    hash::tuple(&key.client, &key.published, key.client_port, key.published_port, key.protocol)
}

#[inline(always)]
fn record<A: Address>(
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
        pad: [0; 3],
    }
}

#[inline(always)]
fn flow_key<A: Address>(
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
fn flow<A: Address>(
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    key: &ForwardKey<A>,
    backend: &Resolved<A>,
    flags: u8,
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
        flags,
        mtu: 0,
        expected: 0,
        pad: 0,
    }
}

/// Whether a tracking record is of this conversation.
#[inline(always)]
fn same<A: Address>(flow: &Flow<A>, key: &ForwardKey<A>) -> bool {
    flow.client == key.client
        && flow.published == key.published
        && flow.client_port == key.client_port
        && flow.published_port == key.published_port
}

#[inline(always)]
fn delivery<A: Address>(key: &FlowKey<A>, backend: &Resolved<A>) -> Delivery<A> {
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
