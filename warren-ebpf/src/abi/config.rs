//! `CONFIG` and `SCHEMA`: one row each.

use crate::layout;

/// `Config::flags`: the datapath works. Without it every program lets everything pass, which is
/// what a freshly made, still empty set of maps must do.
pub const CONFIG_ENABLED: u32 = 1;

/// `Config::flags`: there is something in `DENY4` or `DENY6`.
pub const CONFIG_DENY: u32 = 2;

/// `Config::flags`: no port is published on an address of its own, loopback apart, so that nobody looks for one
/// of packets.
pub const CONFIG_ANYWHERE: u32 = 4;

/// `Config::flags`: there is something in `VIA6`.
pub const CONFIG_VIA6: u32 = 8;

/// [`Schema::magic`]: "WRN1".
pub const SCHEMA_MAGIC: u32 = 0x314e_5257;

layout! {
/// Row 0 of `CONFIG`. Times are idle times in seconds.
pub struct Config {
    /// `SO_NETNS_COOKIE` of the node's network namespace: the socket hooks serve only processes in
    /// it.
    pub netns_cookie: u64,
    /// `CONFIG_*`.
    pub flags: u32,
    /// The source a container sees when it reaches itself through its own published port. Must be
    /// an address that nobody has and that the container's default route covers.
    pub hairpin: [u8; 4],
    /// TCP before the client's final ACK.
    pub half_open: u32,
    /// TCP, established.
    pub established: u32,
    /// TCP after one FIN.
    pub closing: u32,
    /// TCP after both FINs or a reset: how long the tuple is not given to others.
    pub closed: u32,
    /// UDP without an answer so far.
    pub udp_one_way: u32,
    /// UDP with traffic both ways.
    pub udp_both_ways: u32,
    /// ICMP echo.
    pub icmp: u32,
    /// First port (or echo identifier) that masquerading uses.
    pub masquerade_first: u16,
    /// Last port that masquerading uses; not below the first.
    pub masquerade_last: u16,
    /// What the IPv4 addresses of all containers have in common.
    pub containers: [u8; 4],
    /// The bits of it that count; none: any address may be a container's.
    pub containers_mask: [u8; 4],
    /// The same of the first half of their IPv6 addresses.
    pub containers6: [u8; 8],
    /// The bits of that.
    pub containers6_mask: [u8; 8],
}
}

impl Config {
    /// What the agent starts from: enabled, nothing known of the node yet.
    pub const DEFAULT: Self = Self {
        netns_cookie: 0,
        flags: CONFIG_ENABLED,
        hairpin: [169, 254, 1, 2],
        half_open: 30,
        established: 86_400,
        closing: 120,
        closed: 10,
        udp_one_way: 30,
        udp_both_ways: 120,
        icmp: 30,
        masquerade_first: super::MASQUERADE_FIRST,
        masquerade_last: super::MASQUERADE_LAST,
        containers: [0; 4],
        containers_mask: [0; 4],
        containers6: [0; 8],
        containers6_mask: [0; 8],
    };
}

layout! {
/// Row 0 of `SCHEMA`, written by the agent that made the maps and compared by every later one.
pub struct Schema {
    /// [`SCHEMA_MAGIC`].
    pub magic: u32,
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    pub version: u32,
    /// [`ABI_HASH`](super::ABI_HASH).
    pub abi_hash: u64,
}
}

impl Schema {
    /// What this build writes and expects.
    pub const CURRENT: Self =
        Self { magic: SCHEMA_MAGIC, version: super::SCHEMA_VERSION, abi_hash: super::ABI_HASH };
}
