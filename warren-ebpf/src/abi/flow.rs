//! Records of flows to published ports. `FLOW_NEW4` and `FWD_NEW4` hold half-open ones,
//! `FLOW_EST4` and `FWD_EST4` established ones: a flood of packets with made-up sources churns only
//! the first two.

use crate::layout;

/// `Flow::state`: the client's SYN was forwarded, or UDP that was not answered so far.
pub const FLOW_OPENING: u8 = 1;
/// `Flow::state`: the container has answered it.
pub const FLOW_REPLIED: u8 = 2;
/// `Flow::state`: the client has acknowledged that; UDP: it has gone both ways for a while. The
/// record moves to `FLOW_EST4`.
pub const FLOW_ESTABLISHED: u8 = 3;
/// `Flow::state`: the client has sent its FIN.
pub const FLOW_CLIENT_FIN: u8 = 4;
/// `Flow::state`: the container has sent its FIN.
pub const FLOW_SERVER_FIN: u8 = 5;
/// `Flow::state`: both have.
pub const FLOW_CLOSED: u8 = 6;
/// `Flow::state`: one side has sent a reset. Taken back when the container goes on talking (nobody
/// checks sequence numbers here, so a forged reset must not cut a flow).
pub const FLOW_RESET: u8 = 7;

/// `Flow::flags`: the client is a container of this node, replies go to its veth (`ifindex`).
pub const FLOW_FROM_CONTAINER: u8 = 1;
/// `Flow::flags`: the client is the backend itself; its address was replaced.
pub const FLOW_HAIRPIN: u8 = 2;

layout! {
/// Key of `FRAG4`: what the fragments of one packet have in common.
pub struct PieceKey<A> {
    /// Its source.
    pub source: A,
    /// Its destination.
    pub destination: A,
    /// The packet's number.
    pub id: u32,
    /// The device of the container that sent it; 0: it came from outside.
    pub from: u32,
    /// IP protocol number; of IPv6 0.
    pub protocol: u32,
}
}

layout! {
/// Value of `FRAG4`: where the first fragment went.
pub struct Piece<A> {
    /// When it did, nanoseconds of the monotonic clock, coarse.
    pub last_seen: u64,
    /// Device it was sent to; of a container, the node's end of its veth.
    pub ifindex: u32,
    /// 1: into a container.
    pub container: u32,
    /// The source it showed.
    pub source: A,
    /// The destination it showed.
    pub destination: A,
}
}

layout! {
/// What a flow has carried: IP packets with their headers, those of merged segments once. Of a packet in
/// fragments the first one only.
pub struct Traffic {
    /// Bytes to the container.
    pub received: u64,
    /// Bytes from the container.
    pub sent: u64,
    /// Packets to the container, merged ones counted apart; begins anew after the largest number.
    pub received_packets: u32,
    /// Packets from the container, likewise.
    pub sent_packets: u32,
}
}

layout! {
/// Key of a tracking record: the tuple that the container's reply shows.
pub struct FlowKey<A> {
    /// The client, as the container sees it.
    pub client: A,
    /// The container.
    pub backend: A,
    /// The client's port, as the container sees it.
    pub client_port: u16,
    /// The container's port.
    pub backend_port: u16,
    /// 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
}

layout! {
/// A tracking record.
pub struct Flow<A> {
    /// Last packet of either direction: nanoseconds of the monotonic clock, coarse.
    pub last_seen: u64,
    /// Whom it goes to.
    pub backend: BackendRef,
    /// Device that the client's packets come in by, and the replies leave by.
    pub ifindex: u32,
    /// [`Service::id`](super::Service::id).
    pub service: u32,
    /// Address the client connected to.
    pub published: A,
    /// The client's own address (differs from the key's only for a hairpin).
    pub client: A,
    /// Port the client connected to.
    pub published_port: u16,
    /// The client's own port (differs from the key's only after a collision).
    pub client_port: u16,
    /// `FLOW_OPENING` and so on.
    pub state: u8,
    /// `FLOW_FROM_CONTAINER`, `FLOW_HAIRPIN`.
    pub flags: u8,
    /// The client's seat that it has ([`SeatKey::seat`](super::SeatKey::seat)); 0: none.
    pub seat: u16,
    /// Of TCP in `FLOW_NEW4`: the sequence number after all that the container has sent, which is what
    /// the client's ACK must name for the flow to be established. Only who sees the container's
    /// packets knows it. Meaningless before `FLOW_REPLIED`. Of TCP in `FLOW_EST4`: the second of the
    /// monotonic clock in which it was established; 0: not known. Of UDP: the second in which it began.
    pub expected: u32,
    /// Tells it from others that had the seat.
    pub turn: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// What it has carried.
    pub traffic: Traffic,
}
}

layout! {
/// Key of a forward record: the tuple that the client's packets show.
pub struct ForwardKey<A> {
    /// The client.
    pub client: A,
    /// Address connected to.
    pub published: A,
    /// The client's port.
    pub client_port: u16,
    /// Port connected to.
    pub published_port: u16,
    /// 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
}

layout! {
/// A forward record: with the backend's address it names the tracking record.
pub struct Forward {
    /// Whom it goes to.
    pub backend: BackendRef,
    /// The container's port.
    pub backend_port: u16,
    /// The client's port as the container sees it.
    pub client_port: u16,
    /// As [`Flow::flags`].
    pub flags: u8,
    /// As [`Flow::turn`].
    pub turn: u8,
    /// As [`Flow::seat`].
    pub seat: u16,
}
}

use super::BackendRef;
