//! The flags that make a service's spec: those of `create` and of `update`.
//!
//! [`Options`] are flags with one value: both commands have them, and each one given replaces what
//! was there; an empty text, or 0 for what has no zero, returns to the default. Lists are
//! [`Lists`] for a new service and [`Changes`] for one there is. How a value is written, `model`'s
//! `parse` knows; what may be asked for, `validate`.

mod changes;
mod clients;
mod health;
mod limits;
mod lists;
mod process;
mod security;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

pub(super) use changes::Changes;
pub(super) use lists::Lists;

use crate::model::{ServiceSpec, parse, validate::Invalid};

/// Flags with one value.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    process: process::Process,
    #[command(flatten)]
    restart: process::Restart,
    #[command(flatten)]
    health: health::Health,
    #[command(flatten)]
    limits: limits::Limits,
    #[command(flatten)]
    clients: clients::Clients,
    #[command(flatten)]
    log: limits::Log,
    #[command(flatten)]
    security: security::Security,
}

impl Options {
    /// Puts what was given into the spec. Reads the files that were named.
    pub(super) fn apply(&self, spec: &mut ServiceSpec) -> anyhow::Result<()> {
        self.clients.apply(&mut spec.limits);
        let task = &mut spec.task;
        self.process.apply(task);
        self.restart.apply(&mut task.restart);
        self.health.apply(&mut task.health)?;
        self.limits.apply(task);
        self.log.apply(&mut task.log);
        self.security.apply(task)
    }
}

/// A value that can be taken back: the empty text is none.
#[derive(Debug, Clone)]
struct Reset<T>(Option<T>);

impl<T: FromStr<Err: fmt::Display>> FromStr for Reset<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|v| Self(Some(v))) }
    }
}

/// Words, as a shell splits them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words(pub(super) Vec<String>);

impl FromStr for Words {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match shlex::split(text) {
            Some(words) => Ok(Self(words)),
            None => Err(Invalid(format!("bad command {text:?}: a quote is not closed"))),
        }
    }
}

/// A stop signal; the empty text is none.
fn stop_signal(text: &str) -> Result<Reset<i32>, Invalid> {
    if text.is_empty() { Ok(Reset(None)) } else { parse::signal(text).map(|n| Reset(Some(n))) }
}

/// Puts an entry of a list of pairs where its name is, or at the end.
fn put<V>(list: &mut Vec<(String, V)>, (name, value): (String, V)) {
    match list.iter_mut().find(|(n, _)| *n == name) {
        Some((_, old)) => *old = value,
        None => list.push((name, value)),
    }
}
