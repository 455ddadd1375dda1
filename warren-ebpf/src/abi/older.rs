//! Structs of flow tables as earlier builds had them: what an upgrade finds in the kernel and carries over.
//! They keep their names, for a layout's hash has the name in it.

use super::BackendRef;
use crate::layout;

layout! {
/// [`Flow`](super::Flow) before it counted what it carries.
pub struct Flow<A> {
    /// As today.
    pub last_seen: u64,
    /// As today.
    pub backend: BackendRef,
    /// As today.
    pub ifindex: u32,
    /// As today.
    pub service: u32,
    /// As today.
    pub published: A,
    /// As today.
    pub client: A,
    /// As today.
    pub published_port: u16,
    /// As today.
    pub client_port: u16,
    /// As today.
    pub state: u8,
    /// As today.
    pub flags: u8,
    /// Always 0.
    pub mtu: u16,
    /// As today; of TCP a sequence number for as long as the flow lived.
    pub expected: u32,
    /// As today.
    pub seat: u16,
    /// As today.
    pub turn: u8,
    /// Zero.
    pub pad: u8,
}
}

layout! {
/// [`Return`](super::Return) before it counted what it carries.
pub struct Return<A> {
    /// As today.
    pub last_seen: u64,
    /// As today.
    pub backend: BackendRef,
    /// As today.
    pub container: A,
    /// As today.
    pub container_port: u16,
    /// As today.
    pub state: u8,
    /// As today.
    pub flags: u8,
    /// Zero.
    pub pad: A::Fill,
}
}
