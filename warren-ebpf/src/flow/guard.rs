//! What can be refused before the kernel has made anything of a packet: a look ahead at what
//! [`decide::node_in`] would say, for less than it costs to come that far. Nothing is noted, nobody's
//! number moves: whatever would not certainly be dropped passes, and is decided there, as ever.

use super::{
    Present, Seen,
    decide::{self, Next, Node, Verdict, Work},
    limit, masquerade, published,
};
use crate::{
    abi::{CONFIG_ENABLED, Mac, SERVICE_LIMITED},
    packet::{self, Family, Ip, Packet},
};

/// A packet that came in by a device of the node. `offset` is where its IP header starts. The verdict is to
/// drop it, or `Pass`; what is to be asked besides is left in `next`: with [`Next::Pace`] and
/// [`Next::Forward`], [`foresee`] says.
#[inline(always)]
pub fn look<A: Family, N: Node<A>, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    offset: u32,
    ifindex: u32,
    work: &mut Work<A>,
) {
    *work = Work::default();
    if present.config.flags & CONFIG_ENABLED == 0 {
        return;
    }
    let Some(ip) = A::header(packet, offset) else { return };
    // What is not plain is looked at where there is time for it.
    if ip.fragment || ip.payload.wrapping_sub(offset) != A::HEADER {
        return;
    }
    // A number that the compiler knows.
    work.ip = Ip { offset, payload: offset + A::HEADER, ..ip };
    let Some(segment) = packet::transport(packet, &work.ip) else { return };
    work.seen = Seen::new(packet, &work.ip, &segment, ifindex);
    if !masquerade::concerns(present, &work.seen) {
        decide::addressed(node, present, work);
    }
}

/// Whether a frame to this link-layer address is the device's own. Nothing else is dropped: what the
/// kernel would not take for the node's, the node's program does not look at.
#[inline(always)]
#[must_use]
pub fn is_addressed(device: &Mac, to: [u8; 6]) -> bool {
    const fn number([a, b, c, d, e, f]: [u8; 6]) -> u64 {
        u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
    }
    number(device.address) == number(to)
}

/// Whether a packet to a port is certainly one too many of its sender's, or begins a flow that is.
#[inline(always)]
pub fn foresee<A: Family, N: Node<A>>(node: &N, now: u64, work: &mut Work<A>) {
    let paced = work.next == Next::Pace;
    work.next = Next::Nothing;
    if paced && limit::is_too_fast(node, now, work) {
        work.verdict = Verdict::drop(crate::abi::Reason::PacketRate);
        return;
    }
    if work.service.flags & SERVICE_LIMITED == 0 || !work.seen.begins() {
        return;
    }
    // First what most packets end with.
    let verdict = limit::foresee_meter(node, now, work);
    if verdict == Verdict::PASS || published::is_recorded(node, &work.seen) {
        return;
    }
    decide::admit(node, work);
    if work.next == Next::Meter {
        work.verdict = verdict;
    } else {
        // Somebody else's reason, or none.
        work.verdict = Verdict::PASS;
    }
    work.next = Next::Nothing;
}
