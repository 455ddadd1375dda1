//! Flows to published ports. A flow has two records: the tracking record, keyed by the tuple that
//! the container's reply shows, and the forward record, keyed by what the client's packets show,
//! from which (with the backend's address) the first one is found.
//!
//! - A TCP flow is born from a pure SYN only, a UDP flow from any packet that may begin one.
//! - Two flows never share a tracking record: when one client port talks to two published tuples
//!   that lead to one container socket, the second flow takes another backend, else another source
//!   port. The client's address is kept, except for a container that reaches itself.
//! - Both records name their backend and its generation, which must hold for every packet. A UDP
//!   flow whose backend is gone, or on its way out while another is up, begins anew with that one.
//! - Half-open flows lie in tables of their own until the client has acknowledged what the container
//!   has sent, which nobody can who sends under another's address ([`Flow::expected`]); UDP flows
//!   until they have gone both ways for a while ([`udp`]).

pub use super::birth::{Chosen, choose, evade, open};
use super::{
    Delivery, Operation, Present, Seen, Table, Tables,
    balance::{candidate, keeps},
    expired,
    record::{client_hash, delivery, flow, flow_key, forward_key, record, same},
    resolve, seat,
    tcp::{self, Side},
    touch,
    traffic::Size,
    udp::{self, second},
};
use crate::{
    abi::{
        Address, BACKEND_UP, BackendRef, FLOW_ESTABLISHED, FLOW_OPENING, FLOW_REPLIED, FLOW_RESET, Flow,
        FlowKey, Forward, ForwardKey, SERVICE_SEATED, Service, UDP,
    },
    packet::{ACK, RST, SYN, Segment, Tuple},
};

/// Sends a client's packet of a known flow to its backend. Nothing: not of one, or of one that is no
/// more, which leaves `unknown` as it is.
#[inline(always)]
pub fn forward<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    unknown: &mut bool,
) -> Delivery<A> {
    let key = forward_key(seen);
    let established = tables.established_forwards().with(&key, |f| *f);
    // All zero: none. See `resolve` on `Option`.
    let record = match established {
        Some(f) => f,
        None => tables.half_open_forwards().with(&key, |f| *f).unwrap_or_default(),
    };
    if record.backend.id == 0 {
        *unknown = true;
        return Delivery::default();
    }
    follow(tables, present, service, seen, &key, &record, established.is_some())
}

/// Whether [`forward`] would find a record of the packet's flow.
#[inline(always)]
pub(super) fn is_recorded<A: Address>(tables: &impl Tables<A>, seen: &Seen<A>) -> bool {
    let key = forward_key(seen);
    tables.established_forwards().with(&key, |_| ()).is_some()
        || tables.half_open_forwards().with(&key, |_| ()).is_some()
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
    let answer = |established| Answer {
        owner,
        udp: seen.protocol == UDP,
        segment: seen.segment,
        size: seen.size,
        now: present.now,
        established,
    };
    // The answer to a SYN is in the other table, but for one that comes again.
    let opens = seen.segment.flags & SYN != 0;
    let first = if opens { tables.half_open().apply(&key, answer(false)) } else { None };
    match first {
        Some(found) => found,
        None => match tables.established().apply(&key, answer(true)) {
            Some(found) => found,
            None if opens => Reply::default(),
            None => tables.half_open().apply(&key, answer(false)).unwrap_or_default(),
        },
    }
}

/// One packet of the container on its record.
#[derive(Clone, Copy)]
struct Answer {
    owner: BackendRef,
    udp: bool,
    segment: Segment,
    size: Size,
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
        if self.udp {
            flow.state = udp::answered(flow.state);
        } else {
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
        }
        touch(&mut flow.last_seen, self.now);
        self.size.count_sent(&mut flow.traffic);
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
    if !keeps(tables, service, key.protocol, client_hash(key), &backend) {
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
        size: seen.size,
        established,
    };
    // Where its forward record is.
    let beside = if established {
        tables.established().apply(&flow_key, advance)
    } else {
        tables.half_open().apply(&flow_key, advance)
    };
    let step = match beside {
        Some(step) => step,
        None => {
            advance.established = !established;
            // The other one: it is about to be moved, or only half of what was moved is still there.
            let other = if established {
                tables.half_open().apply(&flow_key, advance)
            } else {
                tables.established().apply(&flow_key, advance)
            };
            match other {
                Some(step) => step,
                None if seen.segment.pure_syn() => Step::Gone,
                // The tracking record was evicted: the forward record knows it all.
                None => {
                    let mut flow = flow(present, service, seen, key, &backend, record);
                    if established {
                        flow.state = FLOW_ESTABLISHED;
                        flow.expected = second(present.now);
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
            if let Some(mut flow) = tables.half_open().with(&flow_key, |flow| *flow) {
                if key.protocol != UDP {
                    flow.expected = second(present.now);
                }
                // In this order, so that a reply finds the record at any moment.
                tables.established().insert(&flow_key, &flow);
                tables.established_forwards().insert(key, record);
                tables.half_open().remove(&flow_key);
                tables.half_open_forwards().remove(key);
                if record.seat != 0 {
                    seat::keep(tables, service, key, record.seat);
                }
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
    size: Size,
    established: bool,
}

impl<A: Address> Operation<Flow<A>> for Advance<'_, A> {
    type Output = Step;

    #[inline(always)]
    fn run(self, flow: &mut Flow<A>) -> Step {
        if !same(flow, self.key) || flow.backend != self.backend {
            return Step::Gone;
        }
        let udp = self.key.protocol == UDP;
        if udp {
            if expired(self.present, flow.last_seen, udp::patience(flow.state, self.present.config)) {
                return Step::Gone;
            }
            flow.state = udp::asked(flow.state, flow.expected, self.present.now);
        } else if self.segment.pure_syn() {
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
        self.size.count_received(&mut flow.traffic);
        if flow.ifindex != self.ifindex {
            flow.ifindex = self.ifindex;
        }
        let due = !self.established && (udp || self.segment.flags & ACK != 0) && established(flow.state);
        if due { Step::Promote } else { Step::Keep }
    }
}

/// Whether a flow in this state was established once. One that was reset may have been, too: its
/// table tells.
#[inline(always)]
fn established(state: u8) -> bool {
    state >= FLOW_ESTABLISHED && state != FLOW_RESET
}

/// As [`forward`], for a flow whose forward record was evicted, where the backend that a new flow would
/// get is still the one it has. `origin` is the container that sent the packet, or 0 for a client from
/// outside.
#[inline(always)]
pub fn recall<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    origin: BackendRef,
) -> Delivery<A> {
    let key = &forward_key(seen);
    let hash = client_hash(key);
    let backend = resolve(tables, candidate(tables, service, hash));
    if !keeps(tables, service, key.protocol, hash, &backend) {
        return Delivery::default();
    }
    let mut record = record(service, key, &backend, origin);
    let flow_key = flow_key(present, key, &backend, &record);
    if service.flags & SERVICE_SEATED != 0 {
        seat::recall(tables, &flow_key, &mut record);
    }
    let advance = Advance {
        present,
        key,
        backend: backend.backend,
        up: backend.state == BACKEND_UP,
        segment: seen.segment,
        ifindex: seen.ifindex,
        size: seen.size,
        established: true,
    };
    let in_established = tables.established().apply(&flow_key, advance);
    match in_established {
        Some(Step::Gone) => return Delivery::default(),
        Some(_) => tables.established_forwards().insert(key, &record),
        None => {
            // Promotion, if it is due, comes with the next packet.
            let known = tables.half_open().with(&flow_key, |flow| {
                let known = same(flow, key) && flow.backend == backend.backend;
                if known {
                    flow.ifindex = seen.ifindex;
                }
                known
            });
            if known != Some(true) {
                return Delivery::default();
            }
            tables.half_open_forwards().insert(key, &record);
        }
    }
    delivery(&flow_key, &backend)
}
