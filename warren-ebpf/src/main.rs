//! Warren's BPF programs. Thin shells: they read the packet, ask `warren_ebpf` what to do, and do
//! it. `warren_ebpf::abi` describes the maps.
#![no_std]
#![no_main]
// core::sync::atomic has no read-modify-write on this target.
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod maps;
mod node;
mod report;
mod scratch;
mod skb;
mod socket;
mod socket6;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_ktime_get_coarse_ns, bpf_redirect_neigh, bpf_redirect_peer},
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};
use warren_ebpf::{
    abi::{CONFIG_ENABLED, Reason, Words as V6},
    flow::{
        Present,
        decide::{self, Action, Next, V4, Work},
    },
    packet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, Ip},
};

use crate::{
    node::{Maps, NO_PACKET, RoomyMaps6},
    scratch::Room,
    skb::Skb,
};

/// Traffic that is not ours: other programs and the kernel's stack decide.
const PASS: i32 = TC_ACT_UNSPEC;

/// Length of an Ethernet header. The kernel takes VLAN tags off before it runs us.
const ETHERNET: u32 = 14;

/// `skb->pkt_type` of a packet whose link-level destination is this host.
const PACKET_HOST: u32 = 0;

/// What a step says of a packet that is dropped: this and the reason.
const DROPPED: i32 = 1000;

/// Ingress of a device with Ethernet headers.
#[classifier]
pub fn node_in_l2(ctx: TcContext) -> i32 {
    node_in(&ctx, ETHERNET)
}

/// Ingress of a device without link headers.
#[classifier]
pub fn node_in_l3(ctx: TcContext) -> i32 {
    node_in(&ctx, 0)
}

#[inline(always)]
fn node_in(ctx: &TcContext, offset: u32) -> i32 {
    let skb = Skb::new(ctx);
    // Others' packets are seen too, on bridge ports and in promiscuous mode.
    if skb.kind() != PACKET_HOST {
        return PASS;
    }
    let now = now();
    match skb.ethertype() {
        ETHERTYPE_IPV4 => {
            if ipv4::look_in(skb, offset, now) == FORWARD && ipv4::forward(now) == BEGIN {
                ipv4::begin(skb, now);
            }
            ipv4::settle();
            concluded(ipv4::execute(skb), |reason| ipv4::dropped(skb, now, reason))
        }
        ETHERTYPE_IPV6 => {
            if ipv6::look_in(skb, offset, now) == FORWARD && ipv6::forward(now) == BEGIN {
                ipv6::begin(skb, now);
            }
            ipv6::settle();
            concluded(ipv6::execute(skb), |reason| ipv6::dropped(skb, now, reason))
        }
        _ => PASS,
    }
}

/// Ingress of the node's end of a container's veth: everything a container sends.
#[classifier]
pub fn veth_in(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let now = now();
    match skb.ethertype() {
        ETHERTYPE_IPV4 => {
            match ipv4::look_out(skb, ETHERNET, now) {
                FORWARD => {
                    if ipv4::forward(now) == BEGIN {
                        ipv4::begin(skb, now);
                    }
                }
                MASQUERADE => ipv4::masquerade(now),
                _ => {}
            }
            concluded(ipv4::execute(skb), |reason| ipv4::dropped(skb, now, reason))
        }
        ETHERTYPE_IPV6 => {
            match ipv6::look_out(skb, ETHERNET, now) {
                FORWARD => {
                    if ipv6::forward(now) == BEGIN {
                        ipv6::begin(skb, now);
                    }
                }
                MASQUERADE => ipv6::masquerade(now),
                _ => {}
            }
            concluded(ipv6::execute(skb), |reason| ipv6::dropped(skb, now, reason))
        }
        ETHERTYPE_ARP => PASS,
        _ => match maps::CONFIG.get(0) {
            Some(config) if config.flags & CONFIG_ENABLED != 0 => {
                forget();
                ipv4::dropped(skb, now, Reason::Protocol as u32);
                TC_ACT_SHOT
            }
            _ => PASS,
        },
    }
}

const FORWARD: u32 = Next::Forward as u32;
const BEGIN: u32 = Next::Begin as u32;
const MASQUERADE: u32 = Next::Masquerade as u32;

/// What the program returns.
#[inline(always)]
fn concluded(said: i32, drop: impl FnOnce(u32)) -> i32 {
    if said < DROPPED {
        return said;
    }
    drop((said - DROPPED) as u32);
    TC_ACT_SHOT
}

/// The steps of a decision, each a function of the object with its own share of the stack. What one
/// leaves to the next is in the room.
macro_rules! steps {
    ($family:ident, $address:ty, |$room:ident, $packet:ident| $maps:expr) => {
        mod $family {
            use super::*;

            #[inline(never)]
            pub fn look_in(skb: Skb, offset: u32, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let work = $room.work();
                let present = Present { config, now };
                let $packet = NO_PACKET;
                decide::look_in::<$address, _, _>(&$maps, &present, &skb, offset, skb.ifindex(), work);
                work.next as u32
            }

            #[inline(never)]
            pub fn look_out(skb: Skb, offset: u32, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let work = $room.work();
                let present = Present { config, now };
                let $packet = NO_PACKET;
                decide::look_out::<$address, _, _>(&$maps, &present, &skb, offset, skb.ifindex(), work);
                work.next as u32
            }

            #[inline(never)]
            pub fn forward(now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                decide::forward::<$address, _>(&$maps, &Present { config, now }, work);
                work.next as u32
            }

            #[inline(never)]
            pub fn begin(skb: Skb, now: u64) {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return };
                let $packet = skb.raw();
                decide::begin::<$address, _>(&$maps, &Present { config, now }, $room.work());
            }

            #[inline(never)]
            pub fn masquerade(now: u64) {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return };
                let $packet = NO_PACKET;
                decide::masquerade::<$address, _>(&$maps, &Present { config, now }, $room.work());
            }

            #[inline(never)]
            pub fn settle() {
                let Some($room) = Room::find() else { return };
                let $packet = NO_PACKET;
                decide::settle::<$address, _>(&$maps, $room.work());
            }

            #[inline(never)]
            pub fn execute(mut skb: Skb) -> i32 {
                let Some(room) = Room::find() else { return PASS };
                super::execute::<$address>(&mut skb, room.work())
            }

            #[inline(never)]
            pub fn dropped(skb: Skb, now: u64, reason: u32) {
                let Some(room) = Room::find() else { return };
                report::dropped::<$address>(skb, now, reason, &room.work().ip);
            }
        }
    };
}

steps!(ipv4, V4, |room, packet| {
    let _ = room;
    Maps(packet)
});
steps!(ipv6, V6, |room, packet| RoomyMaps6::new(room, packet));

/// No packet was read.
#[inline(always)]
fn forget() {
    if let Some(room) = Room::find() {
        room.work::<V4>().ip = Ip::default();
    }
}

/// The node's own processes connecting to a published port.
#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    socket::connect4(&ctx);
    1
}

/// The node's own processes sending a datagram to a published port.
#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::sendmsg4(&ctx);
    1
}

/// The node's own processes asking who sent a datagram.
#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::recvmsg4(&ctx);
    1
}

/// The node's own processes asking whom they are connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeer4(ctx: SockAddrContext) -> i32 {
    socket::getpeer4(&ctx);
    1
}

/// [`sock_connect4`] for sockets of IPv6.
#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    socket6::connect6(&ctx);
    1
}

/// [`sock_sendmsg4`] for sockets of IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    socket6::sendmsg6(&ctx);
    1
}

/// [`sock_recvmsg4`] for sockets of IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    socket6::recvmsg6(&ctx);
    1
}

/// [`sock_getpeer4`] for sockets of IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeer6(ctx: SockAddrContext) -> i32 {
    socket6::getpeer6(&ctx);
    1
}

#[inline(always)]
fn execute<A: Family>(skb: &mut Skb, work: &Work<A>) -> i32 {
    let verdict = &work.verdict;
    match verdict.action {
        Action::Pass => return PASS,
        Action::Drop => return DROPPED + verdict.reason as i32,
        Action::Container | Action::Device => {}
    }
    if !A::rewrite(skb, &work.ip, &work.seen.tuple, &verdict.to) {
        return DROPPED + Reason::Rewrite as i32;
    }
    // SAFETY: plain helper calls; for a device that is gone the kernel drops the packet.
    let action = unsafe {
        if verdict.action == Action::Container {
            bpf_redirect_peer(verdict.ifindex, 0)
        } else {
            bpf_redirect_neigh(verdict.ifindex, core::ptr::null_mut(), 0, 0)
        }
    };
    action as i32
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel hands GPL-only helpers (`bpf_redirect_*` among them) only to programs that say so.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 7] = *b"GPL v2\0";
