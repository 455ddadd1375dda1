//! Records of what containers send out under the node's address. `MASQ_RET4` is keyed by what the
//! answer shows and is at the same time the lock on the port: it is made first, and only where no
//! live one is. `MASQ_OUT4` finds it from the container's side.

use super::{BackendRef, Traffic};
use crate::layout;

/// `Return::flags`: an answer has been seen.
pub const MASQUERADE_REPLIED: u8 = 1;

layout! {
/// Key of `MASQ_RET4`.
pub struct ReturnKey<A> {
    /// Who is talked to.
    pub remote: A,
    /// The node's address.
    pub local: A,
    /// The remote's port; 0 for ICMP.
    pub remote_port: u16,
    /// The port (or echo identifier) in use for it.
    pub local_port: u16,
    /// 1, 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
}

layout! {
/// Value of `MASQ_RET4`.
pub struct Return<A> {
    /// Last packet of either direction, as [`Flow::last_seen`](super::Flow::last_seen).
    pub last_seen: u64,
    /// Whose it is.
    pub backend: BackendRef,
    /// The container's address.
    pub container: A,
    /// The container's port (or echo identifier).
    pub container_port: u16,
    /// TCP: as [`Flow::state`](super::Flow::state), the container being the client.
    pub state: u8,
    /// `MASQUERADE_REPLIED`.
    pub flags: u8,
    /// Zero.
    pub pad: A::Fill,
    /// When it began, nanoseconds of the monotonic clock, coarse; 0: not known.
    pub began: u64,
    /// What it has carried.
    pub traffic: Traffic,
}
}

layout! {
/// Key of `MASQ_OUT4`.
pub struct EgressKey<A> {
    /// The container.
    pub container: A,
    /// Who is talked to.
    pub remote: A,
    /// The container's port (or echo identifier).
    pub container_port: u16,
    /// The remote's port; 0 for ICMP.
    pub remote_port: u16,
    /// 1, 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
}

layout! {
/// Value of `MASQ_OUT4`.
pub struct Egress<A> {
    /// The node's address in use.
    pub local: A,
    /// The port (or echo identifier) in use.
    pub local_port: u16,
    /// Zero.
    pub pad: u16,
}
}
