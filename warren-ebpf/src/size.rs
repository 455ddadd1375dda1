//! Packets and the MTU of the device that they leave by.

use aya_ebpf::helpers::bpf_redirect_peer;
use warren_ebpf::{
    abi::Reason,
    flow::decide::Work,
    packet::{Family, Packet as _, notice::QUOTE},
};

use crate::{DROPPED, report, skb::Skb};

/// Whether a packet fits a device, or each of the segments that are merged in it. A device that is gone has
/// no MTU.
#[inline(always)]
pub fn fits<A: Family>(skb: &Skb, work: &Work<A>, mtu: u32) -> bool {
    let (ip, merged) = (&work.ip, skb.gso_size());
    if merged == 0 {
        return mtu == 0 || skb.length().wrapping_sub(ip.offset) <= mtu;
    }
    mtu == 0 || ip.payload - ip.offset + ip.transport_header(skb) + merged <= mtu
}

/// Tells the container that it has sent something too big, instead of sending it on. Whether it allows that
/// to be cut up or not: nobody here does, and a container that knows the MTU does so itself.
#[inline(always)]
pub fn too_big<A: Family>(skb: &mut Skb, work: &Work<A>, quote: &mut [u8; QUOTE]) -> i32 {
    const FAILED: i32 = DROPPED + Reason::Rewrite as i32;
    let (verdict, seen, offset) = (&work.verdict, &work.seen.tuple, work.ip.offset);
    // The node says so, unless it does not show itself to the other end.
    let from = if verdict.to.source == seen.source { seen.destination } else { verdict.to.source };
    let mtu = skb.mtu(verdict.ifindex);
    // Nobody could tell what it was about.
    if work.ip.fragment && !A::is_first(skb, &work.ip) {
        return DROPPED + Reason::Fragment as i32;
    }
    if !skb.read(offset, quote) {
        return FAILED;
    }
    let notice = A::too_big(from, seen.source, mtu, quote);
    if !(skb.truncate(offset + QUOTE as u32)
        && skb.make_room(size_of::<A::Notice>() as u32)
        && skb.put(offset, &notice))
    {
        return FAILED;
    }
    report::answered(Reason::TooBig as u32);
    // SAFETY: a plain helper call.
    unsafe { bpf_redirect_peer(skb.ifindex(), 0) as i32 }
}
