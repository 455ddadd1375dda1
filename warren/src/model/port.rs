//! Published ports. How they are written is in `parse`.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
}

impl Protocol {
    /// IANA protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// On which nodes a published port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PublishMode {
    /// On every node of the cluster.
    #[default]
    Ingress,
    /// On those where a task of the service runs.
    Host,
}

/// Whom a port answers that was published without an address and without sources: what a node is
/// told at its start. The node's own processes are let in in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PublishDefault {
    /// Every source.
    #[default]
    Any,
    /// Sources in the subnets of the node's own devices, in the ranges that are private by
    /// definition, and in the cluster's pools.
    Lan,
    /// Nobody else.
    None,
}

impl PublishDefault {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Lan => "lan",
            Self::None => "none",
        }
    }
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortSpec {
    /// Only on this address of the node; on every address of a family for the unspecified one
    /// (`0.0.0.0`, `::`); everywhere when `None`.
    pub host_ip: Option<IpAddr>,
    /// The port clients use, 1–65535; 0 is one of [`PortSpec::FREE`] that the cluster chooses when
    /// it stores the service.
    pub published: u16,
    /// The port the container listens on, 1–65535.
    pub target: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Only clients of these networks; everybody (or what the node's [`PublishDefault`] says, when
    /// there is no `host_ip` either) when empty.
    pub from: Vec<IpNet>,
    /// On which nodes.
    pub mode: PublishMode,
}

impl PortSpec {
    /// What a published port is chosen from when it is left open: Swarm's range below the kernel's
    /// ephemeral ports.
    pub const FREE: RangeInclusive<u16> = 30_000..=32_767;

    /// Whether two published ports cannot both exist: same port and protocol, and an address in
    /// common. One that is still open is in nobody's way.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        self.published != 0
            && self.published == other.published
            && self.protocol == other.protocol
            && match (self.host_ip, other.host_ip) {
                (Some(a), Some(b)) => {
                    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
                }
                _ => true,
            }
    }

    /// Whether both are the same port of the same address.
    #[must_use]
    pub fn same_place(&self, other: &Self) -> bool {
        (self.published, self.protocol, self.host_ip) == (other.published, other.protocol, other.host_ip)
    }

    /// Whether both lead to the same port of the container, from the same address.
    #[must_use]
    pub fn same_target(&self, other: &Self) -> bool {
        (self.target, self.protocol, self.host_ip) == (other.target, other.protocol, other.host_ip)
    }

    /// Whether it says nothing of who may come in: then [`PublishDefault`] does.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.host_ip.is_none() && self.from.is_empty()
    }
}
