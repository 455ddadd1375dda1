//! How people write options: Docker's grammar for sizes, durations, mounts and the rest.
//!
//! Each type of an option has its `FromStr` or its function here; the command line uses them, and
//! whatever else reads what a person wrote. They know the form only; what a service may ask for is
//! decided by `validate`. Every error is one sentence that says how it is written.

mod container;
mod health;
mod mount;
mod network;
mod numbers;
mod port;
#[cfg(test)]
mod port_test;
mod rate;
mod security;
mod signal;
#[cfg(test)]
mod tests;

pub use container::{address, device_target, env_file, host_entry, key_value};
pub use health::{header, health_command, statuses};
pub use network::network;
pub use numbers::{cpus, duration, seconds, size, swap};
pub use port::{Ports, Run, written};
pub use rate::{conns, rate};
pub use security::{SecurityOption, capability, sysctl};
pub use signal::{signal, signal_name};

use super::validate::Invalid;

/// A sentence about what was written.
fn bad<T>(what: &str, text: &str, how: &str) -> Result<T, Invalid> {
    Err(Invalid(format!("bad {what} \"{text}\": {how}")))
}

/// A switch's value, as Go's `strconv.ParseBool` takes it: Docker's users write all of these.
fn switch(what: &str, text: &str) -> Result<bool, Invalid> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => bad(what, text, "write true or false"),
    }
}
