//! What containers write: kept on disk by a process per container, read from there.
//!
//! - `writer`: that process. `program`: puts it on disk and tells containerd of it.
//! - `keep`: where the files of each task are, and until when.
//! - `format`: one record. `reader`: a task's records in order. `tail`: where the last ones begin.
//!   `follow`: waiting for more.
//!
//! Neither the agent nor containerd is on the way of a line: a container writes into a pipe whose
//! other end is its writer's.

mod follow;
mod format;
mod keep;
mod program;
mod reader;
mod tail;
pub mod writer;

pub use self::{
    follow::{Changes, is_written},
    keep::Logs,
    reader::{Begun, Line, Place, Position, Query, Reader, Step},
};
