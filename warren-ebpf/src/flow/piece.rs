//! Fragments of packets. The first one is decided like a whole packet, and where it goes is noted; the
//! others go there, too. One that comes before the first is nobody's.

use super::{
    Present, Seen, Table, Tables,
    decide::{self, Action, Next, Node, Verdict, Work},
    expired,
};
use crate::{
    abi::{Piece, PieceKey},
    packet::{self, Family, Packet, Tuple},
};

/// For how many seconds the fragments of a packet go where the first one went: as long as a kernel waits
/// for them.
const PATIENCE: u32 = 30;

/// A fragment that came in by a device of the node.
#[inline(always)]
pub fn piece_in<A: Family, N: Node<A>, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    ifindex: u32,
    work: &mut Work<A>,
) {
    work.next = Next::Nothing;
    if !A::is_first(packet, &work.ip) {
        follow(node, present, packet, 0, work);
    } else if let Some(segment) = packet::segment(packet, &work.ip) {
        work.seen = Seen::new(packet, &work.ip, &segment, ifindex);
        decide::inbound(node, present, work);
    }
}

/// A fragment that a container sent.
#[inline(always)]
pub fn piece_out<A: Family, N: Node<A>, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    ifindex: u32,
    work: &mut Work<A>,
) {
    work.next = Next::Nothing;
    if !A::is_first(packet, &work.ip) {
        follow(node, present, packet, ifindex, work);
        if work.next != Next::Readdress {
            work.verdict = decide::unreadable(node, &work.ip);
        }
    } else if let Some(segment) = packet::segment(packet, &work.ip) {
        work.seen = Seen::new(packet, &work.ip, &segment, ifindex);
        decide::outbound(node, present, work);
    } else {
        work.verdict = decide::unreadable(node, &work.ip);
    }
}

/// Sends a fragment where the first one went.
#[inline(always)]
fn follow<A: Family, P: Packet>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    packet: &P,
    from: u32,
    work: &mut Work<A>,
) {
    let key = key(packet, work, from);
    let piece = tables.pieces().with(&key, |piece| *piece).unwrap_or_default();
    if piece.ifindex == 0 || expired(present, piece.last_seen, PATIENCE) {
        return;
    }
    let ends = |source, destination| Tuple { source, destination, source_port: 0, destination_port: 0 };
    let action = if piece.container != 0 { Action::Container } else { Action::Device };
    work.seen.tuple = ends(work.ip.source, work.ip.destination);
    work.verdict = Verdict::send(action, piece.ifindex, ends(piece.source, piece.destination));
    work.next = Next::Readdress;
}

/// Notes where the first fragment of a packet goes. `from` is the device of the container that sent it, or 0.
#[inline(always)]
pub fn remember<A: Family, P: Packet>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    packet: &P,
    from: u32,
    work: &Work<A>,
) {
    let verdict = &work.verdict;
    if !matches!(verdict.action, Action::Container | Action::Device) {
        return;
    }
    let piece = Piece {
        last_seen: present.now,
        ifindex: verdict.ifindex,
        container: u32::from(verdict.action == Action::Container),
        source: verdict.to.source,
        destination: verdict.to.destination,
    };
    tables.pieces().insert(&key(packet, work, from), &piece);
}

#[inline(always)]
fn key<A: Family, P: Packet>(packet: &P, work: &Work<A>, from: u32) -> PieceKey<A> {
    let ip = &work.ip;
    PieceKey {
        source: ip.source,
        destination: ip.destination,
        id: A::piece(packet, ip),
        from,
        // In IPv6 each fragment may name another one.
        protocol: if A::FAMILY == 6 { 0 } else { u32::from(ip.protocol) },
    }
}
