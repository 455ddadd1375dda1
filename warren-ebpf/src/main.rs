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
        decide::{self, Action, V4, Work},
    },
    packet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, Ip},
};

use crate::{
    node::{Maps, RoomyMaps6},
    scratch::Room,
    skb::Skb,
};

/// Traffic that is not ours: other programs and the kernel's stack decide.
const PASS: i32 = TC_ACT_UNSPEC;

/// Length of an Ethernet header. The kernel takes VLAN tags off before it runs us.
const ETHERNET: u32 = 14;

/// `skb->pkt_type` of a packet whose link-level destination is this host.
const PACKET_HOST: u32 = 0;

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
    match skb.ethertype() {
        ETHERTYPE_IPV4 => node_in4(skb, offset),
        ETHERTYPE_IPV6 => node_in6(skb, offset),
        _ => PASS,
    }
}

/// Ingress of the node's end of a container's veth: everything a container sends.
#[classifier]
pub fn veth_in(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    match skb.ethertype() {
        ETHERTYPE_IPV4 => veth_in4(skb),
        ETHERTYPE_IPV6 => veth_in6(skb),
        ETHERTYPE_ARP => PASS,
        _ => match maps::CONFIG.get(0) {
            Some(config) if config.flags & CONFIG_ENABLED != 0 => {
                drop_packet::<V4>(&skb, &Present { config, now: now() }, Reason::Protocol, &Ip::default())
            }
            _ => PASS,
        },
    }
}

// Each family in a function of its own, so that neither has the other's share of the stack.

#[inline(never)]
fn node_in4(mut skb: Skb, offset: u32) -> i32 {
    let Some(config) = maps::CONFIG.get(0) else { return PASS };
    let present = Present { config, now: now() };
    let mut work = Work::default();
    decide::node_in::<V4, _, _>(&Maps, &present, &skb, offset, skb.ifindex(), &mut work);
    execute(&mut skb, &present, &work)
}

#[inline(never)]
fn node_in6(mut skb: Skb, offset: u32) -> i32 {
    let Some(config) = maps::CONFIG.get(0) else { return PASS };
    let Some(room) = Room::find() else { return PASS };
    let present = Present { config, now: now() };
    let work = room.work();
    decide::node_in::<V6, _, _>(&RoomyMaps6::new(room), &present, &skb, offset, skb.ifindex(), work);
    execute(&mut skb, &present, work)
}

#[inline(never)]
fn veth_in4(mut skb: Skb) -> i32 {
    let Some(config) = maps::CONFIG.get(0) else { return PASS };
    let present = Present { config, now: now() };
    let mut work = Work::default();
    decide::veth_in::<V4, _, _>(&Maps, &present, &skb, ETHERNET, skb.ifindex(), &mut work);
    execute(&mut skb, &present, &work)
}

#[inline(never)]
fn veth_in6(mut skb: Skb) -> i32 {
    let Some(config) = maps::CONFIG.get(0) else { return PASS };
    let Some(room) = Room::find() else { return PASS };
    let present = Present { config, now: now() };
    let work = room.work();
    decide::veth_in::<V6, _, _>(&RoomyMaps6::new(room), &present, &skb, ETHERNET, skb.ifindex(), work);
    execute(&mut skb, &present, work)
}

/// The node's own processes connecting to a published port.
#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    socket::connect4(&ctx);
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

/// [`sock_getpeer4`] for sockets of IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeer6(ctx: SockAddrContext) -> i32 {
    socket6::getpeer6(&ctx);
    1
}

#[inline(always)]
fn execute<A: Family>(skb: &mut Skb, present: &Present<'_>, work: &Work<A>) -> i32 {
    let verdict = &work.verdict;
    let reason = match verdict.action {
        Action::Pass => return PASS,
        Action::Drop => verdict.reason,
        Action::Container | Action::Device => Reason::Rewrite,
    };
    if verdict.action == Action::Drop || !A::rewrite(skb, &work.ip, &work.seen.tuple, &verdict.to) {
        return drop_packet(skb, present, reason, &work.ip);
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

#[inline(never)]
fn drop_packet<A: Family>(skb: &Skb, present: &Present<'_>, reason: Reason, ip: &Ip<A>) -> i32 {
    report::dropped(skb, present, reason, ip);
    TC_ACT_SHOT
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
