//! How a flow to a published port begins: which backend it gets, and a tracking record that no
//! other conversation has.

use super::{
    Delivery, Operation, Present, Resolved, Search, Seen, Table, Tables,
    balance::pick,
    expired, hash, masquerade,
    record::{client_hash, delivery, flow, flow_key, forward_key, patience, record, same},
};
use crate::abi::{Address, BACKEND_UP, BackendRef, Flow, FlowKey, Forward, ForwardKey, Service, UDP};

/// Source ports that are tried after a collision.
const PORTS: u32 = 8;

/// Whom a new flow goes to.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Chosen<A> {
    /// The backend; nobody when there is none.
    pub backend: Resolved<A>,
    /// What will name the tracking record.
    pub record: Forward,
    /// What lies in its place.
    pub remains: Remains,
}

/// Which tables have a record of a conversation that is over where a new one is to be.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Remains {
    /// `FLOW_EST`.
    pub established: bool,
    /// `FLOW_NEW`.
    pub half_open: bool,
}

/// Chooses a backend for a flow; whether no other conversation has its place there.
#[inline(always)]
pub fn choose<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    origin: BackendRef,
    chosen: &mut Chosen<A>,
) -> bool {
    let key = forward_key(seen);
    let backend = pick(tables, service, client_hash(&key), 0);
    let record = record(service, &key, &backend, origin);
    *chosen = Chosen { backend, record, remains: Remains::default() };
    if !backend.exists() {
        return true;
    }
    // One UDP socket both asks and answers: what the container began with this client by itself must
    // not be taken for replies.
    let asks = key.protocol == UDP
        && masquerade::talks(tables, present, &flow_key(present, &key, &backend, &record), backend.backend);
    !asks && is_free(tables, present, &key, &backend, &record, &mut chosen.remains)
}

/// Chooses another backend than the one chosen, or the source port under which that one is to know the
/// client.
#[inline(always)]
pub fn evade<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    origin: BackendRef,
    chosen: &mut Chosen<A>,
) {
    let key = forward_key(seen);
    let hash = client_hash(&key);
    let backend = &chosen.backend;
    let other = pick(tables, service, hash, backend.backend.id);
    let record = record(service, &key, &other, origin);
    let free = (other.state == BACKEND_UP || backend.state != BACKEND_UP)
        && other.exists()
        && is_free(tables, present, &key, &other, &record, &mut chosen.remains);
    if free {
        (chosen.backend, chosen.record) = (other, record);
        return;
    }
    chosen.remains = Remains::default();
    let flow_key = flow_key(present, &key, backend, &chosen.record);
    let mut search = FreePort { hash: hash ^ present.now, key: flow_key, found: 0 };
    tables.search(PORTS, &mut search);
    if search.found == 0 {
        *chosen = Chosen::default();
    } else {
        chosen.record.client_port = search.found;
    }
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

/// Whether no other live conversation has the tracking record's key; what is left of dead ones.
#[inline(always)]
fn is_free<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    key: &ForwardKey<A>,
    backend: &Resolved<A>,
    record: &Forward,
    remains: &mut Remains,
) -> bool {
    let flow_key = flow_key(present, key, backend, record);
    let live = Live { present, key, backend: backend.backend };
    let established = tables.established().apply(&flow_key, live);
    if established == Some(true) {
        return false;
    }
    let half_open = tables.half_open().apply(&flow_key, live);
    *remains = Remains { established: established.is_some(), half_open: half_open.is_some() };
    half_open != Some(true)
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
            && !expired(self.present, flow.last_seen, patience(self.present, self.key.protocol, flow.state))
    }
}

/// Makes the records of a new flow where [`choose`] or [`evade`] have found room, unless somebody was faster.
/// `recorded` says whether there was a forward record of its client's.
#[inline(always)]
pub fn open<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    service: &Service,
    seen: &Seen<A>,
    chosen: &Chosen<A>,
    recorded: bool,
) -> Delivery<A> {
    let (key, backend, record) = (&forward_key(seen), &chosen.backend, &chosen.record);
    if !backend.exists() {
        return Delivery::default();
    }
    let flow_key = flow_key(present, key, backend, record);
    if chosen.remains.established {
        tables.established().remove(&flow_key);
    }
    if chosen.remains.half_open {
        tables.half_open().remove(&flow_key);
    }
    let flow = flow(present, service, seen, key, backend, record);
    if !tables.half_open().create(&flow_key, &flow) {
        return Delivery::default();
    }
    if recorded {
        tables.established_forwards().remove(key);
    }
    tables.half_open_forwards().insert(key, record);
    delivery(&flow_key, backend)
}
