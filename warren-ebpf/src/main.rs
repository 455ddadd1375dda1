//! Warren's BPF programs. Thin shells: they read the packet, ask `warren_ebpf` what to do, and do
//! it. `warren_ebpf::abi` describes the maps.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};

/// Traffic that is not ours: other programs and the kernel's stack decide.
const PASS: i32 = TC_ACT_UNSPEC;

/// Ingress of a device with Ethernet headers.
#[classifier]
pub fn node_in_l2(_ctx: TcContext) -> i32 {
    PASS
}

/// Ingress of a device without link headers.
#[classifier]
pub fn node_in_l3(_ctx: TcContext) -> i32 {
    PASS
}

/// Ingress of the node's end of a container's veth: everything a container sends.
#[classifier]
pub fn veth_in(_ctx: TcContext) -> i32 {
    PASS
}

/// The node's own processes connecting to a published port.
#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(_ctx: SockAddrContext) -> i32 {
    1
}

/// The node's own processes asking whom they are connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeer4(_ctx: SockAddrContext) -> i32 {
    1
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
