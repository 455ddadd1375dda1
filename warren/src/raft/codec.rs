//! Bytes of what is stored: protobuf (`raft.proto`), with a checksum where redb has none.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, EntryPayload};
use prost::Message;

use super::types::{Command, Entry, LogId, Membership, Peer, StoredMembership, Vote};
use crate::{
    model::{StoreAction, StoreSnapshot},
    proto::{
        ConvertError,
        v1::{self, log_entry::Payload},
    },
};

/// Why bytes are not what was stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    #[error("a checksum does not fit")]
    Checksum,
    #[error("{0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("{0}")]
    Content(#[from] ConvertError),
    #[error("{0} is missing from a record, or was written by a later version of Warren")]
    Missing(&'static str),
}

/// Puts a checksum before a record: redb verifies pages only after a crash, a disk that rots does
/// so at any time.
pub(super) fn seal(message: &impl Message) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.reserve(message.encoded_len());
    // Encoding into a Vec cannot run out of room.
    let _ = message.encode(&mut out);
    let sum = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out
}

pub(super) fn unseal<M: Message + Default>(bytes: &[u8]) -> Result<M, CodecError> {
    let (sum, body) = bytes.split_first_chunk::<4>().ok_or(CodecError::Checksum)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return Err(CodecError::Checksum);
    }
    Ok(M::decode(body)?)
}

pub(super) fn log_id(id: &LogId) -> v1::LogId {
    v1::LogId { term: id.leader_id.term, voter: id.leader_id.node_id, index: id.index }
}

pub(super) fn to_log_id(id: v1::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.voter), id.index)
}

pub(super) fn vote(v: &Vote) -> v1::Vote {
    v1::Vote { term: v.leader_id.term, voter: v.leader_id.node_id, committed: v.committed }
}

pub(super) fn to_vote(v: v1::Vote) -> Vote {
    if v.committed { Vote::new_committed(v.term, v.voter) } else { Vote::new(v.term, v.voter) }
}

fn membership(m: &Membership) -> v1::Membership {
    v1::Membership {
        groups: m
            .get_joint_config()
            .iter()
            .map(|g| v1::membership::Group { voters: g.iter().copied().collect() })
            .collect(),
        members: m
            .nodes()
            .map(|(voter, peer)| v1::membership::Member {
                voter: *voter,
                node: peer.node.clone(),
                address: peer.address.clone(),
            })
            .collect(),
    }
}

fn to_membership(m: v1::Membership) -> Membership {
    let groups = m.groups.into_iter().map(|g| g.voters.into_iter().collect::<BTreeSet<_>>()).collect();
    let members = m.members.into_iter().map(|m| (m.voter, Peer { node: m.node, address: m.address }));
    Membership::new(groups, members.collect::<BTreeMap<_, _>>())
}

fn proposal(actions: &[StoreAction]) -> v1::Proposal {
    v1::Proposal { actions: actions.iter().map(Into::into).collect() }
}

fn to_actions(p: v1::Proposal) -> Result<Vec<StoreAction>, ConvertError> {
    p.actions.into_iter().map(TryInto::try_into).collect()
}

impl From<Command> for Vec<u8> {
    fn from(c: Command) -> Self {
        proposal(&c.0).encode_to_vec()
    }
}

impl TryFrom<Vec<u8>> for Command {
    type Error = CodecError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, CodecError> {
        Ok(Self(to_actions(v1::Proposal::decode(bytes.as_slice())?)?))
    }
}

pub(super) fn entry(e: &Entry) -> v1::LogEntry {
    let payload = match &e.payload {
        EntryPayload::Blank => Payload::Blank(true),
        EntryPayload::Normal(c) => Payload::Proposal(proposal(&c.0)),
        EntryPayload::Membership(m) => Payload::Membership(membership(m)),
    };
    v1::LogEntry { id: Some(log_id(&e.log_id)), payload: Some(payload) }
}

pub(super) fn to_entry(e: v1::LogEntry) -> Result<Entry, CodecError> {
    Ok(Entry {
        log_id: to_log_id(e.id.ok_or(CodecError::Missing("the id"))?),
        payload: match e.payload.ok_or(CodecError::Missing("the content"))? {
            Payload::Blank(_) => EntryPayload::Blank,
            Payload::Proposal(p) => EntryPayload::Normal(Command(to_actions(p)?)),
            Payload::Membership(m) => EntryPayload::Membership(to_membership(m)),
        },
    })
}

/// A snapshot: its name, the last entry in it, the members at that time, the state.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Snapshot {
    pub(super) id: String,
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) store: StoreSnapshot,
}

pub(super) fn snapshot(s: &Snapshot) -> Vec<u8> {
    v1::SnapshotFile {
        id: s.id.clone(),
        last: s.last.as_ref().map(log_id),
        membership_at: s.membership.log_id().as_ref().map(log_id),
        membership: Some(membership(s.membership.membership())),
        store: Some((&s.store).into()),
    }
    .encode_to_vec()
}

pub(super) fn to_snapshot(bytes: &[u8]) -> Result<Snapshot, CodecError> {
    let s = v1::SnapshotFile::decode(bytes)?;
    let members = to_membership(s.membership.ok_or(CodecError::Missing("the membership"))?);
    Ok(Snapshot {
        id: s.id,
        last: s.last.map(to_log_id),
        membership: StoredMembership::new(s.membership_at.map(to_log_id), members),
        store: s.store.ok_or(CodecError::Missing("the state"))?.try_into()?,
    })
}
