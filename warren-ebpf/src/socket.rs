//! The node's own processes: their sockets are pointed at a backend when they connect, before the
//! kernel chooses a source address, so that 127.0.0.1 works without routing tricks.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use warren_ebpf::{
    abi::{CONFIG_ENABLED, SocketPeer, TCP},
    flow::{
        balance,
        decide::{Node as _, V4, service_at},
    },
};

use crate::{maps, node::Maps};

pub const SOCK_STREAM: u32 = 1;
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
    let Some(config) = maps::CONFIG.get(0) else { return };
    let protocol = field!(ctx, protocol);
    if config.flags & CONFIG_ENABLED == 0
        || field!(ctx, type_) != SOCK_STREAM
        || (protocol != u32::from(TCP) && protocol != MPTCP)
    {
        return;
    }
    // Processes of containers, ours or others', have a network of their own.
    // SAFETY: the context is valid.
    if unsafe { bpf_get_netns_cookie(context.as_ptr()) } != config.netns_cookie {
        return;
    }
    let address: V4 = field!(ctx, user_ip4).to_ne_bytes();
    let port = u16::from_be(field!(ctx, user_port) as u16);
    let Some(service) = service_at(&Maps, &address, port, TCP) else { return };
    if address[0] != 127 && !Maps.is_local(&address) {
        return;
    }
    if bound_to_loopback(ctx) {
        return;
    }
    // SAFETY: no arguments.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    // None up: the socket asks the node's own stack, which refuses at once.
    let backend = balance::choose::<V4>(&Maps, &service, random);
    if !backend.exists() {
        return;
    }
    let peer = SocketPeer { address, port, backend_port: service.target, backend_address: backend.address };
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let _ = maps::SOCK4.insert(cookie, peer, 0);
    set!(ctx, user_ip4, u32::from_ne_bytes(backend.address));
    set!(ctx, user_port, u32::from(service.target.to_be()));
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
    let address: V4 = field!(ctx, user_ip4).to_ne_bytes();
    let port = u16::from_be(field!(ctx, user_port) as u16);
    if address != peer.backend_address || port != peer.backend_port {
        return;
    }
    set!(ctx, user_ip4, u32::from_ne_bytes(peer.address));
    set!(ctx, user_port, u32::from(peer.port.to_be()));
}
