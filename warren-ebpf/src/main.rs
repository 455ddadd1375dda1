//! Warren's BPF programs. Thin shells: they read the packet, ask `warren_ebpf` what to do, and do
//! it. `warren_ebpf::abi` describes the maps.
#![no_std]
#![no_main]
// core::sync::atomic has no read-modify-write on this target.
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod guard;
mod maps;
mod node;
mod report;
mod scratch;
mod size;
mod skb;
mod socket;
mod socket6;
mod xdp;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_redirect_neigh, bpf_redirect_peer},
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};
use warren_ebpf::{
    abi::{CONFIG_ENABLED, Reason, Words as V6},
    flow::{
        Present,
        decide::{self, Action, Next, V4, Verdict, Work},
        limit, notice, piece, seat,
    },
    packet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Family, Ip, Packet as _},
};

use crate::{
    node::{Maps, NO_PACKET, RoomyMaps6, Routed},
    scratch::Room,
    skb::Skb,
};

/// Traffic that is not ours: other programs and the kernel's stack decide.
const PASS: i32 = TC_ACT_UNSPEC;

/// Length of an Ethernet header. The kernel takes VLAN tags off before it runs us.
const ETHERNET: u32 = 14;

/// `skb->pkt_type` of a packet whose link-level destination is this host.
const PACKET_HOST: u32 = 0;

/// IPv6, as the kernel numbers families.
const AF_INET6: u32 = 10;

/// What a step says of a packet that is too big for the device it would leave by.
const TOO_BIG: i32 = 500;

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
    let packet = ctx.as_ptr().cast();
    let skb = Skb::at(packet);
    // Others' packets are seen too, on bridge ports and in promiscuous mode.
    if skb.kind() != PACKET_HOST {
        return PASS;
    }
    match skb.ethertype() {
        ETHERTYPE_IPV4 => ipv4::inward(packet, offset, now()),
        ETHERTYPE_IPV6 => ipv6::inward(packet, offset, now()),
        _ => PASS,
    }
}

/// Ingress of the node's end of a container's veth: everything a container sends.
#[classifier]
pub fn veth_in(ctx: TcContext) -> i32 {
    let packet = ctx.as_ptr().cast();
    let skb = Skb::at(packet);
    let now = now();
    match skb.ethertype() {
        ETHERTYPE_IPV4 => ipv4::outward(packet, now),
        ETHERTYPE_IPV6 => ipv6::outward(packet, now),
        ETHERTYPE_ARP => PASS,
        _ => match maps::CONFIG.get(0) {
            Some(config) if config.flags & CONFIG_ENABLED != 0 => {
                forget();
                ipv4::dropped(packet, now, Reason::Protocol as u32)
            }
            _ => PASS,
        },
    }
}

const PACE: u32 = Next::Pace as u32;
const FORWARD: u32 = Next::Forward as u32;
const RECALL: u32 = Next::Recall as u32;
const ADMIT: u32 = Next::Admit as u32;
const METER: u32 = Next::Meter as u32;
const CHOOSE: u32 = Next::Choose as u32;
const EVADE: u32 = Next::Evade as u32;
const SEAT: u32 = Next::Seat as u32;
const OPEN: u32 = Next::Open as u32;
const MASQUERADE: u32 = Next::Masquerade as u32;
const NOTICE: u32 = Next::Notice as u32;
const REQUOTE: u32 = Next::Requote as u32;
const PIECE: u32 = Next::Piece as u32;
const READDRESS: u32 = Next::Readdress as u32;

/// The steps of a decision, each a global function of the object: the verifier looks at each once, by
/// itself, whatever it is called with and from wherever. What one leaves to the next is in the room.
macro_rules! steps {
    ($family:ident, $address:ty, |$room:ident, $packet:ident| $maps:expr) => {
        mod $family {
            use super::*;

            /// What becomes of a packet that came in by a device of the node.
            #[inline(always)]
            pub fn inward(packet: *mut __sk_buff, offset: u32, now: u64) -> i32 {
                match look_in(packet, offset, now) {
                    FORWARD => lead::<true>(packet, now),
                    PACE if pace() == FORWARD => lead::<true>(packet, now),
                    NOTICE if notice_in(packet, now) == REQUOTE => {
                        requote(packet);
                    }
                    PIECE => {
                        match piece_in(packet, now) {
                            READDRESS => return concluded(packet, now),
                            FORWARD => lead::<true>(packet, now),
                            PACE if pace() == FORWARD => lead::<true>(packet, now),
                            _ => {}
                        }
                        remember(packet, 0, now);
                    }
                    _ => {}
                }
                settle();
                concluded(packet, now)
            }

            /// What becomes of a packet that a container sent.
            #[inline(always)]
            pub fn outward(packet: *mut __sk_buff, now: u64) -> i32 {
                match look_out(packet, ETHERNET, now) {
                    FORWARD => lead::<false>(packet, now),
                    MASQUERADE => {
                        masquerade(now);
                    }
                    NOTICE if notice_out(packet, now) == REQUOTE => {
                        requote(packet);
                    }
                    PIECE => {
                        match piece_out(packet, now) {
                            READDRESS => return concluded(packet, now),
                            FORWARD => lead::<false>(packet, now),
                            MASQUERADE => {
                                masquerade(now);
                            }
                            _ => {}
                        }
                        remember(packet, Skb::at(packet).ifindex(), now);
                    }
                    _ => {}
                }
                concluded(packet, now)
            }

            /// To a backend, by a known flow or by a new one.
            #[inline(always)]
            fn lead<const OUTSIDE: bool>(packet: *mut __sk_buff, now: u64) {
                match forward(now) {
                    RECALL => {
                        recall(now);
                    }
                    ADMIT if is_let_in::<OUTSIDE>(packet) => {
                        let mut next = choose(now);
                        if next == EVADE {
                            next = evade(now);
                        }
                        // Those of containers are not counted.
                        if OUTSIDE && next == SEAT {
                            next = take_seat();
                        }
                        if next == OPEN {
                            open(now);
                        }
                    }
                    _ => {}
                }
            }

            /// Whether a flow may begin.
            #[inline(always)]
            fn is_let_in<const OUTSIDE: bool>(packet: *mut __sk_buff) -> bool {
                match admit(packet) {
                    CHOOSE => true,
                    METER if OUTSIDE => meter() == CHOOSE,
                    _ => false,
                }
            }

            #[inline(always)]
            fn concluded(packet: *mut __sk_buff, now: u64) -> i32 {
                let mut said = execute(packet);
                if said == TOO_BIG {
                    said = too_big(packet);
                }
                match said {
                    said if said < DROPPED => said,
                    said => dropped(packet, now, (said - DROPPED) as u32),
                }
            }

            #[unsafe(export_name = concat!(stringify!($family), "_look_in"))]
            #[inline(never)]
            pub extern "C" fn look_in(packet: *mut __sk_buff, offset: u32, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, skb) = ($room.work(), Skb::at(packet));
                let present = Present { config, now };
                let $packet = NO_PACKET;
                decide::look_in::<$address, _, _>(&$maps, &present, &skb, offset, skb.ifindex(), work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_look_out"))]
            #[inline(never)]
            pub extern "C" fn look_out(packet: *mut __sk_buff, offset: u32, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, skb) = ($room.work(), Skb::at(packet));
                let present = Present { config, now };
                let $packet = NO_PACKET;
                decide::look_out::<$address, _, _>(&$maps, &present, &skb, offset, skb.ifindex(), work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_forward"))]
            #[inline(never)]
            pub extern "C" fn forward(now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                decide::forward::<$address, _>(&$maps, &Present { config, now }, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_admit"))]
            #[inline(never)]
            pub extern "C" fn admit($packet: *mut __sk_buff) -> u32 {
                let Some($room) = Room::find() else { return 0 };
                let work = $room.work();
                decide::admit::<$address, _>(&$maps, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_pace"))]
            #[inline(never)]
            pub extern "C" fn pace() -> u32 {
                let Some($room) = Room::find() else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                limit::pace::<$address, _>(&$maps, exactly_now(), work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_meter"))]
            #[inline(never)]
            pub extern "C" fn meter() -> u32 {
                let Some($room) = Room::find() else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                limit::meter::<$address, _>(&$maps, exactly_now(), work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_recall"))]
            #[inline(never)]
            pub extern "C" fn recall(now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                decide::recall::<$address, _>(&$maps, &Present { config, now }, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_choose"))]
            #[inline(never)]
            pub extern "C" fn choose(now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                decide::choose::<$address, _>(&$maps, &Present { config, now }, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_evade"))]
            #[inline(never)]
            pub extern "C" fn evade(now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                decide::evade::<$address, _>(&$maps, &Present { config, now }, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_seat"))]
            #[inline(never)]
            pub extern "C" fn take_seat() -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                seat::take::<$address, _>(&$maps, &Present { config, now: exactly_now() }, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_open"))]
            #[inline(never)]
            pub extern "C" fn open(now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                decide::open::<$address, _>(&$maps, &Present { config, now }, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_masquerade"))]
            #[inline(never)]
            pub extern "C" fn masquerade(now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, $packet) = ($room.work(), NO_PACKET);
                decide::masquerade::<$address, _>(&$maps, &Present { config, now }, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_notice_in"))]
            #[inline(never)]
            pub extern "C" fn notice_in(packet: *mut __sk_buff, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, quoted, skb) = ($room.work(), $room.quoted(), Skb::at(packet));
                let $packet = NO_PACKET;
                notice::notice_in::<$address, _, _>(&$maps, &Present { config, now }, &skb, work, quoted);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_notice_out"))]
            #[inline(never)]
            pub extern "C" fn notice_out(packet: *mut __sk_buff, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, quoted, skb) = ($room.work(), $room.quoted(), Skb::at(packet));
                let $packet = NO_PACKET;
                notice::notice_out::<$address, _, _>(&$maps, &Present { config, now }, &skb, work, quoted);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_piece_in"))]
            #[inline(never)]
            pub extern "C" fn piece_in(packet: *mut __sk_buff, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, mut skb, present) = ($room.work(), Skb::at(packet), Present { config, now });
                let $packet = NO_PACKET;
                piece::piece_in::<$address, _, _>(&$maps, &present, &skb, skb.ifindex(), work);
                readdress::<$address>(&mut skb, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_piece_out"))]
            #[inline(never)]
            pub extern "C" fn piece_out(packet: *mut __sk_buff, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, mut skb, present) = ($room.work(), Skb::at(packet), Present { config, now });
                let $packet = NO_PACKET;
                piece::piece_out::<$address, _, _>(&$maps, &present, &skb, skb.ifindex(), work);
                readdress::<$address>(&mut skb, work);
                work.next as u32
            }

            #[unsafe(export_name = concat!(stringify!($family), "_remember"))]
            #[inline(never)]
            pub extern "C" fn remember(packet: *mut __sk_buff, from: u32, now: u64) -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let (work, skb) = ($room.work(), Skb::at(packet));
                let $packet = NO_PACKET;
                piece::remember::<$address, _>(&$maps, &Present { config, now }, &skb, from, work);
                0
            }

            #[unsafe(export_name = concat!(stringify!($family), "_requote"))]
            #[inline(never)]
            pub extern "C" fn requote(packet: *mut __sk_buff) -> u32 {
                let Some(room) = Room::find() else { return 0 };
                let (work, quoted) = (room.work::<$address>(), room.quoted());
                if !packet::notice::requote(&mut Skb::at(packet), &work.ip, quoted) {
                    work.verdict = Verdict::drop(Reason::Rewrite);
                }
                0
            }

            #[unsafe(export_name = concat!(stringify!($family), "_settle"))]
            #[inline(never)]
            pub extern "C" fn settle() -> u32 {
                let (Some(config), Some($room)) = (maps::CONFIG.get(0), Room::find()) else { return 0 };
                let $packet = NO_PACKET;
                // No record's age is asked for.
                decide::settle::<$address, _>(&$maps, &Present { config, now: 0 }, $room.work());
                0
            }

            #[unsafe(export_name = concat!(stringify!($family), "_execute"))]
            #[inline(never)]
            pub extern "C" fn execute(packet: *mut __sk_buff) -> i32 {
                let Some(room) = Room::find() else { return PASS };
                super::execute::<$address>(&mut Skb::at(packet), room.work())
            }

            #[unsafe(export_name = concat!(stringify!($family), "_too_big"))]
            #[inline(never)]
            pub extern "C" fn too_big(packet: *mut __sk_buff) -> i32 {
                let Some(room) = Room::find() else { return PASS };
                size::too_big::<$address>(&mut Skb::at(packet), room.work(), room.quote())
            }

            #[unsafe(export_name = concat!(stringify!($family), "_dropped"))]
            #[inline(never)]
            pub extern "C" fn dropped(packet: *mut __sk_buff, now: u64, reason: u32) -> i32 {
                if let Some(room) = Room::find() {
                    let skb = Skb::at(packet);
                    report::dropped::<$address, _>(
                        &skb,
                        skb.ifindex(),
                        now,
                        (reason, reason),
                        &room.work().ip,
                    );
                }
                TC_ACT_SHOT
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
fn execute<A: Family + Routed>(skb: &mut Skb, work: &Work<A>) -> i32 {
    let verdict = &work.verdict;
    match verdict.action {
        Action::Pass => return PASS,
        Action::Drop => return DROPPED + verdict.reason as i32,
        // Whatever fits a smaller packet than any link's largest needs no look at the link.
        Action::Device
            if skb.length() > ETHERNET + A::LEAST_MTU && !size::fits(skb, work, skb.mtu(verdict.ifindex)) =>
        {
            return TOO_BIG;
        }
        Action::Container | Action::Device => {}
    }
    if !A::rewrite(skb, &work.ip, &work.seen.tuple, &verdict.to) {
        return DROPPED + Reason::Rewrite as i32;
    }
    let action = if verdict.action == Action::Container {
        // SAFETY: a plain helper call; for a device that is gone the kernel drops the packet.
        unsafe { bpf_redirect_peer(verdict.ifindex, 0) }
    } else {
        leave(verdict.ifindex, &verdict.to.destination)
    };
    action as i32
}

/// Sends a packet out of a device: to a neighbour, or to who leads to `destination`.
#[inline(always)]
fn leave<A: Routed>(device: u32, destination: &A) -> i64 {
    if let Some(ipv6_nh) = destination.router(device) {
        let anon = bpf_redir_neigh__bindgen_ty_1 { ipv6_nh };
        let mut next = bpf_redir_neigh { nh_family: AF_INET6, __bindgen_anon_1: anon };
        // SAFETY: the kernel reads as much as is said, while the call lasts.
        return unsafe { bpf_redirect_neigh(device, &raw mut next, size_of_val(&next) as i32, 0) };
    }
    // SAFETY: a plain helper call, as above.
    unsafe { bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) }
}

/// Changes the addresses of a fragment that is not the first: all that there is to be changed.
#[inline(always)]
fn readdress<A: Family>(skb: &mut Skb, work: &mut Work<A>) {
    if work.next == Next::Readdress {
        if !packet::piece::readdress(skb, &work.ip, &work.seen.tuple, &work.verdict.to) {
            work.verdict = Verdict::drop(Reason::Rewrite);
        }
        work.seen.tuple = work.verdict.to;
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The same clock between its ticks: a limit of thousands a second needs it, and costs it.
#[inline(always)]
fn exactly_now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
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
