//! A node in memory: the tables as plain maps with the eviction of an LRU, so that the decisions
//! can be run, and compared with the kernel's, without a kernel.

extern crate std;

use core::{
    cell::{Cell, RefCell},
    hash::Hash,
};
use std::{collections::HashMap, vec::Vec};

use super::{
    Operation, Present, Search, Table, Tables,
    decide::{self, Action, Next, Node, V4, Verdict, Work},
    guard,
};
use crate::{
    abi::{
        Address, Backend, BackendRef, CONFIG_ANYWHERE, Client, ClientKey, Config, Egress, EgressKey, Flow,
        FlowKey, Forward, ForwardKey, Limit, Mac, Piece, PieceKey, Return, ReturnKey, Route, Seat, SeatKey,
        Service, ServiceKey, SourceKey, capacity,
    },
    packet::{
        Bytes, Family, Tuple,
        notice::{self, Quoted},
        piece,
    },
};

/// A map that forgets what was used least recently when it is full.
#[derive(Debug, Clone)]
pub struct Lru<K, V> {
    rows: RefCell<Rows<K, V>>,
    capacity: usize,
}

/// Values with the time of their last use, and the clock of uses.
type Rows<K, V> = (HashMap<K, (u64, V)>, u64);

impl<K: Copy + Eq + Hash, V: Copy> Lru<K, V> {
    /// An empty map for `capacity` rows.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { rows: RefCell::default(), capacity }
    }

    /// Every row.
    #[must_use]
    pub fn rows(&self) -> Vec<(K, V)> {
        self.rows.borrow().0.iter().map(|(k, (_, v))| (*k, *v)).collect()
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.borrow().0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.rows.borrow_mut().0.clear();
    }

    fn put(&self, key: &K, value: &V, only_new: bool) -> bool {
        let (rows, clock) = &mut *self.rows.borrow_mut();
        let known = rows.contains_key(key);
        if known && only_new {
            return false;
        }
        if !known && rows.len() >= self.capacity {
            let oldest = rows.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            oldest.map(|key| rows.remove(&key));
        }
        *clock += 1;
        rows.insert(*key, (*clock, *value));
        true
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Table<K, V> for Lru<K, V> {
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        let (rows, clock) = &mut *self.rows.borrow_mut();
        let (used, value) = rows.get_mut(key)?;
        *clock += 1;
        *used = *clock;
        Some(f(value))
    }

    fn insert(&self, key: &K, value: &V) {
        self.put(key, value, false);
    }

    fn create(&self, key: &K, value: &V) -> bool {
        self.put(key, value, true)
    }

    fn remove(&self, key: &K) {
        self.rows.borrow_mut().0.remove(key);
    }
}

/// A node in memory. The public tables are what the agent writes.
#[derive(Debug, Clone)]
pub struct Model<A: Address = V4> {
    /// `CONFIG`.
    pub config: Config,
    /// The monotonic clock, in nanoseconds.
    pub now: u64,
    /// `SVC4`.
    pub services: HashMap<ServiceKey<A>, Service>,
    /// `SRC4`: set, address, prefix length.
    pub sources: Vec<(u32, A, u32)>,
    /// `BACKEND`.
    pub backends: HashMap<u32, Backend>,
    /// `MAGLEV`.
    pub maglev: Vec<BackendRef>,
    /// `EP4`.
    pub endpoints: HashMap<A, BackendRef>,
    /// `LINK`.
    pub links: HashMap<u32, BackendRef>,
    /// `LOCAL4`.
    pub locals: Vec<A>,
    /// `MAC`.
    pub macs: HashMap<u32, Mac>,
    /// `ROUTE4`: address, prefix length, route.
    pub routes: Vec<(A, u32, Route<A>)>,
    /// What the peers of the node's connected UDP sockets send.
    pub expected: Vec<Tuple<A>>,
    /// `DENY4`: address, prefix length.
    pub denied: Vec<(A, u32)>,
    /// `LIMIT`.
    pub limits: HashMap<u32, Limit>,
    /// `CLIENT4`.
    pub clients: Lru<ClientKey, Client>,
    /// `SEAT4`.
    pub seats: Lru<SeatKey, Seat<A>>,
    /// The family's row of `GATE`.
    pub gate: Cell<u64>,
    /// `FLOW_NEW4`.
    pub flow_new: Lru<FlowKey<A>, Flow<A>>,
    /// `FLOW_EST4`.
    pub flow_est: Lru<FlowKey<A>, Flow<A>>,
    /// `FWD_NEW4`.
    pub fwd_new: Lru<ForwardKey<A>, Forward>,
    /// `FWD_EST4`.
    pub fwd_est: Lru<ForwardKey<A>, Forward>,
    /// `MASQ_RET4`.
    pub masq_ret: Lru<ReturnKey<A>, Return<A>>,
    /// `MASQ_OUT4`.
    pub masq_out: Lru<EgressKey<A>, Egress<A>>,
    /// `FRAG4`.
    pub pieces: Lru<PieceKey<A>, Piece<A>>,
}

impl<A: Address> Model<A> {
    /// A node of which nothing is known, with room for `half_open` and `established` flows.
    #[must_use]
    pub fn new(half_open: usize, established: usize) -> Self {
        Self {
            config: Config::DEFAULT,
            now: 1_000_000_000_000,
            services: HashMap::new(),
            sources: Vec::new(),
            backends: HashMap::new(),
            maglev: Vec::new(),
            endpoints: HashMap::new(),
            links: HashMap::new(),
            locals: Vec::new(),
            macs: HashMap::new(),
            routes: Vec::new(),
            expected: Vec::new(),
            denied: Vec::new(),
            limits: HashMap::new(),
            clients: Lru::new(if A::OPTIONAL { capacity::CLIENTS6 } else { capacity::CLIENTS }),
            seats: Lru::new(if A::OPTIONAL { capacity::SEATS6 } else { capacity::SEATS }),
            gate: Cell::new(0),
            flow_new: Lru::new(half_open),
            flow_est: Lru::new(established),
            fwd_new: Lru::new(half_open),
            fwd_est: Lru::new(established),
            masq_ret: Lru::new(established),
            masq_out: Lru::new(established),
            pieces: Lru::new(half_open),
        }
    }

    /// Writes into the settings what is so of all ports and, since all of them lie in `pool` (a network and its
    /// number of bits), of all containers; as the agent does.
    pub fn sum_up(&mut self, pool: (A, u32)) {
        let mask = u64::MAX.checked_shl(64 - pool.1.min(64)).unwrap_or(0).to_be_bytes();
        let upper = |[a, b, c, d, ..]: [u8; 8]| [a, b, c, d];
        if A::FAMILY == 4 {
            (self.config.containers, self.config.containers_mask) = (upper(pool.0.network()), upper(mask));
        } else {
            (self.config.containers6, self.config.containers6_mask) = (pool.0.network(), mask);
        }
        if self.services.keys().all(|key| key.address == A::ZERO) {
            self.config.flags |= CONFIG_ANYWHERE;
        } else {
            self.config.flags &= !CONFIG_ANYWHERE;
        }
    }

    /// The present, for calls of decisions.
    #[must_use]
    pub fn present(&self) -> Present<'_> {
        Present { config: &self.config, now: self.now }
    }
}

impl<A: Family> Model<A> {
    /// Lets a packet (with Ethernet header) in by a device of the node and carries the verdict out
    /// on it.
    pub fn node_in(&self, packet: &mut [u8], ifindex: u32) -> Verdict<A> {
        self.node_in_at(packet, 14, ifindex)
    }

    /// The same for a device whose link headers, if any, have this length.
    pub fn node_in_at(&self, packet: &mut [u8], offset: u32, ifindex: u32) -> Verdict<A> {
        let (mut work, mut quoted) = (Work::default(), Quoted::default());
        decide::node_in(self, &self.present(), &Bytes(packet), offset, ifindex, &mut work, &mut quoted);
        self.execute(packet, &work, &quoted)
    }

    /// What the guard says of a packet that comes in by a device of the node.
    #[must_use]
    pub fn guard(&self, packet: &[u8], ifindex: u32) -> Verdict<A> {
        let mut bytes = packet.to_vec();
        let mut work = Work::default();
        guard::look(self, &self.present(), &Bytes(&mut bytes), 14, ifindex, &mut work);
        if matches!(work.next, Next::Pace | Next::Forward) {
            guard::foresee(self, self.now, &mut work);
        }
        let own = self.macs.get(&ifindex).zip(packet.first_chunk());
        if own.is_some_and(|(device, to)| guard::is_addressed(device, *to)) {
            work.verdict
        } else {
            Verdict::PASS
        }
    }

    /// The same for a packet that a container sent.
    pub fn veth_in(&self, packet: &mut [u8], ifindex: u32) -> Verdict<A> {
        let (mut work, mut quoted) = (Work::default(), Quoted::default());
        decide::veth_in(self, &self.present(), &Bytes(packet), 14, ifindex, &mut work, &mut quoted);
        self.execute(packet, &work, &quoted)
    }

    fn execute(&self, packet: &mut [u8], work: &Work<A>, quoted: &Quoted<A>) -> Verdict<A> {
        if work.next == Next::Requote {
            assert!(notice::requote(&mut Bytes(packet), &work.ip, quoted), "what was read is rewritable");
        }
        let (seen, verdict) = (&work.seen.tuple, &work.verdict);
        if work.next == Next::Readdress {
            let done = piece::readdress(&mut Bytes(packet), &work.ip, seen, &verdict.to);
            assert!(done, "a header that was read is rewritable");
        } else if matches!(work.verdict.action, Action::Container | Action::Device) {
            let done = A::rewrite(&mut Bytes(packet), &work.ip, &work.seen.tuple, &work.verdict.to);
            assert!(done, "a parsed packet is rewritable");
        }
        work.verdict
    }
}

impl<A: Address> Tables<A> for Model<A> {
    fn half_open(&self) -> &impl Table<FlowKey<A>, Flow<A>> {
        &self.flow_new
    }

    fn established(&self) -> &impl Table<FlowKey<A>, Flow<A>> {
        &self.flow_est
    }

    fn half_open_forwards(&self) -> &impl Table<ForwardKey<A>, Forward> {
        &self.fwd_new
    }

    fn established_forwards(&self) -> &impl Table<ForwardKey<A>, Forward> {
        &self.fwd_est
    }

    fn returns(&self) -> &impl Table<ReturnKey<A>, Return<A>> {
        &self.masq_ret
    }

    fn egress(&self) -> &impl Table<EgressKey<A>, Egress<A>> {
        &self.masq_out
    }

    fn pieces(&self) -> &impl Table<PieceKey<A>, Piece<A>> {
        &self.pieces
    }

    fn seats(&self) -> &impl Table<SeatKey, Seat<A>> {
        &self.seats
    }

    fn backend<R>(&self, id: u32, f: impl FnOnce(&Backend) -> R) -> Option<R> {
        self.backends.get(&id).map(f)
    }

    fn row(&self, index: u32) -> BackendRef {
        self.maglev.get(index as usize).copied().unwrap_or_default()
    }

    fn claim(&self, place: &mut u64, seen: u64, now: u64) -> bool {
        let free = *place == seen;
        if free {
            *place = now;
        }
        free
    }

    fn search<S: Search<A, Self>>(&self, times: u32, search: &mut S) {
        let _ = (0..times).any(|i| search.step(self, i));
    }
}

impl<A: Address> Node<A> for Model<A> {
    fn service(&self, key: &ServiceKey<A>) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn is_source(&self, key: &SourceKey<A>) -> bool {
        let holds = |net: &A, len: u32| common_bits(net.as_ref(), key.address.as_ref()) >= len;
        self.sources.iter().any(|(set, net, len)| *set == key.set && holds(net, *len))
    }

    fn is_local(&self, address: &A) -> bool {
        self.locals.contains(address)
    }

    fn endpoint(&self, address: &A) -> BackendRef {
        self.endpoints.get(address).copied().unwrap_or_default()
    }

    fn link(&self, ifindex: u32) -> BackendRef {
        self.links.get(&ifindex).copied().unwrap_or_default()
    }

    fn route(&self, address: &A) -> Option<Route<A>> {
        self.routes
            .iter()
            .filter(|(net, len, _)| common_bits(net.as_ref(), address.as_ref()) >= *len)
            .max_by_key(|(_, len, _)| *len)
            .map(|(_, _, route)| *route)
    }

    fn expects(&self, packet: &Tuple<A>) -> bool {
        self.expected.contains(packet)
    }

    fn is_denied(&self, address: &A) -> bool {
        self.denied.iter().any(|(net, len)| common_bits(net.as_ref(), address.as_ref()) >= *len)
    }

    fn limit(&self, service: u32) -> Limit {
        self.limits.get(&service).copied().unwrap_or_default()
    }

    fn clients(&self) -> &impl Table<ClientKey, Client> {
        &self.clients
    }

    fn gate<O: Operation<u64>>(&self, operation: O) -> Option<O::Output> {
        let mut even = self.gate.get();
        let said = operation.run(&mut even);
        self.gate.set(even);
        Some(said)
    }
}

/// How many leading bits are the same.
fn common_bits(a: &[u8], b: &[u8]) -> u32 {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let rest = a.iter().zip(b).nth(same).map_or(0, |(a, b)| (a ^ b).leading_zeros());
    same as u32 * 8 + rest
}
