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
mod skb;
mod socket;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{bpf_ktime_get_coarse_ns, bpf_redirect_neigh, bpf_redirect_peer},
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};
use warren_ebpf::{
    abi::Reason,
    flow::{
        Present,
        decide::{self, Action, V4, Verdict},
    },
    packet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, Ip, rewrite4},
};

use crate::{node::Maps, skb::Skb};

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
    let mut skb = Skb::new(ctx);
    // Others' packets are seen too, on bridge ports and in promiscuous mode.
    if skb.ethertype() != ETHERTYPE_IPV4 || skb.kind() != PACKET_HOST {
        return PASS;
    }
    let Some(config) = maps::CONFIG.get(0) else { return PASS };
    let present = Present { config, now: now() };
    let ifindex = skb.ifindex();
    let (verdict, ip) = decide::node_in(&Maps(skb.raw()), &present, &skb, offset, ifindex);
    execute(&mut skb, &present, &verdict, &ip)
}

/// Ingress of the node's end of a container's veth: everything a container sends.
#[classifier]
pub fn veth_in(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx);
    let Some(config) = maps::CONFIG.get(0) else { return PASS };
    let present = Present { config, now: now() };
    let verdict = match skb.ethertype() {
        ETHERTYPE_IPV4 => {
            let ifindex = skb.ifindex();
            let (verdict, ip) = decide::veth_in(&Maps(skb.raw()), &present, &skb, ETHERNET, ifindex);
            return execute(&mut skb, &present, &verdict, &ip);
        }
        ETHERTYPE_ARP => Verdict::PASS,
        _ => Verdict::drop(Reason::Protocol),
    };
    execute(&mut skb, &present, &verdict, &Ip::default())
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

#[inline(always)]
fn execute(skb: &mut Skb, present: &Present<'_>, verdict: &Verdict, ip: &Ip<V4>) -> i32 {
    match verdict.action {
        Action::Pass => return PASS,
        Action::Drop => return drop_packet(skb, present, verdict.reason, ip),
        Action::Container | Action::Device => {}
    }
    if !rewrite4(skb, ip, &verdict.from, &verdict.to) {
        return drop_packet(skb, present, Reason::Rewrite, ip);
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
fn drop_packet(skb: &Skb, present: &Present<'_>, reason: Reason, ip: &Ip<V4>) -> i32 {
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
