//! The tables and the node's description, as the maps hold them.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as SocketTuple4},
    helpers::{bpf_loop, bpf_sk_lookup_udp, bpf_sk_release},
    maps::lpm_trie::Key,
};
use warren_ebpf::{
    abi::{
        Backend, BackendRef, Egress, EgressKey, Flow, FlowKey, Forward, ForwardKey, Return, ReturnKey, Route,
        Service, ServiceKey, SourceKey,
    },
    flow::{
        Search, Table, Tables,
        decide::{Node, V4},
    },
    packet::Tuple,
};

use crate::maps;

/// The maps, and the packet in whose network sockets are looked for: null where none are.
pub struct Maps(pub *mut __sk_buff);

/// Where there is no packet.
pub const NO_PACKET: Maps = Maps(core::ptr::null_mut());

/// Any network namespace but that of the packet's device has a number from 0 on.
const THIS_NAMESPACE: u64 = u64::MAX;

/// `bpf_sock::state` of a connected socket, of UDP too.
const CONNECTED: u32 = 1;

impl Tables<V4> for Maps {
    #[inline(always)]
    fn half_open(&self) -> &impl Table<FlowKey<V4>, Flow<V4>> {
        &maps::FLOW_NEW4
    }

    #[inline(always)]
    fn established(&self) -> &impl Table<FlowKey<V4>, Flow<V4>> {
        &maps::FLOW_EST4
    }

    #[inline(always)]
    fn half_open_forwards(&self) -> &impl Table<ForwardKey<V4>, Forward> {
        &maps::FWD_NEW4
    }

    #[inline(always)]
    fn established_forwards(&self) -> &impl Table<ForwardKey<V4>, Forward> {
        &maps::FWD_EST4
    }

    #[inline(always)]
    fn returns(&self) -> &impl Table<ReturnKey<V4>, Return<V4>> {
        &maps::MASQ_RET4
    }

    #[inline(always)]
    fn egress(&self) -> &impl Table<EgressKey<V4>, Egress<V4>> {
        &maps::MASQ_OUT4
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

    #[inline(always)]
    fn search<S: Search<V4, Self>>(&self, times: u32, search: &mut S) {
        // SAFETY: the kernel calls `turn` with the pointer given, while this call lasts.
        unsafe { bpf_loop(times, turn::<S> as *mut c_void, (&raw mut *search).cast(), 0) };
    }
}

/// One turn of `bpf_loop`: 1 ends it.
unsafe extern "C" fn turn<S: Search<V4, Maps>>(i: u64, search: *mut S) -> u64 {
    // SAFETY: what `search` above gave to the kernel.
    if unsafe { &mut *search }.step(&NO_PACKET, i as u32) { 1 } else { 0 }
}

impl Node for Maps {
    #[inline(always)]
    fn service(&self, key: &ServiceKey<V4>) -> Option<Service> {
        // SAFETY: copied at once; the agent replaces services whole.
        unsafe { maps::SVC4.get(key).copied() }
    }

    #[inline(always)]
    fn is_source(&self, key: &SourceKey<V4>) -> bool {
        maps::SRC4.get(&Key { prefix_len: 64, data: *key }).is_some()
    }

    #[inline(always)]
    fn is_local(&self, address: &V4) -> bool {
        maps::LOCAL4.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn endpoint(&self, address: &V4) -> BackendRef {
        // SAFETY: as above.
        unsafe { maps::EP4.get(address).copied().unwrap_or_default() }
    }

    #[inline(always)]
    fn link(&self, ifindex: u32) -> BackendRef {
        // SAFETY: as above.
        unsafe { maps::LINK.get(ifindex).copied().unwrap_or_default() }
    }

    #[inline(always)]
    fn route(&self, address: &V4) -> Option<Route<V4>> {
        maps::ROUTE4.get(&Key { prefix_len: 32, data: *address }).copied()
    }

    #[inline(always)]
    fn expects(&self, packet: &Tuple<V4>) -> bool {
        if self.0.is_null() {
            return false;
        }
        let mut tuple = SocketTuple4 {
            saddr: u32::from_ne_bytes(packet.source),
            daddr: u32::from_ne_bytes(packet.destination),
            sport: packet.source_port.to_be(),
            dport: packet.destination_port.to_be(),
        };
        // SAFETY: the packet is valid while the program runs; the kernel reads as many bytes as
        // told, and what it answers with is given back before the end.
        unsafe {
            let size = size_of::<SocketTuple4>() as u32;
            let socket = bpf_sk_lookup_udp(self.0.cast(), (&raw mut tuple).cast(), size, THIS_NAMESPACE, 0);
            if socket.is_null() {
                return false;
            }
            let state = (&raw const (*socket).state).read_volatile();
            bpf_sk_release(socket.cast());
            state == CONNECTED
        }
    }
}
