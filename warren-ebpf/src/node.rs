//! The tables and the node's description, as the maps hold them: those of IPv4 and those of IPv6.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        __sk_buff, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as SocketTuple4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as SocketTuple6,
    },
    btf_maps::LruHashMap,
    helpers::{bpf_loop, bpf_sk_lookup_udp, bpf_sk_release},
    maps::lpm_trie::Key,
};
use warren_ebpf::{
    abi::{
        Address, Backend, BackendRef, CONFIG_VIA6, Client, ClientKey, Egress, EgressKey, Flow, FlowKey,
        Forward, ForwardKey, Limit, Piece, PieceKey, ROUTE_DEFAULT, Return, ReturnKey, Route, Seat, SeatKey,
        Service, ServiceKey, SourceKey, Words as V6, capacity,
    },
    flow::{
        Operation, Search, Table, Tables,
        decide::{Node, V4},
    },
    packet::Tuple,
};

use crate::{
    maps,
    scratch::{Room, Roomy},
};

/// The packet in whose network sockets are looked for: null where none are.
type Context = *mut __sk_buff;

/// Where there is no packet.
pub const NO_PACKET: Context = core::ptr::null_mut();

/// The maps of IPv4.
pub struct Maps(pub Context);

/// The maps of IPv6, for the socket hooks: these can be interrupted, so they have no [`Room`].
pub struct Maps6;

/// The maps of IPv6, for packets. Keys and values of its flows do not fit on the stack all at once.
pub struct RoomyMaps6 {
    packet: Context,
    half_open: Roomy<FlowKey<V6>, Flow<V6>>,
    established: Roomy<FlowKey<V6>, Flow<V6>>,
    half_open_forwards: Roomy<ForwardKey<V6>, Forward>,
    established_forwards: Roomy<ForwardKey<V6>, Forward>,
    returns: Roomy<ReturnKey<V6>, Return<V6>>,
    egress: Roomy<EgressKey<V6>, Egress<V6>>,
    pieces: Roomy<PieceKey<V6>, Piece<V6>>,
    seats: Roomy<SeatKey, Seat<V6>>,
}

impl RoomyMaps6 {
    #[inline(always)]
    pub fn new(room: Room, packet: Context) -> Self {
        Self {
            packet,
            half_open: Roomy::new(&maps::FLOW_NEW6, room),
            established: Roomy::new(&maps::FLOW_EST6, room),
            half_open_forwards: Roomy::new(&maps::FWD_NEW6, room),
            established_forwards: Roomy::new(&maps::FWD_EST6, room),
            returns: Roomy::new(&maps::MASQ_RET6, room),
            egress: Roomy::new(&maps::MASQ_OUT6, room),
            pieces: Roomy::new(&maps::FRAG6, room),
            seats: Roomy::new(&maps::SEAT6, room),
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
        Some(Self(NO_PACKET))
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
        Room::find().map(|room| Self::new(room, NO_PACKET))
    }
}

/// Implements [`Tables`]: where each table is.
macro_rules! tables {
    ($maps:ty, $address:ty, |$this:ident| $half_open:expr, $established:expr, $half_open_forwards:expr,
        $established_forwards:expr, $returns:expr, $egress:expr,
        $pieces:expr, $seats:expr) => {
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
            fn pieces(&self) -> &impl Table<PieceKey<$address>, Piece<$address>> {
                let $this = self;
                $pieces
            }

            #[inline(always)]
            fn seats(&self) -> &impl Table<SeatKey, Seat<$address>> {
                let $this = self;
                $seats
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
    &maps::MASQ_OUT4,
    &maps::FRAG4,
    &maps::SEAT4
);
tables!(
    Maps6,
    V6,
    |_this| in_words::<_, _, { capacity::HALF_OPEN6 }>(&maps::FLOW_NEW6),
    in_words::<_, _, { capacity::ESTABLISHED6 }>(&maps::FLOW_EST6),
    in_words::<_, _, { capacity::HALF_OPEN6 }>(&maps::FWD_NEW6),
    in_words::<_, _, { capacity::ESTABLISHED6 }>(&maps::FWD_EST6),
    in_words::<_, _, { capacity::MASQUERADE6 }>(&maps::MASQ_RET6),
    in_words::<_, _, { capacity::MASQUERADE6 }>(&maps::MASQ_OUT6),
    in_words::<_, _, { capacity::FRAGMENTED6 }>(&maps::FRAG6),
    in_words::<_, _, { capacity::SEATS6 }>(&maps::SEAT6)
);
tables!(
    RoomyMaps6,
    V6,
    |this| &this.half_open,
    &this.established,
    &this.half_open_forwards,
    &this.established_forwards,
    &this.returns,
    &this.egress,
    &this.pieces,
    &this.seats
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

/// Whom the node gives what leaves by a device.
pub trait Routed: Sized {
    /// The router of `device` for a packet to this address, in the bytes of the packet. `None`: the kernel finds
    /// whom to give it.
    fn router(&self, device: u32) -> Option<[u32; 4]>;
}

impl Routed for V4 {
    /// Of IPv4 the kernel looks at the routes of the device only.
    #[inline(always)]
    fn router(&self, _device: u32) -> Option<[u32; 4]> {
        None
    }
}

impl Routed for V6 {
    #[inline(always)]
    fn router(&self, device: u32) -> Option<[u32; 4]> {
        if maps::CONFIG.get(0)?.flags & CONFIG_VIA6 == 0 {
            return None;
        }
        let key = Key { prefix_len: 128, data: self.octets() };
        let [first, second, ..] = key.data;
        // Neighbours on the link: of these there are no routes here.
        if first == 0xfe && second & 0xc0 == 0x80 {
            return None;
        }
        // Where the kernel has better than a default route, or that of this device, it is right.
        let other = |route: &Route<_>| route.flags & ROUTE_DEFAULT != 0 && route.ifindex != device;
        if !maps::ROUTE6.get(&key).is_none_or(other) {
            return None;
        }
        // SAFETY: copied at once; the agent replaces rows whole.
        let via = unsafe { maps::VIA6.get(device) }?;
        Some(*seen_as::<[u8; 16], [u32; 4]>(&via.router))
    }
}

/// Implements [`Node`]: which maps describe it, and where the packet is.
macro_rules! node {
    ($maps:ty, $address:ty, $ends:ty, $services:ident, $sources:ident, $locals:ident, $endpoints:ident,
        $routes:ident, $denied:ident, $clients:ident, |$this:ident| $packet:expr) => {
        impl Node<$address> for $maps {
            #[inline(always)]
            fn service(&self, key: &ServiceKey<$address>) -> Option<Service> {
                // SAFETY: copied at once; the agent replaces services whole.
                unsafe { maps::$services.get(seen_as(key)).copied() }
            }

            #[inline(always)]
            fn is_source(&self, key: &SourceKey<$address>) -> bool {
                let prefix_len = 8 * size_of::<SourceKey<$address>>() as u32;
                maps::$sources.get(seen_as::<_, Key<_>>(&Key { prefix_len, data: *key })).is_some()
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

            #[inline(always)]
            fn expects(&self, packet: &Tuple<$address>) -> bool {
                let $this = self;
                let context: Context = $packet;
                !context.is_null() && is_connected(context, <$ends>::of(packet))
            }

            #[inline(always)]
            fn is_denied(&self, address: &$address) -> bool {
                let prefix_len = 8 * size_of::<$address>() as u32;
                let key = Key { prefix_len, data: *address };
                maps::$denied.get(seen_as::<_, Key<_>>(&key)).is_some()
            }

            #[inline(always)]
            fn limit(&self, service: u32) -> Limit {
                // SAFETY: as above.
                unsafe { maps::LIMIT.get(service).copied().unwrap_or_default() }
            }

            #[inline(always)]
            fn clients(&self) -> &impl Table<ClientKey, Client> {
                &maps::$clients
            }

            #[inline(always)]
            fn gate<O: Operation<u64>>(&self, operation: O) -> Option<O::Output> {
                match maps::GATE.get_ptr_mut(<$address>::GATE) {
                    // SAFETY: as for the tables of flows.
                    Some(gate) => Some(operation.run(unsafe { &mut (*gate).clients })),
                    None => None,
                }
            }
        }
    };
}

node!(Maps, V4, SocketTuple4, SVC4, SRC4, LOCAL4, EP4, ROUTE4, DENY4, CLIENT4, |this| this.0);
node!(Maps6, V6, SocketTuple6, SVC6, SRC6, LOCAL6, EP6, ROUTE6, DENY6, CLIENT6, |_this| NO_PACKET);
node!(RoomyMaps6, V6, SocketTuple6, SVC6, SRC6, LOCAL6, EP6, ROUTE6, DENY6, CLIENT6, |this| this.packet);

/// A packet's ends, as the kernel looks for sockets.
trait Ends<A> {
    fn of(packet: &Tuple<A>) -> Self;
}

impl Ends<V4> for SocketTuple4 {
    #[inline(always)]
    fn of(packet: &Tuple<V4>) -> Self {
        Self {
            saddr: u32::from_ne_bytes(packet.source),
            daddr: u32::from_ne_bytes(packet.destination),
            sport: packet.source_port.to_be(),
            dport: packet.destination_port.to_be(),
        }
    }
}

impl Ends<V6> for SocketTuple6 {
    #[inline(always)]
    fn of(packet: &Tuple<V6>) -> Self {
        Self {
            saddr: *seen_as(&packet.source),
            daddr: *seen_as(&packet.destination),
            sport: packet.source_port.to_be(),
            dport: packet.destination_port.to_be(),
        }
    }
}

/// Whether a UDP socket in the packet's network is connected to its sender.
#[inline(always)]
fn is_connected<T>(packet: Context, mut tuple: T) -> bool {
    /// Any network namespace but that of the packet's device has a number from 0 on.
    const THIS_NAMESPACE: u64 = u64::MAX;
    /// `bpf_sock::state` of a connected socket, of UDP too.
    const CONNECTED: u32 = 1;
    // SAFETY: the packet is valid while the program runs; the kernel reads as many bytes as told, and
    // what it answers with is given back before the end.
    unsafe {
        let size = size_of::<T>() as u32;
        let socket = bpf_sk_lookup_udp(packet.cast(), (&raw mut tuple).cast(), size, THIS_NAMESPACE, 0);
        if socket.is_null() {
            return false;
        }
        let state = (&raw const (*socket).state).read_volatile();
        bpf_sk_release(socket.cast());
        state == CONNECTED
    }
}
