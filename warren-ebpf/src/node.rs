//! The tables and the node's description, as the maps hold them: those of IPv4 and those of IPv6.

use core::ffi::c_void;

use aya_ebpf::{btf_maps::LruHashMap, helpers::bpf_loop, maps::lpm_trie::Key};
use warren_ebpf::{
    abi::{
        Address, Backend, BackendRef, Egress, EgressKey, Flow, FlowKey, Forward, ForwardKey, Return,
        ReturnKey, Route, Service, ServiceKey, Words as V6, capacity,
    },
    flow::{
        Search, Table, Tables,
        decide::{Node, V4},
    },
};

use crate::{
    maps,
    scratch::{Room, Roomy},
};

/// The maps of IPv4.
pub struct Maps;

/// The maps of IPv6, for the socket hooks: these can be interrupted, so they have no [`Room`].
pub struct Maps6;

/// The maps of IPv6, for packets. Keys and values of its flows do not fit on the stack all at once.
pub struct RoomyMaps6 {
    half_open: Roomy<FlowKey<V6>, Flow<V6>>,
    established: Roomy<FlowKey<V6>, Flow<V6>>,
    half_open_forwards: Roomy<ForwardKey<V6>, Forward>,
    established_forwards: Roomy<ForwardKey<V6>, Forward>,
    returns: Roomy<ReturnKey<V6>, Return<V6>>,
    egress: Roomy<EgressKey<V6>, Egress<V6>>,
}

impl RoomyMaps6 {
    #[inline(always)]
    pub fn new(room: Room) -> Self {
        Self {
            half_open: Roomy::new(&maps::FLOW_NEW6, room),
            established: Roomy::new(&maps::FLOW_EST6, room),
            half_open_forwards: Roomy::new(&maps::FWD_NEW6, room),
            established_forwards: Roomy::new(&maps::FWD_EST6, room),
            returns: Roomy::new(&maps::MASQ_RET6, room),
            egress: Roomy::new(&maps::MASQ_OUT6, room),
        }
    }
}

/// Maps that a step of a search finds by itself.
trait Found: Sized {
    fn find() -> Option<Self>;
}

impl Found for Maps {
    #[inline(always)]
    fn find() -> Option<Self> {
        Some(Self)
    }
}

impl Found for Maps6 {
    #[inline(always)]
    fn find() -> Option<Self> {
        Some(Self)
    }
}

impl Found for RoomyMaps6 {
    #[inline(always)]
    fn find() -> Option<Self> {
        Room::find().map(Self::new)
    }
}

/// Implements [`Tables`]: where each table is.
macro_rules! tables {
    ($maps:ty, $address:ty, |$this:ident| $half_open:expr, $established:expr, $half_open_forwards:expr,
        $established_forwards:expr, $returns:expr, $egress:expr) => {
        impl Tables<$address> for $maps {
            #[inline(always)]
            fn half_open(&self) -> &impl Table<FlowKey<$address>, Flow<$address>> {
                let $this = self;
                $half_open
            }

            #[inline(always)]
            fn established(&self) -> &impl Table<FlowKey<$address>, Flow<$address>> {
                let $this = self;
                $established
            }

            #[inline(always)]
            fn half_open_forwards(&self) -> &impl Table<ForwardKey<$address>, Forward> {
                let $this = self;
                $half_open_forwards
            }

            #[inline(always)]
            fn established_forwards(&self) -> &impl Table<ForwardKey<$address>, Forward> {
                let $this = self;
                $established_forwards
            }

            #[inline(always)]
            fn returns(&self) -> &impl Table<ReturnKey<$address>, Return<$address>> {
                let $this = self;
                $returns
            }

            #[inline(always)]
            fn egress(&self) -> &impl Table<EgressKey<$address>, Egress<$address>> {
                let $this = self;
                $egress
            }

            #[inline(always)]
            fn backend<R>(&self, id: u32, f: impl FnOnce(&Backend) -> R) -> Option<R> {
                maps::BACKEND.get(id).map(f)
            }

            #[inline(always)]
            fn row(&self, index: u32) -> BackendRef {
                maps::MAGLEV.get(index).copied().unwrap_or_default()
            }

            #[inline(always)]
            fn claim(&self, place: &mut u64, seen: u64, now: u64) -> bool {
                claim(place, seen, now)
            }

            #[inline(always)]
            fn search<S: Search<$address, Self>>(&self, times: u32, search: &mut S) {
                let turn = turn::<$address, Self, S> as *mut c_void;
                // SAFETY: the kernel calls `turn` with the pointer given, while this call lasts.
                unsafe { bpf_loop(times, turn, (&raw mut *search).cast(), 0) };
            }
        }
    };
}

tables!(
    Maps,
    V4,
    |_this| &maps::FLOW_NEW4,
    &maps::FLOW_EST4,
    &maps::FWD_NEW4,
    &maps::FWD_EST4,
    &maps::MASQ_RET4,
    &maps::MASQ_OUT4
);
tables!(
    Maps6,
    V6,
    |_this| in_words::<_, _, { capacity::HALF_OPEN6 }>(&maps::FLOW_NEW6),
    in_words::<_, _, { capacity::ESTABLISHED6 }>(&maps::FLOW_EST6),
    in_words::<_, _, { capacity::HALF_OPEN6 }>(&maps::FWD_NEW6),
    in_words::<_, _, { capacity::ESTABLISHED6 }>(&maps::FWD_EST6),
    in_words::<_, _, { capacity::MASQUERADE6 }>(&maps::MASQ_RET6),
    in_words::<_, _, { capacity::MASQUERADE6 }>(&maps::MASQ_OUT6)
);
tables!(
    RoomyMaps6,
    V6,
    |this| &this.half_open,
    &this.established,
    &this.half_open_forwards,
    &this.established_forwards,
    &this.returns,
    &this.egress
);

#[inline(always)]
fn claim(place: &mut u64, seen: u64, now: u64) -> bool {
    // SAFETY: `place` is an aligned word of a map value. core::sync has no such operation on
    // this target, the compiler's intrinsic has.
    let (_, done) = unsafe {
        core::intrinsics::atomic_cxchg::<
            u64,
            { core::intrinsics::AtomicOrdering::SeqCst },
            { core::intrinsics::AtomicOrdering::SeqCst },
        >(place, seen, now)
    };
    done
}

/// One turn of `bpf_loop`: 1 ends it.
unsafe extern "C" fn turn<A: Address, T: Tables<A> + Found, S: Search<A, T>>(i: u64, search: *mut S) -> u64 {
    let Some(tables) = T::find() else { return 1 };
    // SAFETY: what `search` above gave to the kernel.
    if unsafe { &mut *search }.step(&tables, i as u32) { 1 } else { 0 }
}

/// The same bytes as another type: an IPv6 address is octets in the maps and [`Words`](V6) here.
#[inline(always)]
fn seen_as<T, U>(value: &T) -> &U {
    const { assert!(size_of::<T>() == size_of::<U>()) };
    // SAFETY: used between equal types, and those that differ in how they see an address. Values of
    // maps lie at multiples of 8 bytes.
    unsafe { &*(&raw const *value).cast() }
}

/// A map of octets as one of [`Words`](V6).
#[inline(always)]
fn in_words<K, V, const MAX: usize>(map: &'static impl Sized) -> &'static LruHashMap<K, V, MAX> {
    // SAFETY: only its address counts, and the rows are the same.
    unsafe { &*(&raw const *map).cast() }
}

/// Implements [`Node`]: which maps describe it.
macro_rules! node {
    ($maps:ty, $address:ty, $services:ident, $locals:ident, $endpoints:ident, $routes:ident) => {
        impl Node<$address> for $maps {
            #[inline(always)]
            fn service(&self, key: &ServiceKey<$address>) -> Option<Service> {
                // SAFETY: copied at once; the agent replaces services whole.
                unsafe { maps::$services.get(seen_as(key)).copied() }
            }

            #[inline(always)]
            fn is_local(&self, address: &$address) -> bool {
                maps::$locals.get_ptr(seen_as(address)).is_some()
            }

            #[inline(always)]
            fn endpoint(&self, address: &$address) -> BackendRef {
                // SAFETY: as above.
                unsafe { maps::$endpoints.get(seen_as(address)).copied().unwrap_or_default() }
            }

            #[inline(always)]
            fn link(&self, ifindex: u32) -> BackendRef {
                // SAFETY: as above.
                unsafe { maps::LINK.get(ifindex).copied().unwrap_or_default() }
            }

            #[inline(always)]
            fn route(&self, address: &$address) -> Option<Route<$address>> {
                let prefix_len = 8 * size_of::<$address>() as u32;
                let key = Key { prefix_len, data: *address };
                maps::$routes.get(seen_as::<_, Key<_>>(&key)).map(|route| *seen_as::<_, Route<_>>(route))
            }
        }
    };
}

node!(Maps, V4, SVC4, LOCAL4, EP4, ROUTE4);
node!(Maps6, V6, SVC6, LOCAL6, EP6, ROUTE6);
node!(RoomyMaps6, V6, SVC6, LOCAL6, EP6, ROUTE6);
