//! What the programs tell: `DROPS` counts per reason and CPU, `EVENTS` carries an [`Event`] for the
//! first drop per reason, CPU and second.

use crate::layout;

/// Why a packet was dropped: rows of `DROPS`. Only what is surely ours is ever dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Reason {
    /// A container sent from an address that is not its own, or a device that is no container's.
    Spoofed = 0,
    /// A container sent something that is neither IP nor ARP.
    Protocol = 1,
    /// A container sent a header that is cut off or contradicts itself.
    Malformed = 2,
    /// A container sent a fragment, not the first, of a packet that nothing is known of, to somewhere else than
    /// the node.
    Fragment = 3,
    /// A container sent to an address that nothing leads to.
    NoRoute = 4,
    /// No port was free for masquerading.
    PortsExhausted = 5,
    /// A container went on with a TCP connection, or reported an error with a packet, that nothing is known
    /// of.
    NoFlow = 6,
    /// A container sent TCP, UDP or ICMP of a kind that is not masqueraded.
    NotMasqueraded = 7,
    /// The kernel refused to rewrite the packet.
    Rewrite = 8,
    /// A container sent multicast or broadcast.
    Multicast = 9,
    /// Somebody outside sent to a container's own address: only published ports lead in.
    Unpublished = 10,
    /// A client asked for a port that was published for others.
    Refused = 11,
    /// A client that is on the node's deny list.
    Denied = 12,
    /// A client began more flows than a port takes of one.
    FlowRate = 13,
    /// A client sent more packets than a port takes of one.
    PacketRate = 14,
    /// More clients became new to ports with limits than are let in at once.
    Newcomers = 15,
    /// A client had as many flows as a port takes of one.
    Connections = 16,
    /// A container sent more than the device takes by which it would leave, and was told the size.
    TooBig = 17,
}

/// Row of `DROPS` for what the guard has dropped: this and the [`Reason`].
pub const EARLY: u32 = 32;

const _: () = assert!(Reason::ALL.len() <= EARLY as usize && 2 * EARLY as usize <= super::capacity::REASONS);

impl Reason {
    /// Every reason, in the order of the rows.
    pub const ALL: [Self; 18] = [
        Self::Spoofed,
        Self::Protocol,
        Self::Malformed,
        Self::Fragment,
        Self::NoRoute,
        Self::PortsExhausted,
        Self::NoFlow,
        Self::NotMasqueraded,
        Self::Rewrite,
        Self::Multicast,
        Self::Unpublished,
        Self::Refused,
        Self::Denied,
        Self::FlowRate,
        Self::PacketRate,
        Self::Newcomers,
        Self::Connections,
        Self::TooBig,
    ];

    /// A short name for tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spoofed => "spoofed",
            Self::Protocol => "protocol",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::NoRoute => "no-route",
            Self::PortsExhausted => "ports-exhausted",
            Self::NoFlow => "no-flow",
            Self::NotMasqueraded => "not-masqueraded",
            Self::Rewrite => "rewrite",
            Self::Multicast => "multicast",
            Self::Unpublished => "unpublished",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::FlowRate => "conn-rate",
            Self::PacketRate => "packet-rate",
            Self::Newcomers => "newcomers",
            Self::Connections => "conns",
            Self::TooBig => "too-big",
        }
    }
}

layout! {
/// A row of `DROPS`, one per CPU.
pub struct DropCounter {
    /// Packets dropped.
    pub packets: u64,
    /// When an event told of it last, nanoseconds of the monotonic clock.
    pub reported: u64,
}
}

/// `Event::kind`: a packet was dropped.
pub const EVENT_DROP: u32 = 1;

layout! {
/// A record of `EVENTS`.
pub struct Event {
    /// When, nanoseconds of the monotonic clock, coarse.
    pub time: u64,
    /// `EVENT_*`.
    pub kind: u32,
    /// [`Reason`] of a drop.
    pub reason: u32,
    /// Device the packet came in by.
    pub ifindex: u32,
    /// The packet's length in bytes.
    pub length: u32,
    /// Source address, IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port, 0 when unknown.
    pub source_port: u16,
    /// Destination port, 0 when unknown.
    pub destination_port: u16,
    /// IP protocol, 0 when unknown.
    pub protocol: u8,
    /// 4 or 6; 0 when it is no IP packet.
    pub family: u8,
    /// Zero.
    pub pad: u16,
}
}
