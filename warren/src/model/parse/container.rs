//! Names and values, hosts, devices, ulimits, and the words of small choices.

use std::{net::IpAddr, path::PathBuf, str::FromStr};

use super::bad;
use crate::model::{
    Device, NetworkMode, Propagation, PullPolicy, RestartCondition, Ulimit,
    validate::{self, Invalid},
};

/// `NAME=VALUE`; the value may be left away, with its sign, and is empty then. `what` says what it
/// is in the error.
///
/// # Errors
/// Says how it is written.
pub fn key_value(what: &str, text: &str) -> Result<(String, String), Invalid> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.trim().is_empty() {
        return bad(what, text, "write it as NAME=VALUE");
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// The variables of a file in Docker's format: a line each, `NAME=VALUE` taken as it stands;
/// `NAME` alone takes the caller's value, or is left out; blank lines and those that begin with `#`
/// are skipped. `file` is its name, for the errors.
///
/// # Errors
/// Names the file and the line.
pub fn env_file(
    file: &str,
    content: &[u8],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, Invalid> {
    let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
    let mut found = Vec::new();
    for (n, line) in content.split(|b| *b == b'\n').enumerate() {
        let wrong = |why: &str| Err(Invalid(format!("bad line {} of {file}: {why}", n + 1)));
        let Ok(line) = std::str::from_utf8(line) else {
            return wrong("it is not UTF-8 text; save the file as UTF-8");
        };
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() {
            return wrong("there is no name before the \"=\"; write NAME=VALUE");
        }
        if name.contains(char::is_whitespace) {
            return wrong(&format!("the name \"{name}\" has a blank in it; write NAME=VALUE"));
        }
        let value = value.or_else(|| environment(name));
        if let Some(value) = value {
            match validate::env_entry(&format!("{name}={value}")) {
                Ok(entry) => found.push(entry),
                Err(_) => return wrong("it contains a NUL character; remove it"),
            }
        }
    }
    Ok(found)
}

/// `NAME:IP` or `NAME=IP`, a line of the host table.
///
/// # Errors
/// Says how it is written.
pub fn host_entry(text: &str) -> Result<(String, IpAddr), Invalid> {
    const HOW: &str = "write it as NAME:IP, for example db:192.0.2.7";
    let Some(at) = text.find([':', '=']) else { return bad("host", text, HOW) };
    let (name, ip) = (&text[..at], &text[at + 1..]);
    let ip = ip.strip_prefix('[').and_then(|i| i.strip_suffix(']')).unwrap_or(ip);
    match ip.parse() {
        Ok(ip) if !name.is_empty() => Ok((name.to_owned(), ip)),
        _ => bad("host", text, HOW),
    }
}

/// An address of a name server.
///
/// # Errors
/// Says how it is written.
pub fn address(text: &str) -> Result<IpAddr, Invalid> {
    match text.parse() {
        Ok(ip) => Ok(ip),
        Err(_) => bad("name server", text, "write its IP address, for example 192.0.2.53"),
    }
}

/// `HOST[:CONTAINER[:rwm]]`; the access may stand second, as Docker has it.
impl FromStr for Device {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const HOW: &str = "write it as HOST[:CONTAINER[:rwm]], for example /dev/ttyUSB0:/dev/modem:rw";
        let is_access = |t: &str| !t.is_empty() && t.bytes().all(|b| b"rwm".contains(&b));
        let parts: Vec<_> = text.split(':').collect();
        let (host, container, access) = match parts.as_slice() {
            [host] => (*host, *host, "rwm"),
            [host, access] if is_access(access) => (*host, *host, *access),
            [host, container] => (*host, *container, "rwm"),
            [host, container, access] if is_access(access) => (*host, *container, *access),
            _ => return bad("device", text, HOW),
        };
        if host.is_empty() || container.is_empty() {
            return bad("device", text, HOW);
        }
        let access: String = "rwm".chars().filter(|c| access.contains(*c)).collect();
        Ok(Self { host: host.into(), container: container.into(), access })
    }
}

/// Where a device that was written like this is in the container: what `--device-rm` names.
///
/// # Errors
/// As for a device.
pub fn device_target(text: &str) -> Result<PathBuf, Invalid> {
    text.parse::<Device>().map(|d| d.container)
}

/// `NAME=SOFT[:HARD]`; −1 and `unlimited` mean no limit.
impl FromStr for Ulimit {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let number = |t: &str| match t {
            "-1" | "unlimited" => Some(u64::MAX),
            t if t.starts_with('+') => None,
            t => t.parse().ok(),
        };
        let parsed = text.split_once('=').and_then(|(name, limits)| {
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            Some((name, number(soft)?, number(hard)?))
        });
        match parsed {
            Some((name, soft, hard)) if !name.is_empty() => Ok(Self { name: name.to_owned(), soft, hard }),
            _ => bad("ulimit", text, "write it as NAME=SOFT[:HARD], for example nofile=1024:4096"),
        }
    }
}

impl FromStr for PullPolicy {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "always" => Ok(Self::Always),
            "missing" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            _ => bad("pull policy", text, "write always, missing or never"),
        }
    }
}

impl FromStr for NetworkMode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "cluster" => Ok(Self::Cluster),
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            _ => bad("network", text, "write cluster, host or none"),
        }
    }
}

impl FromStr for RestartCondition {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "none" => Ok(Self::None),
            "on-failure" => Ok(Self::OnFailure),
            "any" => Ok(Self::Any),
            _ => bad("restart condition", text, "write none, on-failure or any"),
        }
    }
}

impl FromStr for Propagation {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match Self::ALL.into_iter().find(|p| p.name() == text) {
            Some(p) => Ok(p),
            None => bad("propagation", text, "write rprivate, private, rshared, shared, rslave or slave"),
        }
    }
}
