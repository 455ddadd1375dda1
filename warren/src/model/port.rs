//! Published ports: `-p [ip:]published:target[/protocol]`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

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

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortSpec {
    /// Only on this address of the node; everywhere when `None`.
    pub host_ip: Option<IpAddr>,
    /// The port clients use, 1–65535.
    pub published: u16,
    /// The port the container listens on, 1–65535.
    pub target: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Why the text is not a published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not of the form at all.
    #[error("bad port \"{0}\": write it as [IP:]PUBLISHED:TARGET[/tcp], for example 8080:80")]
    Form(String),
    /// A number out of range.
    #[error("bad port \"{text}\": {number} is not a port; ports are 1 to 65535")]
    Number {
        /// What was written.
        text: String,
        /// The part that is wrong.
        number: String,
    },
    /// A protocol that is not published.
    #[error("bad port \"{text}\": protocol {protocol} cannot be published; write /tcp or leave it away")]
    Protocol {
        /// What was written.
        text: String,
        /// The protocol asked for.
        protocol: String,
    },
    /// An address that is not an IPv4 address.
    #[error(
        "bad port \"{text}\": {address} is not an IPv4 address of a node; write for example 192.0.2.1:8080:80"
    )]
    Address {
        /// What was written.
        text: String,
        /// The part that is wrong.
        address: String,
    },
}

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or(text), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => {
                return Err(PortError::Protocol { text: text.into(), protocol: other.into() });
            }
        };
        let number = |n: &str| match n.parse::<u16>() {
            Ok(p) if p != 0 && !n.starts_with('+') => Ok(p),
            _ => Err(PortError::Number { text: text.into(), number: n.into() }),
        };
        let mut parts = ports.rsplitn(3, ':');
        let (Some(target), Some(published)) = (parts.next(), parts.next()) else {
            return Err(PortError::Form(text.into()));
        };
        if target.is_empty() || published.is_empty() {
            return Err(PortError::Form(text.into()));
        }
        let host_ip = match parts.next() {
            None => None,
            Some(ip) => match ip.parse::<Ipv4Addr>() {
                // 0.0.0.0 is how Docker's users write "everywhere".
                Ok(a) if a.is_unspecified() => None,
                Ok(a) if !a.is_multicast() && !a.is_broadcast() => Some(IpAddr::V4(a)),
                _ => return Err(PortError::Address { text: text.into(), address: ip.into() }),
            },
        };
        Ok(Self { host_ip, published: number(published)?, target: number(target)?, protocol })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V4(a)) => write!(f, "{a}:")?,
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.published, self.target, self.protocol)
    }
}

impl PortSpec {
    /// Whether two published ports cannot both exist: same port and protocol, and an address in
    /// common.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        self.published == other.published
            && self.protocol == other.protocol
            && (self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let p: PortSpec = "8080:80".parse().unwrap();
        assert_eq!((p.host_ip, p.published, p.target, p.protocol), (None, 8080, 80, Protocol::Tcp));
        assert_eq!("8080:80/tcp".parse(), Ok(p));
        assert_eq!("0.0.0.0:8080:80".parse(), Ok(p));
        let q: PortSpec = "127.0.0.1:8080:80".parse().unwrap();
        assert_eq!(q.host_ip, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(q.to_string(), "127.0.0.1:8080:80/tcp");
        for bad in [
            "",
            "80",
            ":",
            "8080:",
            ":80",
            "0:80",
            "80:0",
            "65536:80",
            "80:x",
            "a:80:80",
            "8080:80/sctp",
            "8080:80/",
            "1.2.3:80:80",
            "::1:80:80",
            "+80:80",
            "8080:80/tcp/tcp",
        ] {
            assert!(bad.parse::<PortSpec>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn conflicts_need_a_common_address() {
        let p = |s: &str| s.parse::<PortSpec>().unwrap();
        assert!(p("80:1").conflicts(&p("80:2")));
        assert!(p("80:1").conflicts(&p("10.0.0.1:80:2")));
        assert!(!p("10.0.0.2:80:1").conflicts(&p("10.0.0.1:80:2")));
        assert!(!p("81:1").conflicts(&p("80:2")));
    }
}
