//! Consensus: brings the store's proposals to every manager in one order and keeps them.
//!
//! openraft decides; here is what it decides with. One directory:
//!
//! | file | what | written |
//! |---|---|---|
//! | `log.redb` | entries, vote, whose log it is | one durable commit per append |
//! | `snapshot` | the state up to an entry, checksummed | aside, synced, renamed; then the log is purged |
//! | `begun` | empty: a cluster was begun here | once, so that a log that vanished is not taken for a new one |
//!
//! The state itself is in memory ([`crate::store::Replica`]), rebuilt from snapshot and log at
//! every start. A cluster of one runs the same code with one voter; it leads as soon as it has
//! started. A file that is damaged or cannot be written stops the consensus with a sentence that
//! names it: nothing is ever skipped over.

mod codec;
mod error;
mod handle;
mod log;
mod machine;
mod network;
mod proposer;
mod snapshot;
#[cfg(test)]
mod tests;
mod types;

pub use error::RaftError;
pub use handle::{RaftConfig, RaftHandle, start};
