//! Mixing tuples into numbers: rows of a Maglev table, start points of port searches.

use crate::abi::Address;

/// A full-avalanche mix of 64 bits (the finaliser of SplitMix64).
#[inline(always)]
#[must_use]
pub const fn scramble(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a client's tuple; the same on every node.
#[inline(always)]
#[must_use]
pub fn tuple<A: Address>(
    source: &A,
    destination: &A,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
) -> u64 {
    let addresses = (u64::from(source.fold()) << 32) | u64::from(destination.fold());
    let rest = (u64::from(protocol) << 32) | (u64::from(source_port) << 16) | u64::from(destination_port);
    scramble(scramble(addresses) ^ rest)
}
