//! Pools of addresses and numbers. Pure: what is in use comes in, the next free one goes out.
//!
//! All are next-fit: the search begins after the last one given out and wraps, so that what was
//! freed is used again as late as possible. Packets, flows and caches remember longer than stores.

pub mod addresses;
pub mod numbers;
pub mod ports;
pub mod subnets;
