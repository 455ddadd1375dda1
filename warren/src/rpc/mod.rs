//! Transport: how one part of Warren reaches another.
//!
//! Today that is the node's unix socket; whoever may open it (root, and the group the operator
//! gave it to) may do everything.

mod chunks;
mod socket;

pub use chunks::{ChunkReader, chunks};
pub use socket::{DialError, ListenError, dial, dial_lazy, is_free, listen};

/// Largest message either side takes: whole assignments and lists are one message each.
pub const MAX_MESSAGE: usize = 64 << 20;
