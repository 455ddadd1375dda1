//! Docker's `-p [ip:]published[-end]:target[-end][/protocol]` and
//! `--publish published=…,target=…,protocol=…,ip=…,from=…,mode=…`, and how ports are printed: what
//! is printed can be read again.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use ipnet::IpNet;

use super::{bad, mount::fields};
use crate::model::{PortSpec, Protocol, PublishMode, validate::Invalid};

const SHORT: &str = "write it as [IP:]PUBLISHED[-END]:TARGET[-END][/tcp|udp], for example 8080:80";
const KEYS: &str = "there are published, target, protocol, ip, from and mode";

/// The ports that one `-p` publishes: one, or those of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(pub Vec<PortSpec>);

impl FromStr for Ports {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let read = if text.contains('=') { long(text)? } else { short(text)? };
        read.ports(text).map(Self)
    }
}

impl FromStr for PortSpec {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut ports = text.parse::<Ports>()?.0;
        match ports.pop() {
            Some(port) if ports.is_empty() => Ok(port),
            _ => bad("port", text, "one port is meant here, not a range"),
        }
    }
}

/// What was written.
#[derive(Default)]
struct Read {
    ip: Option<IpAddr>,
    /// `None`: any free ones.
    published: Option<RangeInclusive<u16>>,
    target: Option<RangeInclusive<u16>>,
    protocol: Option<Protocol>,
    from: Vec<IpNet>,
    mode: Option<PublishMode>,
}

impl Read {
    fn ports(self, text: &str) -> Result<Vec<PortSpec>, Invalid> {
        let Some(target) = self.target else {
            return bad("port", text, "there is no target, the port the container listens on");
        };
        let count = |range: &RangeInclusive<u16>| usize::from(range.end() - range.start()) + 1;
        let published: Vec<u16> = match self.published {
            None => vec![0; count(&target)],
            Some(range) if count(&range) == count(&target) => range.collect(),
            Some(range) => {
                let (p, t) = (count(&range), count(&target));
                return bad(
                    "port",
                    text,
                    &format!("{p} published and {t} target ports; both ranges must have the same length"),
                );
            }
        };
        let port = |(published, target)| PortSpec {
            host_ip: self.ip,
            published,
            target,
            protocol: self.protocol.unwrap_or(Protocol::Tcp),
            from: self.from.clone(),
            mode: self.mode.unwrap_or_default(),
        };
        Ok(published.into_iter().zip(target).map(port).collect())
    }
}

fn short(text: &str) -> Result<Read, Invalid> {
    let mut read = Read::default();
    let ports = match text.split_once('/') {
        None => text,
        Some((ports, name)) => {
            read.protocol = Some(protocol(text, name)?);
            ports
        }
    };
    let (before, target) = match ports.rsplit_once(':') {
        None => (None, ports),
        Some((before, target)) => (Some(before), target),
    };
    if target.is_empty() {
        return bad("port", text, SHORT);
    }
    read.target = Some(range(text, target)?);
    let Some(before) = before else { return Ok(read) };
    // `IP:PUBLISHED` or `PUBLISHED`; the colons of an IPv6 address are in brackets.
    let published = match before.rsplit_once(':') {
        None => before,
        Some((ip, published)) => {
            read.ip = Some(host_ip(text, ip)?);
            published
        }
    };
    read.published = open_range(text, published)?;
    Ok(read)
}

fn host_ip(text: &str, ip: &str) -> Result<IpAddr, Invalid> {
    if let Some(inside) = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        return match inside.parse::<Ipv6Addr>() {
            Ok(ip) => Ok(ip.into()),
            Err(_) => bad("port", text, &format!("{inside} is no IPv6 address")),
        };
    }
    match ip.parse() {
        Ok(IpAddr::V4(ip)) => Ok(ip.into()),
        Ok(IpAddr::V6(_)) => bad("port", text, &format!("write the IPv6 address in brackets, [{ip}]")),
        Err(_) if ip.contains(':') => {
            bad("port", text, &format!("write an IPv6 address in brackets; {SHORT}"))
        }
        Err(_) => bad("port", text, &format!("{ip} is no IP address of a node; {SHORT}")),
    }
}

fn long(text: &str) -> Result<Read, Invalid> {
    let mut read = Read::default();
    let Some(fields) = fields(text) else {
        return bad("port", text, "a quote is not closed");
    };
    let mut seen: Vec<String> = Vec::new();
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            // `from=10.0.0.0/8,192.168.0.0/16`: what has no name goes on with the sources.
            if seen.last().is_some_and(|key| key == "from") {
                read.from.push(source(text, field)?);
                continue;
            }
            return bad("port", text, &format!("\"{field}\" has no value; {KEYS}"));
        };
        let key = key.to_ascii_lowercase();
        if key != "from" && seen.contains(&key) {
            return bad("port", text, &format!("{key} is there twice"));
        }
        match key.as_str() {
            "published" => read.published = open_range(text, value)?,
            "target" => read.target = Some(range(text, value)?),
            "protocol" => read.protocol = Some(protocol(text, value)?),
            "ip" => {
                let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
                match bare.parse() {
                    Ok(ip) => read.ip = Some(ip),
                    Err(_) => return bad("port", text, &format!("{value} is no IP address of a node")),
                }
            }
            "from" => value.split(',').try_for_each(|v| source(text, v).map(|net| read.from.push(net)))?,
            "mode" => match value.to_ascii_lowercase().as_str() {
                "ingress" => read.mode = Some(PublishMode::Ingress),
                "host" => read.mode = Some(PublishMode::Host),
                _ => return bad("port", text, &format!("the mode {value} is neither ingress nor host")),
            },
            _ => return bad("port", text, &format!("\"{key}\" is not known; {KEYS}")),
        }
        seen.push(key);
    }
    Ok(read)
}

fn protocol(text: &str, name: &str) -> Result<Protocol, Invalid> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => bad("port", text, &format!("protocol \"{name}\" cannot be published; there are tcp and udp")),
    }
}

/// A network; a single address is one, too.
fn source(text: &str, net: &str) -> Result<IpNet, Invalid> {
    match net.parse::<IpNet>().or_else(|e| net.parse::<IpAddr>().map(IpNet::from).map_err(|_| e)) {
        Ok(net) => Ok(net),
        Err(_) => bad(
            "port",
            text,
            &format!(
                "\"{net}\" is no network that clients are in; write from=CIDR, for example from=10.0.0.0/8"
            ),
        ),
    }
}

/// Ports, or none: any that are free.
fn open_range(text: &str, ports: &str) -> Result<Option<RangeInclusive<u16>>, Invalid> {
    if matches!(ports, "" | "0") { Ok(None) } else { range(text, ports).map(Some) }
}

fn range(text: &str, ports: &str) -> Result<RangeInclusive<u16>, Invalid> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (number(text, first)?, number(text, last)?);
    if first > last {
        return bad("port", text, &format!("the range {ports} ends before it begins"));
    }
    Ok(first..=last)
}

fn number(text: &str, number: &str) -> Result<u16, Invalid> {
    match number.parse() {
        Ok(port) if port != 0 && number.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ if number.is_empty() => bad("port", text, SHORT),
        _ => bad("port", text, &format!("{number} is not a port; ports are 1 to 65535")),
    }
}

/// A port, and how many more follow it in both of its numbers.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The first.
    pub first: &'a PortSpec,
    more: u16,
}

impl<'a> Run<'a> {
    /// The ports as runs, each as long as it can be.
    #[must_use]
    pub fn of(ports: &'a [PortSpec]) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for port in ports {
            match runs.last_mut() {
                Some(run) if run.goes_on_with(port) => run.more += 1,
                _ => runs.push(Self { first: port, more: 0 }),
            }
        }
        runs
    }

    fn goes_on_with(&self, port: &PortSpec) -> bool {
        let PortSpec { published, target, .. } = *self.first;
        let Some(ahead) = self.more.checked_add(1) else { return false };
        published != 0
            && published.checked_add(ahead) == Some(port.published)
            && target.checked_add(ahead) == Some(port.target)
            && PortSpec { published, target, ..port.clone() } == *self.first
    }

    fn range(&self, first: u16) -> String {
        match self.more {
            0 => first.to_string(),
            more => format!("{first}-{}", first.saturating_add(more)),
        }
    }

    /// Which ports, without sources and mode.
    #[must_use]
    pub fn short(&self) -> String {
        let PortSpec { host_ip, published, target, protocol, .. } = self.first;
        let ip = match host_ip {
            Some(IpAddr::V4(ip)) => format!("{ip}:"),
            Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
            None => String::new(),
        };
        format!("{ip}{}:{}/{protocol}", self.range(*published), self.range(*target))
    }
}

impl fmt::Display for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortSpec { host_ip, published, target, protocol, from, mode } = self.first;
        if from.is_empty() && *mode == PublishMode::Ingress {
            return f.write_str(&self.short());
        }
        let (published, target) = (self.range(*published), self.range(*target));
        write!(f, "published={published},target={target},protocol={protocol}")?;
        if let Some(ip) = host_ip {
            write!(f, ",ip={ip}")?;
        }
        for (i, net) in from.iter().enumerate() {
            write!(f, "{}{net}", if i == 0 { ",from=" } else { "," })?;
        }
        match mode {
            PublishMode::Ingress => Ok(()),
            PublishMode::Host => f.write_str(",mode=host"),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Run { first: self, more: 0 }.fmt(f)
    }
}

/// How ports are printed in a row of a table: neighbours as ranges.
#[must_use]
pub fn written(ports: &[PortSpec]) -> String {
    Run::of(ports).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
