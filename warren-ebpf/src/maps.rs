//! The maps, as the object declares them. `warren_ebpf::abi` says what they mean.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use warren_ebpf::abi::{
    Backend, BackendRef, Client, ClientKey, Config, DropCounter, Egress, EgressKey, Flow, FlowKey, Forward,
    ForwardKey, Gate, Limit, Local, Mac, Piece, PieceKey, Return, ReturnKey, Route, Schema, Scratch, Seat,
    SeatKey, Service, ServiceKey, SocketFlow, SocketKey, SocketPeer, SourceKey, Via, capacity,
};

type V6 = [u8; 16];

/// Rows take memory once they are there.
const GROWING: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static SCHEMA: Array<Schema, 1> = Array::new();
#[btf_map]
pub static SVC4: HashMap<ServiceKey<[u8; 4]>, Service, { capacity::SERVICES }, GROWING> = HashMap::new();
#[btf_map]
pub static SRC4: LpmTrie<SourceKey<[u8; 4]>, u32, { capacity::SOURCES }> = LpmTrie::new();
#[btf_map]
pub static BACKEND: Array<Backend, { capacity::BACKENDS }> = Array::new();
#[btf_map]
pub static MAGLEV: Array<BackendRef, { capacity::MAGLEV_ROWS }> = Array::new();
#[btf_map]
pub static EP4: HashMap<[u8; 4], BackendRef, { capacity::CONTAINERS }, GROWING> = HashMap::new();
#[btf_map]
pub static LINK: HashMap<u32, BackendRef, { capacity::CONTAINERS }, GROWING> = HashMap::new();
#[btf_map]
pub static LOCAL4: HashMap<[u8; 4], Local, { capacity::LOCALS }, GROWING> = HashMap::new();
#[btf_map]
pub static ROUTE4: LpmTrie<[u8; 4], Route<[u8; 4]>, { capacity::ROUTES }> = LpmTrie::new();
#[btf_map]
pub static FLOW_NEW4: LruHashMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>, { capacity::HALF_OPEN }> =
    LruHashMap::new();
#[btf_map]
pub static FLOW_EST4: LruHashMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>, { capacity::ESTABLISHED }> =
    LruHashMap::new();
#[btf_map]
pub static FWD_NEW4: LruHashMap<ForwardKey<[u8; 4]>, Forward, { capacity::HALF_OPEN }> = LruHashMap::new();
#[btf_map]
pub static FWD_EST4: LruHashMap<ForwardKey<[u8; 4]>, Forward, { capacity::ESTABLISHED }> = LruHashMap::new();
#[btf_map]
pub static MASQ_RET4: LruHashMap<ReturnKey<[u8; 4]>, Return<[u8; 4]>, { capacity::MASQUERADE }> =
    LruHashMap::new();
#[btf_map]
pub static MASQ_OUT4: LruHashMap<EgressKey<[u8; 4]>, Egress<[u8; 4]>, { capacity::MASQUERADE }> =
    LruHashMap::new();
#[btf_map]
pub static FRAG4: LruHashMap<PieceKey<[u8; 4]>, Piece<[u8; 4]>, { capacity::FRAGMENTED }> = LruHashMap::new();
#[btf_map]
pub static SOCK4: LruHashMap<u64, SocketPeer<[u8; 4]>, { capacity::SOCKETS }> = LruHashMap::new();
#[btf_map]
pub static SOCK_UDP4: LruHashMap<SocketKey<[u8; 4]>, SocketFlow<[u8; 4]>, { capacity::SOCKETS }> =
    LruHashMap::new();
#[btf_map]
pub static DROPS: PerCpuArray<DropCounter, { capacity::REASONS }> = PerCpuArray::new();
// Untyped: libbpf refuses a ring buffer with a value type.
#[btf_map]
pub static EVENTS: RingBuf<(), { capacity::EVENT_BYTES }> = RingBuf::new();

#[btf_map]
pub static SVC6: HashMap<ServiceKey<V6>, Service, { capacity::SERVICES }, GROWING> = HashMap::new();
#[btf_map]
pub static SRC6: LpmTrie<SourceKey<V6>, u32, { capacity::SOURCES }> = LpmTrie::new();
#[btf_map]
pub static EP6: HashMap<V6, BackendRef, { capacity::CONTAINERS }, GROWING> = HashMap::new();
#[btf_map]
pub static LOCAL6: HashMap<V6, Local, { capacity::LOCALS }, GROWING> = HashMap::new();
#[btf_map]
pub static ROUTE6: LpmTrie<V6, Route<V6>, { capacity::ROUTES }> = LpmTrie::new();
#[btf_map]
pub static FLOW_NEW6: LruHashMap<FlowKey<V6>, Flow<V6>, { capacity::HALF_OPEN6 }> = LruHashMap::new();
#[btf_map]
pub static FLOW_EST6: LruHashMap<FlowKey<V6>, Flow<V6>, { capacity::ESTABLISHED6 }> = LruHashMap::new();
#[btf_map]
pub static FWD_NEW6: LruHashMap<ForwardKey<V6>, Forward, { capacity::HALF_OPEN6 }> = LruHashMap::new();
#[btf_map]
pub static FWD_EST6: LruHashMap<ForwardKey<V6>, Forward, { capacity::ESTABLISHED6 }> = LruHashMap::new();
#[btf_map]
pub static MASQ_RET6: LruHashMap<ReturnKey<V6>, Return<V6>, { capacity::MASQUERADE6 }> = LruHashMap::new();
#[btf_map]
pub static MASQ_OUT6: LruHashMap<EgressKey<V6>, Egress<V6>, { capacity::MASQUERADE6 }> = LruHashMap::new();
#[btf_map]
pub static FRAG6: LruHashMap<PieceKey<V6>, Piece<V6>, { capacity::FRAGMENTED6 }> = LruHashMap::new();
#[btf_map]
pub static SOCK6: LruHashMap<u64, SocketPeer<V6>, { capacity::SOCKETS6 }> = LruHashMap::new();
#[btf_map]
pub static SOCK_UDP6: LruHashMap<SocketKey<V6>, SocketFlow<V6>, { capacity::SOCKETS6 }> = LruHashMap::new();
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[btf_map]
pub static LIMIT: HashMap<u32, Limit, { capacity::LIMITS }, GROWING> = HashMap::new();
#[btf_map]
pub static DENY4: LpmTrie<[u8; 4], u32, { capacity::DENIED }> = LpmTrie::new();
#[btf_map]
pub static DENY6: LpmTrie<V6, u32, { capacity::DENIED }> = LpmTrie::new();
#[btf_map]
pub static CLIENT4: LruHashMap<ClientKey, Client, { capacity::CLIENTS }> = LruHashMap::new();
#[btf_map]
pub static CLIENT6: LruHashMap<ClientKey, Client, { capacity::CLIENTS6 }> = LruHashMap::new();
#[btf_map]
pub static GATE: Array<Gate, 2> = Array::new();
#[btf_map]
pub static SEAT4: LruHashMap<SeatKey, Seat<[u8; 4]>, { capacity::SEATS }> = LruHashMap::new();
#[btf_map]
pub static SEAT6: LruHashMap<SeatKey, Seat<V6>, { capacity::SEATS6 }> = LruHashMap::new();
#[btf_map]
pub static MAC: HashMap<u32, Mac, { capacity::DEVICES }, GROWING> = HashMap::new();
#[btf_map]
pub static VIA6: HashMap<u32, Via, { capacity::DEVICES }, GROWING> = HashMap::new();
