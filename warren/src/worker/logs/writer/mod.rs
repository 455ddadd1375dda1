//! The process that writes one container's output to disk: reads the container's two pipes until
//! their ends and writes files in Kubernetes' CRI log format.
//!
//! ```text
//! stdout pipe ─┐                      ┌▶ 00000001.log (deleted when there are too many)
//!              ├▶ record ─▶ files ────┼▶ 00000002.log
//! stderr pipe ─┘                      └▶ 00000003.log (being written)
//! ```
//!
//! - `record`: bytes to records. Pure.
//! - `files`: numbered files, rotation, a full disk.
//! - `pump`: the loop over the pipes. `sys`: the few calls that std lacks.
//!
//! It is built twice: as this module, for tests and for the format's constants, and by `build.rs`
//! as a program of its own (`main.rs`), which the one binary carries with it and puts on disk. As
//! a mode of the big binary each container would cost six times the memory (relocations alone are
//! more than half a MiB) and several milliseconds at its start. Therefore nothing below this
//! directory uses anything but `std`.

pub mod files;
pub mod pump;
pub mod record;
mod sys;
