//! What the agent mirrors of the node: its addresses (`LOCAL4`), its devices' (`MAC`) and its routes (`ROUTE4`); what the
//! socket hooks remember (`SOCK4`, `SOCK_UDP4`); and room to work in (`SCRATCH`).

use super::BackendRef;
use crate::layout;

/// `Route::flags`: whatever matches is dropped (blackhole and unreachable routes, the cluster's
/// pool: an address of the pool that is no container's must not leak to the uplink).
pub const ROUTE_DROP: u32 = 1;
/// `Route::flags`: leave the container's source address as it is.
pub const ROUTE_PLAIN: u32 = 2;

/// `Route::flags`, of IPv6: for all that no other route leads to.
pub const ROUTE_DEFAULT: u32 = 4;

layout! {
/// Value of `LOCAL4`, keyed by an address of the node. Loopback addresses need not be in it.
pub struct Local {
    /// Device that has the address.
    pub ifindex: u32,
}
}

layout! {
/// Value of `MAC`, keyed by a device that a guard may be on: what a frame must be addressed to so that
/// the kernel takes it for the node's.
pub struct Mac {
    /// The device's own address.
    pub address: [u8; 6],
    /// Zero.
    pub pad: u16,
}
}

layout! {
/// Value of `VIA6`, keyed by a device with a router of IPv6, where the node's default way may be another
/// device's: whom to give what leaves by it for who has no route but that. Of IPv6 the kernel takes the best
/// route, whichever device it is asked for.
pub struct Via {
    /// The router's address; a link-local one is meant on the device.
    pub router: [u8; 16],
}
}

layout! {
/// Value of `ROUTE4`, a longest-prefix trie keyed by `{prefix_len, data: A}`. Routes to the
/// node itself and to its containers are not in it (`LOCAL4` and `EP4` are asked first).
pub struct Route<A> {
    /// Device to leave by.
    pub ifindex: u32,
    /// Source address for masquerading: the route's preferred source, else the device's primary
    /// address. All zero: nothing can leave this way.
    pub source: A,
    /// `ROUTE_*`.
    pub flags: u32,
    /// The device's MTU; 0 when unknown.
    pub mtu: u32,
}
}

layout! {
/// Value of `SOCK4`, keyed by socket cookie: what the process asked for, told to it by
/// `getpeername`.
pub struct SocketPeer<A> {
    /// Address connected to by the process.
    pub address: A,
    /// The port it connected to.
    pub port: u16,
    /// The backend's port.
    pub backend_port: u16,
    /// The backend's address.
    pub backend_address: A,
}
}

/// `SocketKey::side`: the record is found by whom the process sends to.
pub const SOCKET_TO: u16 = 0;
/// `SocketKey::side`: the record is found by who answers.
pub const SOCKET_FROM: u16 = 1;

layout! {
/// Key of `SOCK_UDP4`: what a UDP socket of the node's processes sends to or gets answers from.
pub struct SocketKey<A> {
    /// The kernel's number of the socket, never used again.
    pub cookie: u64,
    /// The published address that the process names, or the backend's.
    pub address: A,
    /// The port that goes with it.
    pub port: u16,
    /// `SOCKET_*`: which.
    pub side: u16,
    /// Zero.
    pub pad: A::Fill,
}
}

layout! {
/// Value of `SOCK_UDP4`.
pub struct SocketFlow<A> {
    /// Whom it goes to.
    pub backend: BackendRef,
    /// The published address that the process names.
    pub address: A,
    /// The port that goes with it.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}
}

layout! {
/// Row 0 of `SCRATCH`: where a program puts what it hands to the kernel. Nothing in it outlives a
/// packet.
pub struct Scratch {
    /// A key of a table.
    pub key: [u64; 6],
    /// A value of a table.
    pub value: [u64; 12],
    /// What was found out about a packet.
    pub work: [[u64; 8]; 5],
    /// What an ICMP error quotes.
    pub quoted: [[u64; 8]; 2],
}
}
