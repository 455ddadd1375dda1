//! Health checks.

use std::str::FromStr;

use super::bad;
use crate::model::{HttpProbe, Probe, validate::Invalid};

/// `http://:PORT[/PATH]` or `https://:PORT[/PATH]`: there is no host, since it is always the
/// container. Method, headers and statuses are at their defaults.
impl FromStr for HttpProbe {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const HOW: &str = "write it as http://:PORT/PATH or https://:PORT/PATH, for example http://:8080/healthz; the host is always the container";
        let (https, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return bad("health check", text, HOW),
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let port = match (authority, authority.strip_prefix(':')) {
            ("", _) => Some(if https { 443 } else { 80 }),
            (_, Some(port)) if !port.starts_with('+') => port.parse().ok().filter(|p| *p != 0),
            _ => None,
        };
        let Some(port) = port else { return bad("health check", text, HOW) };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { https, port, path, method: "GET".into(), headers: Vec::new(), statuses: Vec::new() })
    }
}

/// A line for the container's shell, or, when it begins with `[`, a JSON list of words that is run
/// without one. Docker's own list with `CMD`, `CMD-SHELL` or `NONE` first is understood, too.
///
/// # Errors
/// Says how it is written.
pub fn health_command(text: &str) -> Result<Probe, Invalid> {
    if text.trim().is_empty() {
        return bad("health command", text, "write a command, or use --no-healthcheck");
    }
    if !text.trim_start().starts_with('[') {
        return Ok(Probe::Shell(text.to_owned()));
    }
    // A line can also be a shell's test: `[ -f /ready ]`.
    let Ok(words) = serde_json::from_str::<Vec<String>>(text) else {
        return Ok(Probe::Shell(text.to_owned()));
    };
    match words.split_first() {
        Some((first, [])) if first == "NONE" => Ok(Probe::Disabled),
        Some((first, rest)) if first == "CMD" && !rest.is_empty() => Ok(Probe::Command(rest.to_vec())),
        Some((first, [line])) if first == "CMD-SHELL" => Ok(Probe::Shell(line.clone())),
        Some(_) => Ok(Probe::Command(words)),
        None => bad("health command", text, "the list is empty"),
    }
}

/// Good answers: status codes and ranges of them, `200,204,300-399`.
///
/// # Errors
/// Says how it is written.
pub fn statuses(text: &str) -> Result<Vec<(u16, u16)>, Invalid> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    match text.split(',').map(range).collect() {
        Some(ranges) => Ok(ranges),
        None => bad("list of status codes", text, "write for example 200,204 or 200-399"),
    }
}

/// `NAME: VALUE`, a line of a request; `NAME=VALUE` is understood, too.
///
/// # Errors
/// Says how it is written.
pub fn header(text: &str) -> Result<(String, String), Invalid> {
    match text.split_once([':', '=']) {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => bad("header", text, "write it as \"NAME: VALUE\""),
    }
}
