//! The node's own processes: their sockets are pointed at a backend when they connect, or at each
//! datagram when they do not, before the kernel chooses a source address, so that 127.0.0.1 works
//! without routing tricks.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use warren_ebpf::{
    abi::{
        BackendRef, CONFIG_ENABLED, SOCKET_FROM, SOCKET_TO, Service, SocketFlow, SocketKey, SocketPeer, TCP,
        UDP,
    },
    flow::{
        Resolved, balance,
        decide::{Node as _, V4, service_at},
    },
};

use crate::{
    maps,
    node::{Maps, NO_PACKET},
};

/// Sockets have no packet.
pub const MAPS: Maps = Maps(NO_PACKET);

pub const SOCK_STREAM: u32 = 1;
pub const SOCK_DGRAM: u32 = 2;
/// MPTCP: the application asks for it, plain TCP is what a container that lacks it answers with.
pub const MPTCP: u32 = 262;

/// Reads a field of the context: one access of its own size, as the verifier wants it.
macro_rules! field {
    ($ctx:expr, $name:ident) => {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (&raw const (*$ctx).$name).read_volatile() }
    };
}

/// Writes a field of the context.
macro_rules! set {
    ($ctx:expr, $name:ident, $value:expr) => {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (&raw mut (*$ctx).$name).write_volatile($value) }
    };
}

/// Points a connecting socket at a backend, if it asked for a published port.
#[inline(always)]
pub fn connect4(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    let protocol = match (field!(ctx, type_), field!(ctx, protocol)) {
        (SOCK_STREAM, p) if p == u32::from(TCP) || p == MPTCP => TCP,
        (SOCK_DGRAM, p) if p == u32::from(UDP) => UDP,
        _ => return,
    };
    let (address, port) = named(ctx);
    let Some(service) = asked_for(context, &address, port, protocol) else { return };
    // SAFETY: no arguments.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    // None up: the socket asks the node's own stack, which refuses at once.
    let backend = balance::choose::<V4>(&MAPS, &service, random);
    if !backend.exists() {
        return;
    }
    let peer = SocketPeer { address, port, backend_port: service.target, backend_address: backend.address };
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let _ = maps::SOCK4.insert(cookie, peer, 0);
    if protocol == UDP {
        remember(cookie, address, port, &backend, service.target);
    }
    point(ctx, &backend, service.target);
}

/// Points a datagram of a socket that is not connected at a backend, the one that the last datagram
/// there went to as long as that is right.
#[inline(always)]
pub fn sendmsg4(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    if field!(ctx, protocol) != u32::from(UDP) {
        return;
    }
    let (address, port) = named(ctx);
    // A source that the process names for this datagram alone.
    if field!(ctx, msg_src_ip4).to_ne_bytes()[0] == 127 {
        return;
    }
    let Some(service) = asked_for(context, &address, port, UDP) else { return };
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let key = SocketKey { cookie, address, port, side: SOCKET_TO, pad: [] };
    // SAFETY: copied at once.
    let known = unsafe { maps::SOCK_UDP4.get(&key).map_or(BackendRef::default(), |f| f.backend) };
    // SAFETY: no arguments.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    let backend = balance::choose_again::<V4>(&MAPS, &service, random, known);
    if !backend.exists() {
        return;
    }
    if backend.backend != known {
        let flow = SocketFlow { backend: backend.backend, address, port, pad: 0 };
        let _ = maps::SOCK_UDP4.insert(key, flow, 0);
    }
    // Each time: another published port may lead to the same place, and the last one is answered.
    remember(cookie, address, port, &backend, service.target);
    point(ctx, &backend, service.target);
}

/// Tells a process that got a datagram the address it had sent to, not the backend's.
#[inline(always)]
pub fn recvmsg4(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    if field!(ctx, protocol) != u32::from(UDP) {
        return;
    }
    let (address, port) = named(ctx);
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let key = SocketKey { cookie, address, port, side: SOCKET_FROM, pad: [] };
    // SAFETY: copied at once.
    let Some(flow) = (unsafe { maps::SOCK_UDP4.get(&key).copied() }) else { return };
    set!(ctx, user_ip4, u32::from_ne_bytes(flow.address));
    set!(ctx, user_port, u32::from(flow.port.to_be()));
}

/// The address and port in the context.
#[inline(always)]
fn named(ctx: *mut bpf_sock_addr) -> (V4, u16) {
    (field!(ctx, user_ip4).to_ne_bytes(), u16::from_be(field!(ctx, user_port) as u16))
}

/// The published port that one of the node's own processes names.
#[inline(always)]
fn asked_for(context: &SockAddrContext, address: &V4, port: u16, protocol: u8) -> Option<Service> {
    let config = maps::CONFIG.get(0)?;
    if config.flags & CONFIG_ENABLED == 0 {
        return None;
    }
    // Processes of containers, ours or others', have a network of their own.
    // SAFETY: the context is valid.
    if unsafe { bpf_get_netns_cookie(context.as_ptr()) } != config.netns_cookie {
        return None;
    }
    let service = service_at(&MAPS, false, address, port, protocol)?;
    if address[0] != 127 && !MAPS.is_local(address) {
        return None;
    }
    if bound_to_loopback(context.sock_addr) {
        return None;
    }
    Some(service)
}

/// Who answers is to be told to the process as whom it has sent to.
#[inline(always)]
fn remember(cookie: u64, address: V4, port: u16, backend: &Resolved<V4>, target: u16) {
    let key = SocketKey { cookie, address: backend.address, port: target, side: SOCKET_FROM, pad: [] };
    let flow = SocketFlow { backend: backend.backend, address, port, pad: 0 };
    // SAFETY: compared at once.
    let known = unsafe { maps::SOCK_UDP4.get(&key) };
    if known != Some(&flow) {
        let _ = maps::SOCK_UDP4.insert(key, flow, 0);
    }
}

#[inline(always)]
fn point(ctx: *mut bpf_sock_addr, backend: &Resolved<V4>, target: u16) {
    set!(ctx, user_ip4, u32::from_ne_bytes(backend.address));
    set!(ctx, user_port, u32::from(target.to_be()));
}

/// A container cannot answer to a loopback address: such a socket is left to the node's stack.
#[inline(always)]
fn bound_to_loopback(ctx: *mut bpf_sock_addr) -> bool {
    // SAFETY: the kernel hands the program a valid context.
    let sock = unsafe { (&raw const (*ctx).__bindgen_anon_1.sk).read_volatile() };
    if sock.is_null() {
        return false;
    }
    // SAFETY: not null; the verifier rewrites the access.
    let bound: V4 = unsafe { (&raw const (*sock).src_ip4).read_volatile() }.to_ne_bytes();
    bound[0] == 127
}

/// Tells a process the address it asked for, not the backend's.
#[inline(always)]
pub fn getpeer4(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // SAFETY: copied at once.
    let Some(peer) = (unsafe { maps::SOCK4.get(cookie).copied() }) else { return };
    let (address, port) = named(ctx);
    if address != peer.backend_address || port != peer.backend_port {
        return;
    }
    set!(ctx, user_ip4, u32::from_ne_bytes(peer.address));
    set!(ctx, user_port, u32::from(peer.port.to_be()));
}
