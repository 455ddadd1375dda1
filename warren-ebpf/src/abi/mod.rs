//! The maps: names, capacities, keys and values. Shared by the programs and the agent, compared
//! through [`ABI_HASH`].
//!
//! Addresses are octets, ports are numbers in host order: `bpftool map dump` reads like a table.
//! Every struct is padded explicitly; pads are zero (they take part in keys). `A` is `[u8; 4]` or
//! `[u8; 16]`: each map whose name ends in 4 has a twin for IPv6, of the same structs, whose name
//! ends in 6.
//!
//! | map | type | key → value | who writes |
//! |---|---|---|---|
//! | `CONFIG` | array, 1 | 0 → [`Config`] | agent |
//! | `SCHEMA` | array, 1 | 0 → [`Schema`] | agent, once |
//! | `SVC4` | hash | [`ServiceKey`] → [`Service`] | agent |
//! | `SRC4` | LPM trie | [`SourceKey`] → 1 (u32) | agent |
//! | `BACKEND` | array | backend id → [`Backend`] | agent |
//! | `MAGLEV` | array | row → [`BackendRef`] | agent |
//! | `EP4` | hash | container address → [`BackendRef`] | agent |
//! | `LINK` | hash | ifindex of a container's host veth → [`BackendRef`] | agent |
//! | `LOCAL4` | hash | address of the node → [`Local`] | agent |
//! | `ROUTE4` | LPM trie | prefix → [`Route`] | agent |
//! | `MAC` | hash | ifindex of a device of the node → [`Mac`] | agent |
//! | `VIA6` | hash | ifindex of a device of the node → [`Via`] | agent |
//! | `LIMIT` | hash | [`Service::id`] (u32) → [`Limit`] | agent |
//! | `DENY4` | LPM trie | prefix → 1 (u32) | agent |
//! | `CLIENT4` | LRU hash | [`ClientKey`] → [`Client`] | programs |
//! | `SEAT4` | LRU hash | [`SeatKey`] → [`Seat`] | programs |
//! | `GATE` | array, 2 | `GATE4`, `GATE6` → [`Gate`] | programs |
//! | `FLOW_NEW4`, `FLOW_EST4` | LRU hash | [`FlowKey`] → [`Flow`] | programs |
//! | `FWD_NEW4`, `FWD_EST4` | LRU hash | [`ForwardKey`] → [`Forward`] | programs |
//! | `MASQ_RET4` | LRU hash | [`ReturnKey`] → [`Return`] | programs |
//! | `MASQ_OUT4` | LRU hash | [`EgressKey`] → [`Egress`] | programs |
//! | `FRAG4` | LRU hash | [`PieceKey`] → [`Piece`] | programs |
//! | `SOCK4` | LRU hash | socket cookie (u64) → [`SocketPeer`] | programs |
//! | `SOCK_UDP4` | LRU hash | [`SocketKey`] → [`SocketFlow`] | programs |
//! | `DROPS` | per-CPU array | [`Reason`], [`EARLY`] + [`Reason`] → [`DropCounter`] | programs |
//! | `EVENTS` | ring buffer | [`Event`] | programs |
//! | `SCRATCH` | per-CPU array, 1 | room to work in, [`Scratch`] | programs |

mod config;
mod flow;
mod layout;
mod limit;
mod masquerade;
mod node;
#[cfg(feature = "user")]
pub mod older;
mod report;
mod service;
mod words;

pub use config::*;
pub use flow::*;
pub use layout::{Layout, SEED, mix, mix_bytes};
pub use limit::*;
pub use masquerade::*;
pub use node::*;
pub use report::*;
pub use service::*;
pub use words::Words;

/// An address of one family, as octets.
pub trait Address: Copy + Eq + Default + AsRef<[u8]> + core::fmt::Debug + core::hash::Hash + 'static {
    /// No address.
    const ZERO: Self;

    /// IP protocol number of the family's ICMP.
    const ICMP: u8;

    /// The IP version, as [`Event::family`] says it.
    const FAMILY: u8;

    /// Whether there may be backends without an address of the family; theirs is all zero.
    const OPTIONAL: bool;

    /// The address in 16 bytes: an IPv4 address is the first four of them.
    fn widen(&self) -> [u8; 16];

    /// What fills a struct with one address of the family, and all else whole words of 4 bytes, up to
    /// a multiple of 8 bytes.
    type Fill: Copy + Eq + Default + core::fmt::Debug + core::hash::Hash + 'static;

    /// Folds the address into one word.
    fn fold(&self) -> u32;

    /// 0 if it is the same address as another one.
    fn difference(&self, other: &Self) -> u32;

    /// Whether nobody beyond the link can have it: "this" network, loopback, link-local IPv6,
    /// multicast, reserved, broadcast.
    fn undeliverable(&self) -> bool;

    /// A backend's address of this family.
    fn of(backend: &Backend) -> Self;

    /// Row of `GATE` of the family.
    const GATE: u32;

    /// [`Gate`] of the family: nanoseconds between two clients, and how many at once.
    const NEWCOMERS: (u32, u32);

    /// [`ClientKey::network`] of the address.
    fn network(&self) -> [u8; 8];

    /// Whether it may be a container's: a look at two numbers that spares most traffic a look-up.
    fn may_be_inside(&self, config: &Config) -> bool;

    /// [`Config::hairpin`] of this family.
    fn hairpin(config: &Config) -> Self;
}

impl Address for [u8; 4] {
    const ZERO: Self = [0; 4];
    const ICMP: u8 = ICMP;
    const FAMILY: u8 = 4;
    const OPTIONAL: bool = false;
    const GATE: u32 = GATE4;
    const NEWCOMERS: (u32, u32) = (NEWCOMER_SPACING4, NEWCOMER_BURST4);

    type Fill = [u8; 0];

    #[inline(always)]
    fn widen(&self) -> [u8; 16] {
        let [a, b, c, d] = *self;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn fold(&self) -> u32 {
        u32::from_le_bytes(*self)
    }

    #[inline(always)]
    fn difference(&self, other: &Self) -> u32 {
        self.fold() ^ other.fold()
    }

    #[inline(always)]
    fn undeliverable(&self) -> bool {
        matches!(self[0], 0 | 127 | 224..)
    }

    #[inline(always)]
    fn of(backend: &Backend) -> Self {
        backend.address
    }

    #[inline(always)]
    fn network(&self) -> [u8; 8] {
        let [a, b, c, d] = *self;
        [a, b, c, d, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn may_be_inside(&self, config: &Config) -> bool {
        self.difference(&config.containers) & config.containers_mask.fold() == 0
    }

    #[inline(always)]
    fn hairpin(config: &Config) -> Self {
        config.hairpin
    }
}

impl Address for [u8; 16] {
    const ZERO: Self = [0; 16];
    const ICMP: u8 = ICMP6;
    const FAMILY: u8 = 6;
    const OPTIONAL: bool = true;
    const GATE: u32 = GATE6;
    const NEWCOMERS: (u32, u32) = (NEWCOMER_SPACING6, NEWCOMER_BURST6);

    type Fill = [u8; 4];

    #[inline(always)]
    fn widen(&self) -> [u8; 16] {
        *self
    }

    #[inline(always)]
    fn fold(&self) -> u32 {
        let mut word = 0u32;
        let mut i = 0;
        while i < 4 {
            let part = [self[4 * i], self[4 * i + 1], self[4 * i + 2], self[4 * i + 3]];
            word = word.rotate_left(7) ^ u32::from_le_bytes(part);
            i += 1;
        }
        word
    }

    #[inline(always)]
    fn difference(&self, other: &Self) -> u32 {
        let mut word = 0u32;
        let mut i = 0;
        while i < 4 {
            let at = |a: &Self| u32::from_le_bytes([a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]]);
            word |= at(self) ^ at(other);
            i += 1;
        }
        word
    }

    #[inline(always)]
    fn undeliverable(&self) -> bool {
        matches!(
            self,
            [0xff, ..] | [0xfe, 0x80..=0xbf, ..] | [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 | 1]
        )
    }

    #[inline(always)]
    fn of(backend: &Backend) -> Self {
        backend.address6
    }

    #[inline(always)]
    fn network(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = *self;
        [a, b, c, d, e, f, g, h]
    }

    #[inline(always)]
    fn may_be_inside(&self, config: &Config) -> bool {
        inside6(u64::from_ne_bytes(self.network()), config)
    }

    #[inline(always)]
    fn hairpin(config: &Config) -> Self {
        // The IPv4 one under fe80::/64: what makes that one free makes this one free.
        let [a, b, c, d] = config.hairpin;
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
    }
}

/// [`Address::may_be_inside`] of the first half of an IPv6 address.
#[inline(always)]
fn inside6(half: u64, config: &Config) -> bool {
    (half ^ u64::from_ne_bytes(config.containers6)) & u64::from_ne_bytes(config.containers6_mask) == 0
}

/// Version of the pin directory (`v<this>`): raised when old and new programs cannot live on the
/// same maps although the layout is the same.
pub const SCHEMA_VERSION: u32 = 1;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMP6: u8 = 58;

/// First port used for masquerading; above the kernel's ephemeral range (32768–60999).
pub const MASQUERADE_FIRST: u16 = 61_000;
/// Last port used for masquerading.
pub const MASQUERADE_LAST: u16 = 65_535;

/// Programs, by the name they have in the object.
pub mod program {
    /// Ingress of a device with Ethernet headers that is not ours.
    pub const NODE_IN_L2: &str = "node_in_l2";
    /// Ingress of a device without link headers (tun, wireguard, wwan).
    pub const NODE_IN_L3: &str = "node_in_l3";
    /// Ingress of the node's end of a container's veth.
    pub const VETH_IN: &str = "veth_in";
    /// XDP, of devices with Ethernet headers that are not ours: what is refused, dropped early.
    pub const GUARD: &str = "guard";
    /// cgroup, connect4.
    pub const SOCK_CONNECT4: &str = "sock_connect4";
    /// cgroup, sendmsg4.
    pub const SOCK_SENDMSG4: &str = "sock_sendmsg4";
    /// cgroup, recvmsg4.
    pub const SOCK_RECVMSG4: &str = "sock_recvmsg4";
    /// cgroup, getpeername4.
    pub const SOCK_GETPEER4: &str = "sock_getpeer4";
    /// cgroup, connect6.
    pub const SOCK_CONNECT6: &str = "sock_connect6";
    /// cgroup, sendmsg6.
    pub const SOCK_SENDMSG6: &str = "sock_sendmsg6";
    /// cgroup, recvmsg6.
    pub const SOCK_RECVMSG6: &str = "sock_recvmsg6";
    /// cgroup, getpeername6.
    pub const SOCK_GETPEER6: &str = "sock_getpeer6";
}

/// Maps, by name: at most 15 characters, the kernel cuts longer ones.
pub mod map {
    /// [`Config`](super::Config).
    pub const CONFIG: &str = "CONFIG";
    /// [`Schema`](super::Schema).
    pub const SCHEMA: &str = "SCHEMA";
    /// Published ports.
    pub const SVC4: &str = "SVC4";
    /// Whom published ports answer.
    pub const SRC4: &str = "SRC4";
    /// Backends by id.
    pub const BACKEND: &str = "BACKEND";
    /// Rows of all Maglev tables.
    pub const MAGLEV: &str = "MAGLEV";
    /// Containers by address.
    pub const EP4: &str = "EP4";
    /// Containers by device.
    pub const LINK: &str = "LINK";
    /// The node's addresses.
    pub const LOCAL4: &str = "LOCAL4";
    /// The node's routes.
    pub const ROUTE4: &str = "ROUTE4";
    /// Link-layer addresses of the node's devices.
    pub const MAC: &str = "MAC";
    /// Half-open flows.
    pub const FLOW_NEW4: &str = "FLOW_NEW4";
    /// Established flows.
    pub const FLOW_EST4: &str = "FLOW_EST4";
    /// Forward records of half-open flows.
    pub const FWD_NEW4: &str = "FWD_NEW4";
    /// Forward records of established flows.
    pub const FWD_EST4: &str = "FWD_EST4";
    /// Masquerading, by what the answer shows.
    pub const MASQ_RET4: &str = "MASQ_RET4";
    /// Masquerading, by what the container sends.
    pub const MASQ_OUT4: &str = "MASQ_OUT4";
    /// Where the first fragments of packets went.
    pub const FRAG4: &str = "FRAG4";
    /// Rewritten sockets of the node's processes.
    pub const SOCK4: &str = "SOCK4";
    /// Datagrams of the node's processes.
    pub const SOCK_UDP4: &str = "SOCK_UDP4";
    /// Drop counters.
    pub const DROPS: &str = "DROPS";
    /// Events.
    pub const EVENTS: &str = "EVENTS";

    /// `SVC4` for IPv6.
    pub const SVC6: &str = "SVC6";
    /// `SRC4` for IPv6.
    pub const SRC6: &str = "SRC6";
    /// `EP4` for IPv6.
    pub const EP6: &str = "EP6";
    /// `LOCAL4` for IPv6.
    pub const LOCAL6: &str = "LOCAL6";
    /// `ROUTE4` for IPv6.
    pub const ROUTE6: &str = "ROUTE6";
    /// `FLOW_NEW4` for IPv6.
    pub const FLOW_NEW6: &str = "FLOW_NEW6";
    /// `FLOW_EST4` for IPv6.
    pub const FLOW_EST6: &str = "FLOW_EST6";
    /// `FWD_NEW4` for IPv6.
    pub const FWD_NEW6: &str = "FWD_NEW6";
    /// `FWD_EST4` for IPv6.
    pub const FWD_EST6: &str = "FWD_EST6";
    /// `MASQ_RET4` for IPv6.
    pub const MASQ_RET6: &str = "MASQ_RET6";
    /// `MASQ_OUT4` for IPv6.
    pub const MASQ_OUT6: &str = "MASQ_OUT6";
    /// `FRAG4` for IPv6.
    pub const FRAG6: &str = "FRAG6";
    /// `SOCK4` for IPv6.
    pub const SOCK6: &str = "SOCK6";
    /// `SOCK_UDP4` for IPv6.
    pub const SOCK_UDP6: &str = "SOCK_UDP6";
    /// [`Scratch`](super::Scratch).
    pub const SCRATCH: &str = "SCRATCH";

    /// What one client gets of a service's ports.
    pub const LIMIT: &str = "LIMIT";
    /// Whom published ports never answer.
    pub const DENY4: &str = "DENY4";
    /// `DENY4` for IPv6.
    pub const DENY6: &str = "DENY6";
    /// What clients of limited ports have used up.
    pub const CLIENT4: &str = "CLIENT4";
    /// `CLIENT4` for IPv6.
    pub const CLIENT6: &str = "CLIENT6";
    /// Flows that clients of limited ports have.
    pub const SEAT4: &str = "SEAT4";
    /// `SEAT4` for IPv6.
    pub const SEAT6: &str = "SEAT6";
    /// How many clients become known.
    pub const GATE: &str = "GATE";
    /// Routers of IPv6 by device.
    pub const VIA6: &str = "VIA6";

    /// Every map.
    pub const ALL: [&str; 46] = [
        CONFIG, SCHEMA, SVC4, SRC4, BACKEND, MAGLEV, EP4, LINK, LOCAL4, ROUTE4, FLOW_NEW4, FLOW_EST4,
        FWD_NEW4, FWD_EST4, MASQ_RET4, MASQ_OUT4, FRAG4, SOCK4, SOCK_UDP4, SVC6, SRC6, EP6, LOCAL6, ROUTE6,
        FLOW_NEW6, FLOW_EST6, FWD_NEW6, FWD_EST6, MASQ_RET6, MASQ_OUT6, FRAG6, SOCK6, SOCK_UDP6, DROPS,
        EVENTS, SCRATCH, LIMIT, DENY4, DENY6, CLIENT4, CLIENT6, GATE, SEAT4, SEAT6, MAC, VIA6,
    ];
}

/// Capacities in the object. The agent may set others when it makes the maps (they are no part of
/// [`ABI_HASH`]); `BACKEND` must keep its.
pub mod capacity {
    /// `SVC4`, `SVC6`.
    pub const SERVICES: usize = 16_384;
    /// `SRC4`, `SRC6`: twice what a cluster may publish for, so that new sets are there before old ones go.
    pub const SOURCES: usize = 16_384;
    /// `BACKEND`: every backend id.
    pub const BACKENDS: usize = 65_536;
    /// `MAGLEV`.
    pub const MAGLEV_ROWS: usize = 131_072;
    /// `EP4`, `EP6`, `LINK`.
    pub const CONTAINERS: usize = 4_096;
    /// `LOCAL4`, `LOCAL6`.
    pub const LOCALS: usize = 1_024;
    /// `ROUTE4`, `ROUTE6`.
    pub const ROUTES: usize = 16_384;
    /// `MAC`, `VIA6`: twice the devices that are looked at, so that new rows are there before old ones go.
    pub const DEVICES: usize = 4_096;
    /// `FLOW_NEW4`, `FWD_NEW4`.
    pub const HALF_OPEN: usize = 16_384;
    /// `FLOW_EST4`, `FWD_EST4`.
    pub const ESTABLISHED: usize = 65_536;
    /// `MASQ_RET4`, `MASQ_OUT4`.
    pub const MASQUERADE: usize = 65_536;
    /// `SOCK4`, `SOCK_UDP4`.
    pub const SOCKETS: usize = 16_384;
    /// `FLOW_NEW6`, `FWD_NEW6`, for a few CPUs.
    pub const HALF_OPEN6: usize = 4_096;
    /// `FLOW_EST6`, `FWD_EST6`.
    pub const ESTABLISHED6: usize = 8_192;
    /// `MASQ_RET6`, `MASQ_OUT6`.
    pub const MASQUERADE6: usize = 4_096;
    /// `FRAG4`.
    pub const FRAGMENTED: usize = 4_096;
    /// `FRAG6`, for a few CPUs.
    pub const FRAGMENTED6: usize = 1_024;
    /// `SOCK6`, `SOCK_UDP6`.
    pub const SOCKETS6: usize = 2_048;
    /// `LIMIT`: twice what a cluster may limit, so that new rows are there before old ones go.
    pub const LIMITS: usize = 4_096;
    /// `DENY4`, `DENY6`.
    pub const DENIED: usize = 16_384;
    /// `CLIENT4`.
    pub const CLIENTS: usize = 16_384;
    /// `CLIENT6`, for a few CPUs.
    pub const CLIENTS6: usize = 2_048;
    /// `SEAT4`. What is more of flows than this is not counted.
    pub const SEATS: usize = 8_192;
    /// `SEAT6`, for a few CPUs.
    pub const SEATS6: usize = 2_048;
    /// `DROPS`: with room for reasons to come.
    pub const REASONS: usize = 64;
    /// `EVENTS`, in bytes.
    pub const EVENT_BYTES: usize = 65_536;
}

/// Hash of everything two binaries must agree on to share maps.
pub const ABI_HASH: u64 = {
    let parts = [
        Config::HASH,
        Schema::HASH,
        ServiceKey::<[u8; 4]>::HASH,
        Service::HASH,
        SourceKey::<[u8; 4]>::HASH,
        BackendRef::HASH,
        Backend::HASH,
        Local::HASH,
        Route::<[u8; 4]>::HASH,
        FlowKey::<[u8; 4]>::HASH,
        Flow::<[u8; 4]>::HASH,
        ForwardKey::<[u8; 4]>::HASH,
        Forward::HASH,
        ReturnKey::<[u8; 4]>::HASH,
        Return::<[u8; 4]>::HASH,
        EgressKey::<[u8; 4]>::HASH,
        Egress::<[u8; 4]>::HASH,
        SocketPeer::<[u8; 4]>::HASH,
        SocketKey::<[u8; 4]>::HASH,
        SocketFlow::<[u8; 4]>::HASH,
        DropCounter::HASH,
        Event::HASH,
        ServiceKey::<[u8; 16]>::HASH,
        Route::<[u8; 16]>::HASH,
        FlowKey::<[u8; 16]>::HASH,
        Flow::<[u8; 16]>::HASH,
        ForwardKey::<[u8; 16]>::HASH,
        ReturnKey::<[u8; 16]>::HASH,
        Return::<[u8; 16]>::HASH,
        EgressKey::<[u8; 16]>::HASH,
        Egress::<[u8; 16]>::HASH,
        SourceKey::<[u8; 16]>::HASH,
        SocketPeer::<[u8; 16]>::HASH,
        SocketKey::<[u8; 16]>::HASH,
        SocketFlow::<[u8; 16]>::HASH,
        PieceKey::<[u8; 4]>::HASH,
        Piece::<[u8; 4]>::HASH,
        PieceKey::<[u8; 16]>::HASH,
        Piece::<[u8; 16]>::HASH,
        Scratch::HASH,
        Traffic::HASH,
        Limit::HASH,
        ClientKey::HASH,
        Client::HASH,
        Gate::HASH,
        SeatKey::HASH,
        Seat::<[u8; 4]>::HASH,
        Seat::<[u8; 16]>::HASH,
        Mac::HASH,
        Via::HASH,
    ];
    let mut hash = SEED;
    let mut i = 0;
    while i < parts.len() {
        hash = mix(hash, parts[i]);
        i += 1;
    }
    let mut i = 0;
    while i < map::ALL.len() {
        assert!(map::ALL[i].len() <= 15, "the kernel cuts map names at 15 characters");
        hash = mix_bytes(hash, map::ALL[i].as_bytes());
        i += 1;
    }
    hash
};

const _: () = assert!(Reason::ALL.len() <= capacity::REASONS);

#[cfg(test)]
mod tests;
