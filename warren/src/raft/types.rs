//! openraft's type parameters.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::{NodeId, StoreAction};

openraft::declare_raft_types!(
    /// What our consensus is made of.
    pub(super) Types:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = Peer,
        SnapshotData = std::io::Cursor<Vec<u8>>,
);

pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type Membership = openraft::Membership<u64, Peer>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, Peer>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, Peer>;
pub(super) type StorageError = openraft::StorageError<u64>;

/// A proposal of the store.
///
/// openraft asks for serde of everything; what is stored and sent is the protobuf of `codec`, and
/// serde's form is those bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<u8>", try_from = "Vec<u8>")]
pub(super) struct Command(pub(super) Vec<StoreAction>);

/// What applying an entry gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It was not a proposal.
    Nothing,
    /// Applied; the store's version since.
    Applied(u64),
    /// Refused as a whole.
    Conflict,
}

/// A manager, as the membership records it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peer {
    /// Its node id.
    pub(super) node: String,
    /// Where it listens; empty while the cluster has one manager.
    pub(super) address: String,
}

/// The number openraft knows a node by: the first 64 bits of the hash of its id, so that every
/// manager computes the same without asking.
pub(super) fn voter_number(node: NodeId) -> u64 {
    let hash = Sha256::digest(node.as_str());
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}
