//! The state machine: applies entries to the store, and makes and takes snapshots of it.

use std::{io::Cursor, sync::Arc};

use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
    storage::RaftStateMachine,
};

use super::{
    codec,
    error::RaftError,
    snapshot::Snapshots,
    types::{Answer, Command, Entry, LogId, Peer, SnapshotMeta, StorageError, StoredMembership, Types},
};
use crate::store::{Outcome, Replica, View};

/// The applied state and how far it goes.
pub(super) struct Machine {
    replica: Arc<Replica>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Snapshots,
}

impl Machine {
    /// The state of the snapshot, or the empty one.
    pub(super) fn open(replica: Arc<Replica>, snapshots: Snapshots) -> Result<Self, RaftError> {
        let mut this = Self { replica, applied: None, membership: StoredMembership::default(), snapshots };
        if let Some((snapshot, _)) = this.snapshots.load()? {
            this.take(snapshot);
        }
        Ok(this)
    }

    pub(super) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    fn take(&mut self, snapshot: codec::Snapshot) {
        self.applied = snapshot.last;
        self.membership = snapshot.membership;
        self.replica.install(snapshot.store);
    }
}

/// What a snapshot is made of, taken at one moment.
pub(super) struct Builder {
    view: View,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Snapshots,
}

fn meta(s: &codec::Snapshot) -> SnapshotMeta {
    SnapshotMeta { last_log_id: s.last, last_membership: s.membership.clone(), snapshot_id: s.id.clone() }
}

fn failed(e: RaftError) -> StorageError {
    StorageIOError::write_snapshot(None, AnyError::error(e)).into()
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RaftError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(failed),
        Err(e) => Err(failed(RaftError::Stopped(format!("a snapshot was cut off ({e})")))),
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let (view, snapshots) = (self.view.clone(), self.snapshots.clone());
        let (last, membership) = (self.applied, self.membership.clone());
        off_thread(move || {
            let id = last.map_or_else(|| "0-0".to_owned(), |l| format!("{}-{}", l.leader_id.term, l.index));
            let snapshot = codec::Snapshot { id, last, membership, store: view.to_snapshot() };
            let body = codec::snapshot(&snapshot);
            snapshots.store(&snapshot, &body)?;
            Ok(Snapshot { meta: meta(&snapshot), snapshot: Box::new(Cursor::new(body)) })
        })
        .await
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for e in entries {
            self.applied = Some(e.log_id);
            answers.push(match e.payload {
                EntryPayload::Blank => Answer::Nothing,
                EntryPayload::Normal(Command(actions)) => {
                    match self.replica.apply(e.log_id.index, &actions) {
                        Outcome::Applied { version } => Answer::Applied(version),
                        Outcome::Conflict => Answer::Conflict,
                    }
                }
                EntryPayload::Membership(m) => {
                    self.membership = StoredMembership::new(Some(e.log_id), m);
                    Answer::Nothing
                }
            });
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            view: self.replica.view(),
            applied: self.applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &openraft::SnapshotMeta<u64, Peer>,
        received: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let (snapshots, meta) = (self.snapshots.clone(), meta.clone());
        let snapshot = off_thread(move || {
            let damaged = |e| RaftError::Stopped(format!("a snapshot that was received is damaged: {e}"));
            let mut snapshot = codec::to_snapshot(received.get_ref()).map_err(damaged)?;
            // What openraft says counts: it decides by it.
            snapshot.id = meta.snapshot_id;
            snapshot.last = meta.last_log_id;
            snapshot.membership = meta.last_membership;
            snapshots.store(&snapshot, &codec::snapshot(&snapshot))?;
            Ok(snapshot)
        })
        .await?;
        self.take(snapshot);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let snapshots = self.snapshots.clone();
        let loaded = off_thread(move || snapshots.load()).await?;
        Ok(loaded.map(|(s, body)| Snapshot { meta: meta(&s), snapshot: Box::new(Cursor::new(body)) }))
    }
}
