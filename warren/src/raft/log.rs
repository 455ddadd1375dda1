//! The log and the vote, in redb.
//!
//! openraft waits for each append before it does anything else, so an append is one durable commit
//! of all the entries it is given.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use openraft::{
    AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    codec::{self, seal, unseal},
    error::{Fault, RaftError},
    types::{Entry, LogId, StorageError, Types, Vote},
};
use crate::{model::NodeId, proto::v1};

/// Entry by index; sealed protobuf.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// `vote` and `purged` (sealed protobuf), `node` (text).
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// redb's own default is 1 GiB. The log is appended to and read once.
const CACHE: usize = 1 << 20;

/// The log of one manager; clones are the same log.
#[derive(Clone)]
pub(super) struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    db: Database,
    path: PathBuf,
    fault: Fault,
}

impl Log {
    /// Opens the log of `node`, or makes it. One durable commit tells how fast the disk is.
    pub(super) fn open(path: &Path, node: NodeId, fault: Fault) -> Result<Self, RaftError> {
        // redb meets some damage with a panic.
        let opened =
            catch_unwind(AssertUnwindSafe(|| Database::builder().set_cache_size(CACHE).create(path)))
                .map_err(|_| RaftError::damaged(path, "redb cannot read it"))?;
        let db = opened.map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => RaftError::InUse { path: path.to_owned() },
            DatabaseError::Storage(redb::StorageError::Io(e))
                if e.kind() != io::ErrorKind::InvalidData && e.kind() != io::ErrorKind::UnexpectedEof =>
            {
                RaftError::file("open", path, e)
            }
            other => RaftError::damaged(path, other),
        })?;
        let log = Self { inner: Arc::new(Inner { db, path: path.to_owned(), fault }) };
        log.claim(node)?;
        log.check()?;
        Ok(log)
    }

    fn claim(&self, node: NodeId) -> Result<(), RaftError> {
        self.inner.write(|t| {
            t.open_table(LOG)?;
            let mut meta = t.open_table(META)?;
            let owner = meta.get("node")?.map(|o| String::from_utf8_lossy(o.value()).into_owned());
            match owner {
                Some(owner) if owner != node.as_str() => {
                    return Err(RaftError::Foreign { path: self.inner.path.clone(), owner, node }.into());
                }
                _ => meta.insert("node", node.as_str().as_bytes())?,
            };
            Ok(())
        })
    }

    /// Reads every entry once: a rotten one is found at the start, not when it is needed.
    fn check(&self) -> Result<(), RaftError> {
        let purged = self.purged()?;
        let mut next = purged.map(|p| p.index + 1);
        for e in self.entries((Bound::Unbounded, Bound::Unbounded))? {
            let index = e.log_id.index;
            if next.is_some_and(|n| n != index) {
                let why = format!("entry {} is missing from the log", next.unwrap_or_default());
                return Err(RaftError::damaged(&self.inner.path, why));
            }
            next = Some(index + 1);
        }
        self.vote()?;
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Whether nothing was ever decided here.
    pub(super) fn is_blank(&self) -> Result<bool, RaftError> {
        Ok(self.vote()?.is_none() && self.last()?.is_none() && self.purged()?.is_none())
    }

    /// Counts the handles of the file: it is closed when there are none.
    pub(super) fn downgrade(&self) -> Weak<dyn Send + Sync> {
        Arc::<Inner>::downgrade(&self.inner)
    }

    fn vote(&self) -> Result<Option<Vote>, RaftError> {
        Ok(self.meta::<v1::Vote>("vote")?.map(codec::to_vote))
    }

    pub(super) fn purged(&self) -> Result<Option<LogId>, RaftError> {
        Ok(self.meta::<v1::LogId>("purged")?.map(codec::to_log_id))
    }

    fn meta<M: prost::Message + Default>(&self, key: &str) -> Result<Option<M>, RaftError> {
        self.inner.read(|t| {
            let table = t.open_table(META)?;
            let Some(value) = table.get(key)? else { return Ok(None) };
            let message = unseal(value.value()).map_err(|e| RaftError::damaged(&self.inner.path, e))?;
            Ok(Some(message))
        })
    }

    fn last(&self) -> Result<Option<LogId>, RaftError> {
        self.inner.read(|t| match t.open_table(LOG)?.last()? {
            Some((key, value)) => Ok(Some(self.inner.decode(key.value(), value.value())?.log_id)),
            None => Ok(None),
        })
    }

    fn entries(&self, range: (Bound<u64>, Bound<u64>)) -> Result<Vec<Entry>, RaftError> {
        self.inner.read(|t| {
            let table = t.open_table(LOG)?;
            let mut found = Vec::new();
            for item in table.range(range)? {
                let (key, value) = item?;
                found.push(self.inner.decode(key.value(), value.value())?);
            }
            Ok(found)
        })
    }

    /// A durable commit, off the async threads.
    async fn commit(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), RaftError> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || inner.write(change)).await {
            Ok(done) => done,
            Err(e) => {
                Err(RaftError::Stopped(format!("a write of {} ended early ({e})", self.path().display())))
            }
        }
    }
}

/// An error of redb or of ours, inside a transaction.
enum Failure {
    Redb(redb::Error),
    Ours(RaftError),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Self::Redb(e.into())
    }
}

impl From<RaftError> for Failure {
    fn from(e: RaftError) -> Self {
        Self::Ours(e)
    }
}

impl Inner {
    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, RaftError> {
        let look = || look(&self.db.begin_read()?);
        self.guard("read", look)
    }

    fn write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T, Failure>) -> Result<T, RaftError> {
        // A transaction is durable at once unless it says otherwise.
        let change = || {
            let t = self.db.begin_write()?;
            let out = change(&t)?;
            t.commit()?;
            Ok(out)
        };
        self.guard("write", change)
    }

    fn guard<T>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, RaftError> {
        let error = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(out)) => return Ok(out),
            Ok(Err(Failure::Ours(e))) => e,
            Ok(Err(Failure::Redb(redb::Error::Io(e)))) => RaftError::file(action, &self.path, e),
            Ok(Err(Failure::Redb(e))) => RaftError::damaged(&self.path, e),
            Err(_) => RaftError::damaged(&self.path, "redb cannot read it"),
        };
        self.fault.set(&error);
        Err(error)
    }

    fn decode(&self, index: u64, bytes: &[u8]) -> Result<Entry, RaftError> {
        let damaged =
            |e: &dyn ToString| RaftError::damaged(&self.path, format!("entry {index}: {}", e.to_string()));
        let entry = unseal(bytes).and_then(codec::to_entry).map_err(|e| damaged(&e))?;
        if entry.log_id.index != index {
            return Err(damaged(&format!("it says it is entry {}", entry.log_id.index)));
        }
        Ok(entry)
    }
}

fn reading(e: RaftError) -> StorageError {
    StorageIOError::read_logs(AnyError::error(e)).into()
}

fn writing(e: RaftError) -> StorageError {
    StorageIOError::write_logs(AnyError::error(e)).into()
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries((range.start_bound().cloned(), range.end_bound().cloned())).map_err(reading)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let last_purged_log_id = self.purged().map_err(reading)?;
        let last_log_id = self.last().map_err(reading)?.or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let bytes = seal(&codec::vote(vote));
        let save = move |t: &WriteTransaction| {
            t.open_table(META)?.insert("vote", bytes.as_slice())?;
            Ok(())
        };
        self.commit(save).await.map_err(|e| StorageIOError::write_vote(AnyError::error(e)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.vote().map_err(|e| StorageIOError::read_vote(AnyError::error(e)).into())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let sealed: Vec<_> = entries.into_iter().map(|e| (e.log_id.index, seal(&codec::entry(&e)))).collect();
        let append = move |t: &WriteTransaction| {
            let mut table = t.open_table(LOG)?;
            for (index, bytes) in &sealed {
                table.insert(index, bytes.as_slice())?;
            }
            Ok(())
        };
        match self.commit(append).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(e) => {
                callback.log_io_completed(Err(io::Error::other(e.to_string())));
                Err(writing(e))
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let cut = move |t: &WriteTransaction| {
            t.open_table(LOG)?.retain_in(log_id.index.., |_, _| false)?;
            Ok(())
        };
        self.commit(cut).await.map_err(writing)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let bytes = seal(&codec::log_id(&log_id));
        let cut = move |t: &WriteTransaction| {
            t.open_table(META)?.insert("purged", bytes.as_slice())?;
            t.open_table(LOG)?.retain_in(..=log_id.index, |_, _| false)?;
            Ok(())
        };
        self.commit(cut).await.map_err(writing)
    }
}
