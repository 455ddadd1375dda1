//! Health checks.

use super::{Invalid, no};
use crate::model::{HealthCheck, HttpProbe, Probe};

pub(super) fn check(health: &HealthCheck) -> Result<(), Invalid> {
    let options = [
        ("--health-interval", health.interval.is_some(), health.interval.is_some_and(|d| d.is_zero())),
        ("--health-timeout", health.timeout.is_some(), health.timeout.is_some_and(|d| d.is_zero())),
        (
            "--health-start-interval",
            health.start_interval.is_some(),
            health.start_interval.is_some_and(|d| d.is_zero()),
        ),
        ("--health-start-period", health.start_period.is_some(), false),
        ("--health-retries", health.retries.is_some(), health.retries == Some(0)),
    ];
    for (flag, given, zero) in options {
        if zero {
            return no(format!("bad {flag}: write more than 0 or leave it away"));
        }
        if given && health.probe == Some(Probe::Disabled) {
            return no(format!("--no-healthcheck tries nothing and {flag} says how: leave one of them away"));
        }
    }
    match &health.probe {
        None | Some(Probe::Disabled) => Ok(()),
        Some(Probe::Command(words)) => match words.first() {
            Some(program) if !program.is_empty() && words.iter().all(|w| !w.contains('\0')) => Ok(()),
            _ => no("bad --health-cmd: there is no command in it"),
        },
        Some(Probe::Shell(line)) if line.trim().is_empty() || line.contains('\0') => {
            no("bad --health-cmd: there is no command in it")
        }
        Some(Probe::Shell(_)) => Ok(()),
        Some(Probe::Tcp(0)) => no("bad --health-tcp: ports are 1 to 65535"),
        Some(Probe::Tcp(_)) => Ok(()),
        Some(Probe::Http(probe)) => http(probe),
    }
}

fn http(probe: &HttpProbe) -> Result<(), Invalid> {
    if probe.port == 0 {
        return no("bad --health-http: ports are 1 to 65535");
    }
    let is_clean = |t: &str| t.bytes().all(|b| b.is_ascii_graphic());
    if !probe.path.starts_with('/') || !is_clean(&probe.path) {
        return no(format!(
            "bad path \"{}\" in --health-http: it begins with / and has no blanks; write others as %20",
            probe.path
        ));
    }
    if !is_token(&probe.method) || probe.method.bytes().any(|b| b.is_ascii_lowercase()) {
        return no(format!("bad --health-method \"{}\": write one such as GET or HEAD", probe.method));
    }
    for (name, value) in &probe.headers {
        if !is_token(name) || value.contains(|c: char| c.is_control() && c != '\t') {
            return no(format!("bad header \"{name}\" in --health-header: write it as \"NAME: VALUE\""));
        }
    }
    for (first, last) in &probe.statuses {
        if !(100..=599).contains(first) || !(100..=599).contains(last) || first > last {
            return no(format!(
                "bad --health-status {first}-{last}: codes are 100 to 599, the lower one first"
            ));
        }
    }
    Ok(())
}

/// A token of RFC 9110.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
