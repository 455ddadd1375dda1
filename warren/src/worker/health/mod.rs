//! Whether containers work: health checks as Docker has them.
//!
//! - `check`: the check that holds for a task.
//! - `tracker`: what its probes have shown and what follows from it. Pure.
//! - `prober`: tries a container once; `http`, `tcp`, `inside`: how.
//! - `board`: the last results of every task, for who asks.
//!
//! A task's machine owns its [`Tracker`], its runner has the [`Prober`] try the container whenever
//! the tracker says so: one try at a time for a task, each in a tokio task of its own. Results stay
//! on the node; only a change of health goes to the managers, with the task's status.

mod board;
mod check;
mod http;
mod inside;
mod prober;
mod tcp;
mod tracker;

use std::time::Duration;

pub use self::{
    board::{Board, Tries},
    check::Check,
    prober::Prober,
    tracker::{Known, Tracker},
};
use crate::model::Timestamp;

/// Results kept of a task.
pub const KEPT: usize = 5;
/// Bytes of output kept of a try.
pub const MAX_OUTPUT: usize = 4096;
/// Characters of output in a task's message.
const MAX_LINE: usize = 200;

/// What one try showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Whether the container works.
    pub good: bool,
    /// Exit status or HTTP status; 0 when there is none.
    pub code: i32,
    /// What the program printed, the server answered, or what went wrong.
    pub output: String,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It says something of the container.
    Known(ProbeResult),
    /// It could not be made, and not because of the container. One sentence.
    Unknown(String),
}

/// The first [`MAX_LINE`] characters of a text as one line.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The first [`MAX_OUTPUT`] bytes of what may be text.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]).into_owned();
    // A character that was cut, and the marks that stand for what is no text, may have made it longer.
    while text.len() > MAX_OUTPUT {
        text.pop();
    }
    text
}
