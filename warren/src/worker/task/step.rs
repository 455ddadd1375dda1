//! What passes between a task's machine and its driver, and the words for how containers end.

use crate::{
    model::{HealthCheck, TaskStatus, Timestamp},
    worker::{
        executor::{ContainerState, Exit, Gate, NetworkNamespace, RuntimeError},
        status_log::Record,
    },
};

/// SIGKILL.
pub const KILL: i32 = 9;

/// Something to do in the world. Each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the network.
    Attach,
    /// Make the container.
    Prepare(NetworkNamespace),
    /// Start it.
    Start,
    /// See what state the container is in.
    Look,
    /// Learn the image's health check.
    Check,
    /// Open to, or close to, new connections.
    Serve(Gate),
    /// Ask it to end, with its stop signal.
    Stop,
    /// Send a signal.
    Kill(i32),
    /// Put a status on disk.
    Record {
        /// The status; see [`Record`] for what its message means.
        status: TaskStatus,
        /// Failed tries of its health check in a row.
        failures: u32,
    },
    /// Remove the container.
    Remove,
    /// Remove the network.
    Detach,
}

/// What the shell is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Do this and report with [`Machine::done`](super::machine::Machine::done).
    Do(Action),
    /// Wait for whichever comes first: a change of the desired state, the end of the container if
    /// `exit`, what comes of a try of its health check if `probe`, or the moment.
    Wait {
        /// Wake up then, if nothing else happens.
        until: Option<Timestamp>,
        /// Whether to wait for the container's end.
        exit: bool,
        /// Whether a try is due: one is to be under way, and only one. If not, none is wanted.
        probe: bool,
    },
    /// Nothing is left to do, ever.
    End,
}

/// What came of an [`Action`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is so.
    Done,
    /// Attached, here.
    Attached(NetworkNamespace),
    /// Started, with this process.
    Started(u32),
    /// What a look showed; `None`: there is no container.
    Seen(Option<ContainerState>),
    /// The image's health check.
    Check(Option<HealthCheck>),
    /// It did not work.
    Failed(Trouble),
}

/// Why something did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Trying again will not help.
    Fatal(String),
    /// Trying again may help.
    Temporary(String),
}

impl From<RuntimeError> for Trouble {
    fn from(e: RuntimeError) -> Self {
        match e {
            RuntimeError::Fatal(s) => Self::Fatal(s),
            RuntimeError::Temporary(s) => Self::Temporary(s),
        }
    }
}

impl Trouble {
    pub(super) fn text(self) -> String {
        match self {
            Self::Fatal(s) | Self::Temporary(s) => s,
        }
    }
}

/// What the world and the disk hold of a task before its machine is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its container.
    pub container: Option<ContainerState>,
    /// Whether it has a network.
    pub attached: bool,
    /// Its record.
    pub record: Option<Record>,
}

/// The sentence for a container that ended with a failure. `limit` is its memory's, in bytes.
pub(super) fn describe_exit(exit: Exit, limit: Option<u64>) -> String {
    let end = describe_code(exit.code);
    if !exit.oom_killed {
        return end;
    }
    let limit = match limit {
        Some(bytes) => format!("its limit is {}", memory(bytes)),
        None => "the node had none left".to_owned(),
    };
    match exit.code {
        // The kernel's OOM killer uses this signal.
        code if code == 128 + KILL => format!("killed: out of memory ({limit})"),
        _ => format!("{end}, after one of its processes was killed: out of memory ({limit})"),
    }
}

/// Bytes in the largest unit that shows them exactly.
fn memory(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

fn describe_code(code: i32) -> String {
    const NAMES: [(i32, &str); 12] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (KILL, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
        (31, "SIGSYS"),
    ];
    // Past the last real-time signal it is a status of the program's own choice.
    match code - 128 {
        signal @ 1..=64 => match NAMES.iter().find(|(n, _)| *n == signal) {
            Some((_, name)) => format!("killed by signal {signal} ({name})"),
            None => format!("killed by signal {signal}"),
        },
        _ => format!("exited with status {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        let oom = |code| Exit { code, oom_killed: true };
        for (exit, limit, text) in [
            (Exit::with(3), None, "exited with status 3"),
            (Exit::with(139), None, "killed by signal 11 (SIGSEGV)"),
            (Exit::with(137), Some(64 << 20), "killed by signal 9 (SIGKILL)"),
            (oom(137), Some(64 << 20), "killed: out of memory (its limit is 64 MiB)"),
            (oom(137), Some(3 << 29), "killed: out of memory (its limit is 1536 MiB)"),
            (oom(137), Some(6_000_000), "killed: out of memory (its limit is 6000000 bytes)"),
            (oom(137), None, "killed: out of memory (the node had none left)"),
            (
                oom(1),
                Some(1 << 30),
                "exited with status 1, after one of its processes was killed: out of memory (its limit is 1 GiB)",
            ),
        ] {
            assert_eq!(describe_exit(exit, limit), text);
        }
    }
}
