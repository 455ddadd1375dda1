//! What becomes of a packet: records of flows and the rules they follow.

pub mod hash;
