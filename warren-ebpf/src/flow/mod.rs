//! What becomes of a packet: records of flows and the rules they follow. Generic over the tables
//! ([`Tables`]), so that the very code that decides in the kernel is proven on the host. Time is an
//! argument; nothing here needs the agent: a record that has run out is one that others may take.

pub mod balance;
mod birth;
pub mod decide;
pub mod guard;
pub mod hash;
pub mod limit;
pub mod masquerade;
#[cfg(not(target_arch = "bpf"))]
pub mod model;
pub mod notice;
pub mod piece;
pub mod published;
mod record;
pub mod seat;
pub mod tcp;
pub mod traffic;
pub mod udp;
mod verdict;

#[cfg(test)]
mod tests;

use crate::{
    abi::{
        Address, BACKEND_DRAINING, BACKEND_EMPTY, BACKEND_HELD, BACKEND_UP, Backend, BackendRef, Config,
        Egress, EgressKey, Flow, FlowKey, Forward, ForwardKey, Piece, PieceKey, Return, ReturnKey, Seat,
        SeatKey, UDP,
    },
    packet::{Ip, Packet, Segment, Tuple},
};

use traffic::Size;

/// A hash map of the kernel.
pub trait Table<K, V> {
    /// Runs `f` on the value in place. Others may write it at the same time: only whole-word
    /// fields are consistent.
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R>;

    /// The same for what would be a large closure. The compiler must not make a function of its
    /// own of it (closures have no `inline` attribute): the kernel's BTF has no word for its
    /// arguments.
    #[inline(always)]
    fn apply<O: Operation<V>>(&self, key: &K, operation: O) -> Option<O::Output> {
        self.with(key, |value| operation.run(value))
    }

    /// Writes a value, replacing what is there.
    fn insert(&self, key: &K, value: &V);

    /// Writes a value only where none is; whether it did.
    #[must_use]
    fn create(&self, key: &K, value: &V) -> bool;

    /// Removes a value, if it is there.
    fn remove(&self, key: &K);
}

/// Something done to a value in place.
pub trait Operation<V> {
    /// What comes of it.
    type Output;
    /// Does it.
    fn run(self, value: &mut V) -> Self::Output;
}

/// The tables that decisions are made from.
pub trait Tables<A: Address> {
    /// `FLOW_NEW`.
    fn half_open(&self) -> &impl Table<FlowKey<A>, Flow<A>>;
    /// `FLOW_EST`.
    fn established(&self) -> &impl Table<FlowKey<A>, Flow<A>>;
    /// `FWD_NEW`.
    fn half_open_forwards(&self) -> &impl Table<ForwardKey<A>, Forward>;
    /// `FWD_EST`.
    fn established_forwards(&self) -> &impl Table<ForwardKey<A>, Forward>;
    /// `MASQ_RET`.
    fn returns(&self) -> &impl Table<ReturnKey<A>, Return<A>>;
    /// `MASQ_OUT`.
    fn egress(&self) -> &impl Table<EgressKey<A>, Egress<A>>;
    /// `FRAG4`.
    fn pieces(&self) -> &impl Table<PieceKey<A>, Piece<A>>;
    /// `SEAT4`.
    fn seats(&self) -> &impl Table<SeatKey, Seat<A>>;
    /// A row of `BACKEND`.
    fn backend<R>(&self, id: u32, f: impl FnOnce(&Backend) -> R) -> Option<R>;
    /// A row of `MAGLEV`; all zero past the end.
    fn row(&self, index: u32) -> BackendRef;
    /// Sets `*place` to `now` if it still is `seen`, in one step; whether it did.
    fn claim(&self, place: &mut u64, seen: u64, now: u64) -> bool;
    /// Runs `search.step(self, i)` for `i` from 0 to `times` - 1, until one says that it is done.
    /// In the kernel the verifier looks at the step once instead of at every turn.
    fn search<S: Search<A, Self>>(&self, times: u32, search: &mut S)
    where
        Self: Sized;
}

/// A step of a bounded search.
pub trait Search<A: Address, T: Tables<A>> {
    /// Looks at the `i`-th possibility; true ends the search.
    fn step(&mut self, tables: &T, i: u32) -> bool;
}

/// A packet, as decisions see it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Seen<A> {
    /// Its ends.
    pub tuple: Tuple<A>,
    /// IP protocol number.
    pub protocol: u8,
    /// Its transport header.
    pub segment: Segment,
    /// Device it came in by.
    pub ifindex: u32,
    /// What it is counted as.
    pub size: Size,
}

impl<A: Address> Seen<A> {
    /// The packet that was parsed as `ip` and `segment`.
    #[inline(always)]
    #[must_use]
    pub fn new<P: Packet>(packet: &P, ip: &Ip<A>, segment: &Segment, ifindex: u32) -> Self {
        Self {
            tuple: Tuple::of(ip, segment),
            protocol: ip.protocol,
            segment: *segment,
            ifindex,
            size: Size::of(packet, ip),
        }
    }

    /// Whether it may be a flow's first packet: a pure SYN, or any UDP.
    #[inline(always)]
    #[must_use]
    pub fn begins(&self) -> bool {
        self.protocol == UDP || self.segment.pure_syn()
    }
}

/// The present: settings and time (nanoseconds of the monotonic clock).
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// Row 0 of `CONFIG`.
    pub config: &'a Config,
    /// Now.
    pub now: u64,
}

/// What to make of a packet, and the container it goes into; or nothing, see [`resolve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery<A> {
    /// What it must show.
    pub tuple: Tuple<A>,
    /// The node's end of the container's veth; 0: it is not to be delivered.
    pub ifindex: u32,
}

impl<A> Delivery<A> {
    /// Whether it is one.
    #[inline(always)]
    #[must_use]
    pub fn exists(&self) -> bool {
        self.ifindex != 0
    }
}

const SECOND: u64 = 1_000_000_000;

/// Whether a record last used at `last_seen` has run out.
#[inline(always)]
fn expired(present: &Present<'_>, last_seen: u64, seconds: u32) -> bool {
    present.now.saturating_sub(last_seen) > u64::from(seconds) * SECOND
}

/// Notes the use of a record; at most once a second, to spare the cache line.
#[inline(always)]
fn touch(last_seen: &mut u64, now: u64) {
    if now.saturating_sub(*last_seen) >= SECOND {
        *last_seen = now;
    }
}

/// Looks up who `backend` is. Nobody (`exists()` is false) if the row has another tenant, or one
/// without an address of this family.
///
/// Not an `Option`: the compiler leaves the inside of a `None` undefined and moves it about, and
/// the kernel's verifier refuses to see undefined words moved. So it is here and in [`decide`].
#[inline(always)]
pub fn resolve<A: Address>(tables: &impl Tables<A>, backend: BackendRef) -> Resolved<A> {
    let mut found = Resolved::default();
    tables.backend(backend.id, |row| {
        let has_address = !A::OPTIONAL || A::of(row) != A::ZERO;
        if row.generation == backend.generation && row.state != BACKEND_EMPTY && has_address {
            found = Resolved { backend, address: A::of(row), ifindex: row.ifindex, state: row.state };
        }
    });
    found
}

/// A backend.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Resolved<A> {
    /// Its row and generation.
    pub backend: BackendRef,
    /// Its address.
    pub address: A,
    /// The node's end of its veth.
    pub ifindex: u32,
    /// `BACKEND_*`; EMPTY: there is none.
    pub state: u8,
}

impl<A> Resolved<A> {
    /// Whether there is one.
    #[inline(always)]
    #[must_use]
    pub fn exists(&self) -> bool {
        self.state != BACKEND_EMPTY
    }

    /// Whether it keeps its flows.
    #[inline(always)]
    #[must_use]
    pub fn serves(&self) -> bool {
        self.takes() || self.state == BACKEND_HELD
    }

    /// Whether it may get new flows, if only because no other is up.
    #[inline(always)]
    #[must_use]
    pub fn takes(&self) -> bool {
        self.state == BACKEND_UP || self.state == BACKEND_DRAINING
    }
}
