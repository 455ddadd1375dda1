//! The rules of what users write: everything that can be known without a node. One place, used by
//! the command line before it asks, by the API before it stores, and by a node before it makes a
//! container, which then knows only what depends on the node.
//!
//! A rule is a function over the spec; [`service`] is all of them, [`task`] those of a container. What is wrong is one sentence
//! that names the flag and says how to mend it.

mod health;
mod mounts;
mod pool;
mod ports;
mod process;
mod resources;
mod security;
#[cfg(test)]
mod tests;

pub use mounts::volume_name;
pub use pool::{pool, pool6};
pub use ports::{MAX_ALL_SOURCES, MAX_LIMITED, MAX_PORTS, MAX_SOURCES, conflict};
pub use process::env_entry;

use std::{
    fmt::Display,
    path::{Component, Path},
};

use super::{ClientLimits, Rate, ServiceSpec, TaskSpec};

/// Most replicas one service may ask for.
pub const MAX_REPLICAS: u32 = 10_000;

/// What is wrong with a spec, in one sentence that says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

fn no(why: impl Into<String>) -> Result<(), Invalid> {
    Err(Invalid(why.into()))
}

/// A service name is a DNS label: 1 to 63 lower-case letters, digits and `-`, beginning with a
/// letter or digit and ending with one.
///
/// # Errors
/// Says what a name may be.
pub fn service_name(name: &str) -> Result<(), Invalid> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let valid = !bytes.is_empty()
        && bytes.len() <= 63
        && ok(bytes[0])
        && ok(bytes[bytes.len() - 1])
        && bytes.iter().all(|&b| ok(b) || b == b'-');
    if valid {
        return Ok(());
    }
    no(format!(
        "bad service name \"{name}\": use 1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit"
    ))
}

/// Every rule a spec must meet by itself, whatever else is in the cluster.
///
/// # Errors
/// The first rule broken.
pub fn service(spec: &ServiceSpec) -> Result<(), Invalid> {
    service_name(&spec.name)?;
    if spec.replicas > MAX_REPLICAS {
        return no(format!(
            "{} replicas are too many: a service may have up to {MAX_REPLICAS}",
            spec.replicas
        ));
    }
    process::labels("--label", &spec.labels)?;
    task(&spec.task)?;
    limits(spec)?;
    ports::check(spec)
}

fn limits(spec: &ServiceSpec) -> Result<(), Invalid> {
    let ClientLimits { conn_rate, packet_rate, conns } = spec.limits;
    let unpublished = |flag: &str, value: &dyn Display| {
        no(format!(
            "{flag} {value} limits clients of published ports and none is published: publish one, or set it to none"
        ))
    };
    if let Some(conns) = conns {
        if spec.publish.is_empty() {
            return unpublished("--limit-conns", &conns);
        }
        let most = ClientLimits::MOST_CONNS;
        if !(1..=most).contains(&conns) {
            return no(format!("bad number {conns} in --limit-conns: it is from 1 to {most}"));
        }
    }
    for (flag, rate) in [("--limit-conn-rate", conn_rate), ("--limit-pps", packet_rate)] {
        let Some(rate) = rate else { continue };
        if spec.publish.is_empty() {
            return unpublished(flag, &rate);
        }
        let possible = 1..=Rate::MOST;
        if !possible.contains(&rate.per_second) || !possible.contains(&rate.burst) {
            return no(format!("bad rate {rate} in {flag}: both numbers are from 1 to {}", Rate::MOST));
        }
    }
    Ok(())
}

/// Every rule that what a container is made of must meet by itself.
///
/// # Errors
/// The first rule broken.
pub fn task(spec: &TaskSpec) -> Result<(), Invalid> {
    process::task(spec)?;
    mounts::task(spec)?;
    security::task(spec)?;
    resources::task(spec)?;
    health::check(&spec.health)
}

/// A path that means the same wherever it is said: absolute, without `..`.
fn absolute(flag: &str, path: &Path) -> Result<(), Invalid> {
    let text = path.display();
    if !path.is_absolute() {
        return no(format!("bad path \"{text}\" in {flag}: write it from the root, beginning with /"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return no(format!("bad path \"{text}\" in {flag}: leave the .. away"));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return no(format!("bad path in {flag}: remove the NUL character"));
    }
    Ok(())
}
