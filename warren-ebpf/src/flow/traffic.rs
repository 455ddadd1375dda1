//! What flows carry: counters in their records.

use crate::{
    abi::{Address, Traffic},
    packet::{Ip, Packet},
};

/// What a packet adds to the counters of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Size {
    /// Its bytes, IP header included.
    pub bytes: u32,
    /// How many packets are merged in it; 1: it is one.
    pub packets: u32,
}

impl Size {
    /// That of the packet whose header is `ip`.
    #[inline(always)]
    #[must_use]
    pub fn of<A: Address, P: Packet>(packet: &P, ip: &Ip<A>) -> Self {
        let mut packets = packet.merged();
        if packets == 0 {
            packets = cut(packet, ip);
        }
        Self { bytes: ip.payload - ip.offset + ip.length, packets }
    }

    /// The counters of a flow that begins with this packet, sent to the container.
    #[inline(always)]
    #[must_use]
    pub fn received(self) -> Traffic {
        Traffic { received: self.bytes.into(), received_packets: self.packets, ..Traffic::default() }
    }

    /// The counters of a flow that begins with this packet of the container.
    #[inline(always)]
    #[must_use]
    pub fn sent(self) -> Traffic {
        Traffic { sent: self.bytes.into(), sent_packets: self.packets, ..Traffic::default() }
    }

    /// Counts the packet as one that the container gets.
    #[inline(always)]
    pub fn count_received(self, traffic: &mut Traffic) {
        add(&mut traffic.received, self.bytes.into());
        add32(&mut traffic.received_packets, self.packets);
    }

    /// Counts the packet as one of the container's.
    #[inline(always)]
    pub fn count_sent(self, traffic: &mut Traffic) {
        add(&mut traffic.sent, self.bytes.into());
        add32(&mut traffic.sent_packets, self.packets);
    }
}

/// How many packets one will be cut up into, or was merged from, that says only how large they are: virtual
/// devices leave the counting to others.
#[inline(always)]
fn cut<A: Address, P: Packet>(packet: &P, ip: &Ip<A>) -> u32 {
    let size = packet.segment_size();
    if size == 0 {
        return 1;
    }
    ip.length.saturating_sub(ip.transport_header(packet)).div_ceil(size).max(1)
}

/// Implements adding to a number that other processors add to at the same time: one instruction, or a count
/// would be lost now and then.
macro_rules! add {
    ($name:ident, $number:ty) => {
        #[cfg(target_arch = "bpf")]
        #[inline(always)]
        fn $name(place: &mut $number, more: $number) {
            // SAFETY: an aligned number of a map value. core::sync has no such operation on this target, the
            // compiler's intrinsic has.
            unsafe {
                core::intrinsics::atomic_xadd::<
                    $number,
                    $number,
                    { core::intrinsics::AtomicOrdering::Relaxed },
                >(place, more);
            }
        }

        #[cfg(not(target_arch = "bpf"))]
        fn $name(place: &mut $number, more: $number) {
            *place = place.wrapping_add(more);
        }
    };
}

add!(add, u64);
add!(add32, u32);
