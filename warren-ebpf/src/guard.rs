//! The guard: drops at the device what would be refused anyway, before the kernel has made a socket buffer
//! of it. Needed by nothing.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    macros::xdp,
    programs::XdpContext,
};
use warren_ebpf::{
    abi::{EARLY, Words as V6},
    flow::{
        Present,
        decide::{Action, Next, V4, Work},
        guard,
    },
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet as _},
};

use crate::{
    exactly_now, maps,
    node::{Maps, RoomyMaps6},
    now, report,
    scratch::Room,
    xdp::Frame,
};

const ETHERNET: u32 = crate::ETHERNET;
/// What a step says when nothing is to be dropped.
const NOTHING: u32 = 0;
/// What a step says when another one is to be asked.
const ASK: u32 = 1;
/// What a step says of a frame that is dropped: this and the reason.
const DROPPED: u32 = crate::DROPPED as u32;

/// What comes in by a device with Ethernet headers, before anything else sees it.
#[xdp]
pub fn guard(ctx: XdpContext) -> u32 {
    let frame = ctx.ctx;
    let Some(header) = Frame::at(frame).load::<14>(0) else { return XDP_PASS };
    // What is sent to a group is for the node's stack. One with a VLAN's tag has another type.
    if header[0] & 1 != 0 {
        return XDP_PASS;
    }
    match u16::from_be_bytes([header[12], header[13]]) {
        ETHERTYPE_IPV4 => ipv4::guarded(frame),
        ETHERTYPE_IPV6 => ipv6::guarded(frame),
        _ => XDP_PASS,
    }
}

/// Whether a frame is addressed to its device. What is another host's comes in by a device that takes
/// everything, and the kernel drops it for that; one that it hands to a device above it (of a macvlan, say)
/// is asked about there.
#[inline(always)]
fn is_own(frame: &Frame) -> bool {
    // SAFETY: a row is eight bytes that the agent replaces as a whole.
    let known = unsafe { maps::MAC.get(frame.ifindex()) };
    let (Some(device), Some(to)) = (known, frame.load::<6>(0)) else { return false };
    guard::is_addressed(device, to)
}

/// What the last step has found, as a step says it.
#[inline(always)]
fn said<A: warren_ebpf::packet::Family>(work: &Work<A>) -> u32 {
    match (work.verdict.action, work.next) {
        (Action::Drop, _) => DROPPED + work.verdict.reason as u32,
        (_, Next::Pace | Next::Forward) => ASK,
        _ => NOTHING,
    }
}

/// The steps of the guard, as those of a decision are.
macro_rules! steps {
    ($family:ident, $address:ty, |$room:ident, $packet:ident| $maps:expr) => {
        mod $family {
            use super::*;

            #[inline(always)]
            pub fn guarded(frame: *mut xdp_md) -> u32 {
                let mut said = look(frame);
                if said == ASK {
                    said = foresee(frame);
                }
                if said < DROPPED {
                    return XDP_PASS;
                }
                dropped(frame, said - DROPPED)
            }

            #[unsafe(export_name = concat!(stringify!($family), "_guard_look"))]
            #[inline(never)]
            pub extern "C" fn look(frame: *mut xdp_md) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return NOTHING };
                let (work, $packet, frame) = ($room.work(), frame.cast(), Frame::at(frame));
                // No record's age is asked for.
                let present = Present { config, now: 0 };
                guard::look::<$address, _, _>(&$maps, &present, &frame, ETHERNET, frame.ifindex(), work);
                said(work)
            }

            #[unsafe(export_name = concat!(stringify!($family), "_guard_foresee"))]
            #[inline(never)]
            pub extern "C" fn foresee(frame: *mut xdp_md) -> u32 {
                let Some($room) = Room::find() else { return NOTHING };
                let (work, $packet) = ($room.work(), frame.cast());
                guard::foresee::<$address, _>(&$maps, exactly_now(), work);
                said(work)
            }

            #[unsafe(export_name = concat!(stringify!($family), "_guard_dropped"))]
            #[inline(never)]
            pub extern "C" fn dropped(frame: *mut xdp_md, reason: u32) -> u32 {
                // Asked last, so that what passes pays nothing for it.
                if !is_own(&Frame::at(frame)) {
                    return XDP_PASS;
                }
                if let Some(room) = Room::find() {
                    let (frame, ip) = (Frame::at(frame), &room.work().ip);
                    let rows = (reason, EARLY + reason);
                    report::dropped::<$address, _>(&frame, frame.ifindex(), now(), rows, ip);
                }
                XDP_DROP
            }
        }
    };
}

steps!(ipv4, V4, |room, packet| {
    let _ = room;
    Maps(packet)
});
steps!(ipv6, V6, |room, packet| RoomyMaps6::new(room, packet));
