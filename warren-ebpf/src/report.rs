//! Telling the agent.

use warren_ebpf::{
    abi::{EVENT_DROP, Event},
    packet::{Family, Ip, Packet},
};

use crate::maps;

/// Pause between two events of one reason on one CPU, in nanoseconds.
const PAUSE: u64 = 1_000_000_000;

/// Counts a packet that somebody was told of already, in a row of `DROPS`.
#[inline(always)]
pub fn answered(row: u32) {
    if let Some(counter) = maps::DROPS.get_ptr_mut(row) {
        // SAFETY: this CPU's own row; programs of one hook do not interrupt each other.
        unsafe { (*counter).packets += 1 };
    }
}

/// Counts a dropped packet, for a reason and in a row of `DROPS`, and tells of it now and then.
#[inline(always)]
pub fn dropped<A: Family, P: Packet>(
    packet: &P,
    ifindex: u32,
    now: u64,
    (reason, row): (u32, u32),
    ip: &Ip<A>,
) {
    let Some(counter) = maps::DROPS.get_ptr_mut(row) else { return };
    // SAFETY: this CPU's own row; programs of one hook do not interrupt each other.
    let due = unsafe {
        (*counter).packets += 1;
        let due = now.saturating_sub((*counter).reported) >= PAUSE;
        if due {
            (*counter).reported = now;
        }
        due
    };
    if !due {
        return;
    }
    let Some(mut event) = maps::EVENTS.reserve_untyped::<Event>(0) else { return };
    let mut told =
        Event { time: now, kind: EVENT_DROP, reason, ifindex, length: packet.length(), ..Event::default() };
    if ip.payload != 0 {
        told.family = A::FAMILY;
        told.protocol = ip.protocol;
        told.source = ip.source.widen();
        told.destination = ip.destination.widen();
        if !ip.fragment
            && let Some([a, b, c, d]) = packet.load::<4>(ip.payload)
            && matches!(ip.protocol, warren_ebpf::abi::TCP | warren_ebpf::abi::UDP)
        {
            told.source_port = u16::from_be_bytes([a, b]);
            told.destination_port = u16::from_be_bytes([c, d]);
        }
    }
    event.write(told);
    event.submit(0);
}
