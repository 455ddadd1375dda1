//! Two programs that only rewrite: addresses on the way in and out, for one container, with nothing
//! remembered, chosen, limited or checked. What a datapath in BPF can reach at most with these hooks and
//! redirects, so that what everything else costs can be told apart.

use std::{
    net::Ipv4Addr,
    ops::RangeInclusive,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use warren_tests::{
    bench::bpf::{EXIT, SCHED_CLS, STORE_BYTES, attach, call, copy, insn, load, set},
    netns::Netns,
};

const L3_CSUM_REPLACE: i32 = 10;
const L4_CSUM_REPLACE: i32 = 11;
const REDIRECT_NEIGH: i32 = 152;
const REDIRECT_PEER: i32 = 155;
/// Flags of `l4_csum_replace`: four bytes, which are in the pseudo-header; and 0 stays "none", as UDP has it.
const FOUR_OF_PSEUDO: i32 = 4 | 0x10;
const NONE_STAYS: i32 = 0x20;
/// Whoever comes next decides.
const NEXT: i32 = -1;

/// Where in a frame with an IPv4 header of 20 bytes.
const SUM: i32 = 14 + 10;
const SOURCE: i16 = 14 + 12;
const TARGET: i16 = 14 + 16;
const PORTS: i16 = 14 + 20;

/// A packet's way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Both programs, attached as long as this is held.
pub struct Rewriting {
    _links: [OwnedFd; 2],
}

impl Rewriting {
    /// Between the node's devices `uplink` and `device`, which leads to the container.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(
        ns: &Netns,
        (uplink, node): (&str, Ipv4Addr),
        (device, container): (&str, Ipv4Addr),
        ports: &RangeInclusive<u16>,
    ) -> Result<Self> {
        ns.enter(|| {
            let (up, down) = (if_nametoindex(uplink)?, if_nametoindex(device)?);
            let links = [
                one(Way::In, up, (node, container), ports, down)?,
                one(Way::Out, down, (container, node), ports, up)?,
            ];
            anyhow::Ok(Self { _links: links })
        })?
        .with_context(|| format!("rewriting between {uplink} and {device}"))
    }

    /// Tries whether the kernel takes such programs on a device, that of loopback.
    ///
    /// # Errors
    /// It does not.
    pub fn tried(ns: &Netns) -> Result<()> {
        let addresses = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        ns.enter(|| {
            [Way::In, Way::Out].into_iter().try_for_each(|way| one(way, 1, addresses, &(1..=1), 1).map(drop))
        })?
    }
}

/// Loads and attaches one.
fn one(
    way: Way,
    at: u32,
    (from, to): (Ipv4Addr, Ipv4Addr),
    ports: &RangeInclusive<u16>,
    on: u32,
) -> Result<OwnedFd> {
    let code = program(way, (from, to), ports, i32::try_from(on)?);
    attach(load(SCHED_CLS, &code)?.as_fd(), at)
}

/// The instructions: 6 is the packet's context, 2 and 3 are its first byte and its end, 8 is where the
/// transport's checksum is, 9 the flags for it.
fn program(way: Way, (from, to): (Ipv4Addr, Ipv4Addr), ports: &RangeInclusive<u16>, on: i32) -> Vec<u64> {
    let (address, port) = if way == Way::In { (TARGET, PORTS + 2) } else { (SOURCE, PORTS) };
    let number = |a: Ipv4Addr| i32::from_ne_bytes(a.octets());
    let mut code = vec![
        copy(6, 1),
        insn(0x61, 2, 6, 76, 0), // r2 = skb->data
        insn(0x61, 3, 6, 80, 0), // r3 = skb->data_end
    ];
    // Jumps to the end, whose place is known once all is there.
    let mut leave = Vec::new();
    let mut unless = |code: &mut Vec<u64>, test: u64| {
        leave.push(code.len());
        code.push(test);
    };
    code.extend([copy(4, 2), insn(0x07, 4, 0, 0, 14 + 20 + 8)]);
    unless(&mut code, insn(0x2d, 4, 3, 0, 0)); // r4 > r3: too short
    code.push(insn(0x69, 4, 2, 12, 0));
    unless(&mut code, insn(0x55, 4, 0, 0, i32::from(0x0800u16.to_be())));
    code.push(insn(0x71, 4, 2, 14, 0));
    unless(&mut code, insn(0x55, 4, 0, 0, 0x45));
    code.push(insn(0x61, 4, 2, address, 0));
    unless(&mut code, insn(0x56, 4, 0, 0, number(from))); // 32 bits of it
    code.extend([insn(0x69, 4, 2, port, 0), insn(0xdc, 4, 0, 0, 16)]);
    unless(&mut code, insn(0xa5, 4, 0, 0, i32::from(*ports.start())));
    unless(&mut code, insn(0x25, 4, 0, 0, i32::from(*ports.end())));
    code.extend([
        insn(0x71, 4, 2, 14 + 9, 0),
        set(8, i32::from(PORTS) + 16),
        set(9, FOUR_OF_PSEUDO),
        insn(0x15, 4, 0, 3, libc::IPPROTO_TCP), // over the next three
        set(8, i32::from(PORTS) + 6),
        set(9, FOUR_OF_PSEUDO | NONE_STAYS),
    ]);
    unless(&mut code, insn(0x55, 4, 0, 0, libc::IPPROTO_UDP));
    // l4_csum_replace(skb, r8, from, to, r9): the numbers are taken for unsigned ones.
    let addresses = [insn(0xb4, 3, 0, 0, number(from)), insn(0xb4, 4, 0, 0, number(to))];
    code.extend([copy(1, 6), copy(2, 8)]);
    code.extend(addresses);
    code.extend([copy(5, 9), call(L4_CSUM_REPLACE)]);
    // l3_csum_replace(skb, SUM, from, to, 4)
    code.extend([copy(1, 6), set(2, SUM)]);
    code.extend(addresses);
    code.extend([set(5, 4), call(L3_CSUM_REPLACE)]);
    // skb_store_bytes(skb, address, &to, 4, 0)
    code.extend([insn(0x62, 10, 0, -4, number(to)), copy(1, 6), set(2, address.into())]);
    code.extend([copy(3, 10), insn(0x07, 3, 0, 0, -4), set(4, 4), set(5, 0), call(STORE_BYTES)]);
    // redirect_peer(on, 0), redirect_neigh(on, NULL, 0, 0)
    code.extend([set(1, on), set(2, 0)]);
    match way {
        Way::In => code.push(call(REDIRECT_PEER)),
        Way::Out => code.extend([set(3, 0), set(4, 0), call(REDIRECT_NEIGH)]),
    }
    code.push(EXIT);
    let end = code.len();
    for at in leave {
        let over = u64::try_from(end - at - 1).expect("a few instructions");
        code[at] |= over << 16;
    }
    code.extend([set(0, NEXT), EXIT]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn the_kernel_takes_both() {
        let addresses = (Ipv4Addr::new(198, 18, 0, 11), Ipv4Addr::new(10, 77, 1, 2));
        for way in [Way::In, Way::Out] {
            load(SCHED_CLS, &program(way, addresses, &(10_000..=14_999), 7)).unwrap();
        }
        Rewriting::tried(&Netns::create("try").unwrap()).unwrap();
    }
}
