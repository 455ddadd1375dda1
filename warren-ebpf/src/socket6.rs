//! Sockets of IPv6 of the node's own processes. Such a socket may speak IPv4 as well: to an address
//! like `::ffff:192.0.2.1`. So `[::1]` leads to a container's IPv4 address, which every application
//! answers at, whether it knows IPv6 or not; the node's other addresses of IPv6 lead to the
//! container's IPv6 address.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use warren_ebpf::{
    abi::{
        Address as _, BackendRef, CONFIG_ENABLED, SOCKET_FROM, SOCKET_TO, Service, SocketFlow, SocketKey,
        SocketPeer, TCP, UDP, Words as V6,
    },
    flow::{
        Resolved, balance,
        decide::{Node as _, V4, service_at},
    },
};

use crate::{
    maps,
    node::Maps6,
    socket::{MAPS, MPTCP, SOCK_DGRAM, SOCK_STREAM},
};

const LOOPBACK: V6 = V6::new([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Reads a field of the context: one access of its own size, as the verifier wants it.
macro_rules! field {
    ($ctx:expr, $name:ident $([$i:expr])?) => {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (&raw const (*$ctx).$name $([$i])?).read_volatile() }
    };
}

/// Writes a field of the context.
macro_rules! set {
    ($ctx:expr, $name:ident $([$i:expr])?, $value:expr) => {
        // SAFETY: as above.
        unsafe { (&raw mut (*$ctx).$name $([$i])?).write_volatile($value) }
    };
}

#[inline(always)]
fn of_words(words: [u32; 4]) -> V6 {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    V6::new([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]])
}

#[inline(always)]
fn address(ctx: *mut bpf_sock_addr) -> V6 {
    of_words([
        field!(ctx, user_ip6[0]),
        field!(ctx, user_ip6[1]),
        field!(ctx, user_ip6[2]),
        field!(ctx, user_ip6[3]),
    ])
}

#[inline(always)]
fn point(ctx: *mut bpf_sock_addr, address: &V6, port: u16) {
    let address = address.octets();
    let word = |i: usize| u32::from_ne_bytes([address[i], address[i + 1], address[i + 2], address[i + 3]]);
    set!(ctx, user_ip6[0], word(0));
    set!(ctx, user_ip6[1], word(4));
    set!(ctx, user_ip6[2], word(8));
    set!(ctx, user_ip6[3], word(12));
    set!(ctx, user_port, u32::from(port.to_be()));
}

/// The IPv4 address that an IPv6 address stands for; all zero when for none.
#[inline(always)]
fn unmapped(address: &V6) -> V4 {
    match address.octets() {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => [a, b, c, d],
        _ => V4::ZERO,
    }
}

#[inline(always)]
fn mapped([a, b, c, d]: V4) -> V6 {
    V6::new([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
}

/// The address that the socket is bound to; all zero when to none.
#[inline(always)]
fn bound(ctx: *mut bpf_sock_addr) -> V6 {
    // SAFETY: the kernel hands the program a valid context.
    let sock = unsafe { (&raw const (*ctx).__bindgen_anon_1.sk).read_volatile() };
    if sock.is_null() {
        return V6::ZERO;
    }
    // SAFETY: not null; the verifier rewrites the accesses.
    of_words(unsafe {
        [
            (&raw const (*sock).src_ip6[0]).read_volatile(),
            (&raw const (*sock).src_ip6[1]).read_volatile(),
            (&raw const (*sock).src_ip6[2]).read_volatile(),
            (&raw const (*sock).src_ip6[3]).read_volatile(),
        ]
    })
}

/// Whether Warren is at work and this is one of the node's own processes.
#[inline(always)]
fn concerns(context: &SockAddrContext) -> bool {
    let Some(config) = maps::CONFIG.get(0) else { return false };
    config.flags & CONFIG_ENABLED != 0
        // SAFETY: the context is valid.
        && unsafe { bpf_get_netns_cookie(context.as_ptr()) } == config.netns_cookie
}

/// Points a connecting socket at a backend, if it asked for a published port.
#[inline(always)]
pub fn connect6(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    let protocol = match (field!(ctx, type_), field!(ctx, protocol)) {
        (SOCK_STREAM, p) if p == u32::from(TCP) || p == MPTCP => TCP,
        (SOCK_DGRAM, p) if p == u32::from(UDP) => UDP,
        _ => return,
    };
    if !concerns(context) {
        return;
    }
    let asked = address(ctx);
    let port = u16::from_be(field!(ctx, user_port) as u16);
    let asked4 = unmapped(&asked);
    let bound = bound(ctx);
    let (backend, target) = if asked4 != V4::ZERO {
        let Some(service) = service_at(&MAPS, false, &asked4, port, protocol) else { return };
        if (asked4[0] != 127 && !MAPS.is_local(&asked4)) || unmapped(&bound)[0] == 127 {
            return;
        }
        (choose4(&service), service.target)
    } else {
        let Some(service) = service_at(&Maps6, false, &asked, port, protocol) else { return };
        if asked == LOOPBACK {
            // One that is bound to an address of IPv6 speaks no IPv4.
            if bound != V6::ZERO {
                return;
            }
            (choose4(&service), service.target)
        } else if Maps6.is_local(&asked) && bound != LOOPBACK {
            (balance::choose::<V6>(&Maps6, &service, random()), service.target)
        } else {
            return;
        }
    };
    // None up: the node's own stack refuses at once.
    if !backend.exists() {
        return;
    }
    let peer = SocketPeer {
        address: asked.octets(),
        port,
        backend_port: target,
        backend_address: backend.address.octets(),
    };
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let _ = maps::SOCK6.insert(cookie, peer, 0);
    if protocol == UDP {
        remember(cookie, &asked, port, &backend, target);
    }
    point(ctx, &backend.address, target);
}

/// Points a datagram of a socket that is not connected at a backend. Those to IPv4 addresses do not
/// come here, but to [`sendmsg4`](crate::socket::sendmsg4); nor does the kernel take one for an answer,
/// so that `[::1]` leads to a container's IPv6 address here.
#[inline(always)]
pub fn sendmsg6(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    if field!(ctx, protocol) != u32::from(UDP) || !concerns(context) {
        return;
    }
    // What the socket is bound to, or the process names for this datagram alone.
    let source = of_words([
        field!(ctx, msg_src_ip6[0]),
        field!(ctx, msg_src_ip6[1]),
        field!(ctx, msg_src_ip6[2]),
        field!(ctx, msg_src_ip6[3]),
    ]);
    if source == LOOPBACK || bound(ctx) == LOOPBACK {
        return;
    }
    let asked = address(ctx);
    let port = u16::from_be(field!(ctx, user_port) as u16);
    let Some(service) = service_at(&Maps6, false, &asked, port, UDP) else { return };
    if asked != LOOPBACK && !Maps6.is_local(&asked) {
        return;
    }
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let key = SocketKey { cookie, address: asked.octets(), port, side: SOCKET_TO, pad: [0; 4] };
    // SAFETY: copied at once.
    let known = unsafe { maps::SOCK_UDP6.get(&key).map_or(BackendRef::default(), |f| f.backend) };
    let backend = balance::choose_again::<V6>(&Maps6, &service, random(), known);
    if !backend.exists() {
        return;
    }
    if backend.backend != known {
        let flow = SocketFlow { backend: backend.backend, address: asked.octets(), port, pad: 0 };
        let _ = maps::SOCK_UDP6.insert(key, flow, 0);
    }
    // Each time: another published port may lead to the same place, and the last one is answered.
    remember(cookie, &asked, port, &backend, service.target);
    point(ctx, &backend.address, service.target);
}

/// Tells a process that got a datagram the address it had sent to, not the backend's.
#[inline(always)]
pub fn recvmsg6(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    if field!(ctx, protocol) != u32::from(UDP) {
        return;
    }
    let sender = address(ctx);
    let port = u16::from_be(field!(ctx, user_port) as u16);
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let key = SocketKey { cookie, address: sender.octets(), port, side: SOCKET_FROM, pad: [0; 4] };
    // SAFETY: copied at once.
    if let Some(flow) = unsafe { maps::SOCK_UDP6.get(&key).copied() } {
        point(ctx, &V6::new(flow.address), flow.port);
        return;
    }
    let address = unmapped(&sender);
    if address == V4::ZERO {
        return;
    }
    let key = SocketKey { cookie, address, port, side: SOCKET_FROM, pad: [] };
    // SAFETY: copied at once.
    if let Some(flow) = unsafe { maps::SOCK_UDP4.get(&key).copied() } {
        point(ctx, &mapped(flow.address), flow.port);
    }
}

/// Who answers is to be told to the process as whom it has sent to.
#[inline(always)]
fn remember(cookie: u64, asked: &V6, port: u16, backend: &Resolved<V6>, target: u16) {
    let address = backend.address.octets();
    let key = SocketKey { cookie, address, port: target, side: SOCKET_FROM, pad: [0; 4] };
    let flow = SocketFlow { backend: backend.backend, address: asked.octets(), port, pad: 0 };
    // SAFETY: compared at once.
    let known = unsafe { maps::SOCK_UDP6.get(&key) };
    if known != Some(&flow) {
        let _ = maps::SOCK_UDP6.insert(key, flow, 0);
    }
}

#[inline(always)]
fn random() -> u64 {
    // SAFETY: no arguments.
    u64::from(unsafe { bpf_get_prandom_u32() })
}

/// A backend, by its IPv4 address.
#[inline(always)]
fn choose4(service: &Service) -> Resolved<V6> {
    let found = balance::choose::<V4>(&MAPS, service, random());
    Resolved {
        backend: found.backend,
        address: mapped(found.address),
        ifindex: found.ifindex,
        state: found.state,
    }
}

/// Tells a process the address it asked for, not the backend's.
#[inline(always)]
pub fn getpeer6(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let Some(peer) = maps::SOCK6.get_ptr(&cookie) else { return };
    // SAFETY: a value of the map, plain bytes that others may write at worst.
    let peer = unsafe { &*peer };
    if address(ctx) != V6::new(peer.backend_address)
        || u16::from_be(field!(ctx, user_port) as u16) != peer.backend_port
    {
        return;
    }
    point(ctx, &V6::new(peer.address), peer.port);
}
