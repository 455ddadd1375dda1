//! How much one client gets of a published port: `LIMIT`, `CLIENT4` and `CLIENT6`, `SEAT4` and `SEAT6`,
//! `GATE`. The lists of whom ports answer never, `DENY4` and `DENY6`, are longest-prefix tries of addresses.

use super::FlowKey;
use crate::layout;

layout! {
/// Row of `LIMIT`, keyed by [`Service::id`](super::Service::id): how much one client gets of each port
/// of the service. No row, or a spacing of 0, is no limit.
pub struct Limit {
    /// Nanoseconds between two flows that begin.
    pub flow_spacing: u32,
    /// How many may begin at once; not 0.
    pub flow_burst: u32,
    /// Nanoseconds between two packets.
    pub packet_spacing: u32,
    /// How many packets may come at once; not 0.
    pub packet_burst: u32,
    /// How many flows one client may have at a time; 0: no limit.
    pub connections: u32,
}
}

layout! {
/// Key of `CLIENT4` and `CLIENT6`: a client of a published port.
pub struct ClientKey {
    /// [`Service::id`](super::Service::id).
    pub service: u32,
    /// The published port.
    pub port: u16,
    /// 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
    /// Who: an IPv4 address and four zeros, or the first half of an IPv6 address.
    pub network: [u8; 8],
}
}

layout! {
/// Value of `CLIENT4` and `CLIENT6`: when a client that has used up what it had comes out even, in
/// nanoseconds of the monotonic clock; of no consequence once that is past.
pub struct Client {
    /// For flows that begin.
    pub flows: u64,
    /// For packets.
    pub packets: u64,
    /// The seat that it took last (the lowest 16 bits), and the moment until which nobody looks for a
    /// free one, since all were taken (the others).
    pub seats: u64,
}
}

layout! {
/// Key of `SEAT4` and `SEAT6`: one of the flows that a client may have at a time.
pub struct SeatKey {
    /// Whose.
    pub client: ClientKey,
    /// From 1 to [`Limit::connections`].
    pub seat: u32,
}
}

layout! {
/// Value of `SEAT4` and `SEAT6`: who has it, if that flow says so, too ([`Flow::seat`](super::Flow::seat)).
pub struct Seat<A> {
    /// When it was taken, nanoseconds of the monotonic clock; not 0.
    pub taken: u64,
    /// The tracking record of who has it.
    pub flow: FlowKey<A>,
}
}

/// Row of `GATE` for clients of IPv4.
pub const GATE4: u32 = 0;
/// Row of `GATE` for clients of IPv6.
pub const GATE6: u32 = 1;

layout! {
/// Row of `GATE`: how many clients of a family become known. What floods under made-up addresses is
/// to push as few others as this out of `CLIENT4` and `CLIENT6`.
pub struct Gate {
    /// As in [`Client`].
    pub clients: u64,
}
}

/// Nanoseconds between two clients of IPv4 that become known: 2,000 a second.
pub const NEWCOMER_SPACING4: u32 = 500_000;
/// How many clients of IPv4 may become known at once: half of what there is room for.
pub const NEWCOMER_BURST4: u32 = super::capacity::CLIENTS as u32 / 2;
/// Nanoseconds between two networks of IPv6 that become known: 250 a second.
pub const NEWCOMER_SPACING6: u32 = 4_000_000;
/// How many networks of IPv6 may become known at once: half of what there is room for.
pub const NEWCOMER_BURST6: u32 = super::capacity::CLIENTS6 as u32 / 2;
