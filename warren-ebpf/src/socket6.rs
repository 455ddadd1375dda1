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
    abi::{Address as _, CONFIG_ENABLED, Service, SocketPeer, TCP, Words as V6},
    flow::{
        balance,
        decide::{Node as _, V4, service_at},
    },
};

use crate::{
    maps,
    node::{Maps, Maps6},
    socket::{MPTCP, SOCK_STREAM},
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

/// Points a connecting socket at a backend, if it asked for a published port.
#[inline(always)]
pub fn connect6(context: &SockAddrContext) {
    let ctx: *mut bpf_sock_addr = context.sock_addr;
    let Some(config) = maps::CONFIG.get(0) else { return };
    let protocol = field!(ctx, protocol);
    if config.flags & CONFIG_ENABLED == 0
        || field!(ctx, type_) != SOCK_STREAM
        || (protocol != u32::from(TCP) && protocol != MPTCP)
    {
        return;
    }
    // SAFETY: the context is valid.
    if unsafe { bpf_get_netns_cookie(context.as_ptr()) } != config.netns_cookie {
        return;
    }
    let asked = address(ctx);
    let port = u16::from_be(field!(ctx, user_port) as u16);
    let asked4 = unmapped(&asked);
    let bound = bound(ctx);
    let (backend, target) = if asked4 != V4::ZERO {
        let Some(service) = service_at(&Maps, &asked4, port, TCP) else { return };
        if (asked4[0] != 127 && !Maps.is_local(&asked4)) || unmapped(&bound)[0] == 127 {
            return;
        }
        (choose4(&service), service.target)
    } else {
        let Some(service) = service_at(&Maps6, &asked, port, TCP) else { return };
        if asked == LOOPBACK {
            // One that is bound to an address of IPv6 speaks no IPv4.
            if bound != V6::ZERO {
                return;
            }
            (choose4(&service), service.target)
        } else if Maps6.is_local(&asked) && bound != LOOPBACK {
            (choose6(&service), service.target)
        } else {
            return;
        }
    };
    if backend == V6::ZERO {
        return;
    }
    let (address, backend_address) = (asked.octets(), backend.octets());
    let peer = SocketPeer { address, port, backend_port: target, backend_address };
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    let _ = maps::SOCK6.insert(cookie, peer, 0);
    point(ctx, &backend, target);
}

#[inline(always)]
fn random() -> u64 {
    // SAFETY: no arguments.
    u64::from(unsafe { bpf_get_prandom_u32() })
}

/// A backend's IPv4 address; all zero when none is up: the node's own stack refuses at once.
#[inline(always)]
fn choose4(service: &Service) -> V6 {
    let backend = balance::choose::<V4>(&Maps, service, random());
    if backend.exists() { mapped(backend.address) } else { V6::ZERO }
}

/// A backend's IPv6 address, as [`choose4`].
#[inline(always)]
fn choose6(service: &Service) -> V6 {
    let backend = balance::choose::<V6>(&Maps6, service, random());
    if backend.exists() { backend.address } else { V6::ZERO }
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
