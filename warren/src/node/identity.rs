//! The data directory: whose it is, and that only one process has it.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::NodeError;
use crate::model::{Id, NodeId};

const IDENTITY: &str = "node.json";
const LOCK: &str = "lock";
/// How long a process may take to end after SIGKILL.
const LET_GO: Duration = Duration::from_secs(1);
const RUNTIME: &str = "runtime.json";

#[derive(Serialize, Deserialize)]
struct Identity {
    /// Of this file.
    format: u32,
    /// The node.
    id: String,
}

/// Which containerd has the node's containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RuntimeRecord {
    /// The node, once more: should the identity be damaged, this still says what to remove.
    pub(super) node: String,
    /// Its socket; `None` for the node's own.
    pub(super) socket: Option<PathBuf>,
}

/// The data directory, held: no second process gets it while this lives.
pub(super) struct DataDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Takes the directory, made if missing.
    pub(super) fn hold(path: &Path) -> Result<Self, NodeError> {
        let error = |e| NodeError::DataDir(path.to_owned(), e);
        fs::create_dir_all(path).map_err(error)?;
        Self::lock(path)
    }

    /// Waits a moment for a process that is being killed to let go of the directory.
    pub(super) fn wait_for(path: &Path) {
        let deadline = Instant::now() + LET_GO;
        while matches!(Self::hold_existing(path), Err(NodeError::InUse(..))) && Instant::now() < deadline {
            std::thread::sleep(LET_GO / 50);
        }
    }

    /// Takes the directory if a node has been there; a directory of others is not touched.
    pub(super) fn hold_existing(path: &Path) -> Result<Option<Self>, NodeError> {
        for ours in [IDENTITY, LOCK] {
            match fs::symlink_metadata(path.join(ours)) {
                Ok(_) => return Self::lock(path).map(Some),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(e) => return Err(NodeError::DataDir(path.to_owned(), e)),
            }
        }
        Ok(None)
    }

    fn lock(path: &Path) -> Result<Self, NodeError> {
        let error = |e| NodeError::DataDir(path.to_owned(), e);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join(LOCK))
            .map_err(error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // For the message a second one gets; the lock itself is the kernel's.
                lock.set_len(0).map_err(error)?;
                lock.rewind().map_err(error)?;
                write!(lock, "{}", std::process::id()).map_err(error)?;
                Ok(Self { path: path.to_owned(), _lock: lock })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                Err(NodeError::InUse(path.to_owned(), pid))
            }
            Err((_, errno)) => Err(error(errno.into())),
        }
    }

    /// The node this directory is of, if it is of one.
    pub(super) fn node(&self) -> Result<Option<NodeId>, NodeError> {
        read_identity(&self.path)
    }

    /// The node this directory is of; a new one's if it is of none.
    pub(super) fn node_or_new(&self, random: u128) -> Result<NodeId, NodeError> {
        if let Some(id) = self.node()? {
            return Ok(id);
        }
        let id = Id::from_random(random);
        let text = serde_json::to_vec(&Identity { format: 1, id: NodeId::to_string(&id) })
            .map_err(|e| NodeError::DataDir(self.path.clone(), e.into()))?;
        self.write(IDENTITY, &text)?;
        Ok(id)
    }

    /// Which containerd was used last; `None` before the first start.
    pub(super) fn runtime_record(&self) -> Result<Option<RuntimeRecord>, NodeError> {
        read_runtime_record(&self.path)
    }

    /// Notes which containerd is used.
    pub(super) fn write_runtime_record(&self, record: &RuntimeRecord) -> Result<(), NodeError> {
        if self.runtime_record()?.as_ref() == Some(record) {
            return Ok(());
        }
        let text = serde_json::to_vec(record).map_err(|e| NodeError::DataDir(self.path.clone(), e.into()))?;
        self.write(RUNTIME, &text)
    }

    /// Aside, then in place: a cut of power leaves the old file or the new one.
    fn write(&self, name: &str, text: &[u8]) -> Result<(), NodeError> {
        let aside = self.path.join(format!("{name}.new"));
        let write = || {
            let mut file = File::create(&aside)?;
            file.write_all(text)?;
            file.sync_all()?;
            fs::rename(&aside, self.path.join(name))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|e| NodeError::DataDir(self.path.clone(), e))
    }

    /// Removes the directory with all that is in it. The identity goes last, so that what was cut
    /// off can be repeated.
    pub(super) fn clear(self) -> Result<(), NodeError> {
        let clear = || {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if [IDENTITY, LOCK].iter().any(|name| entry.file_name() == *name) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
            for last in [IDENTITY, LOCK] {
                match fs::remove_file(self.path.join(last)) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            fs::remove_dir(&self.path)
        };
        clear().map_err(|e| NodeError::DataDir(self.path.clone(), e))
    }
}

/// Which containerd a data directory's node used last, without holding it.
pub(super) fn read_runtime_record(dir: &Path) -> Result<Option<RuntimeRecord>, NodeError> {
    let path = dir.join(RUNTIME);
    match fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|e| NodeError::Damaged(path, e.to_string()))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(NodeError::DataDir(dir.to_owned(), e)),
    }
}

/// The node a data directory is of, without holding it.
pub(super) fn read_identity(dir: &Path) -> Result<Option<NodeId>, NodeError> {
    let path = dir.join(IDENTITY);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(NodeError::DataDir(dir.to_owned(), e)),
    };
    let identity: Identity =
        serde_json::from_slice(&text).map_err(|e| NodeError::Damaged(path.clone(), e.to_string()))?;
    if identity.format != 1 {
        return Err(NodeError::Damaged(
            path,
            format!("format {} is newer than this program", identity.format),
        ));
    }
    identity.id.parse().map(Some).map_err(|e: crate::model::IdError| NodeError::Damaged(path, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_of_one_node_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let held = DataDir::hold(&path).unwrap();
        let id = held.node_or_new(7).unwrap();
        assert_eq!(held.node_or_new(8).unwrap(), id, "an identity is for life");
        // flock belongs to the open file, so a second open in this process is refused as well.
        let Err(NodeError::InUse(_, pid)) = DataDir::hold(&path) else { panic!("held twice") };
        assert_eq!(pid, std::process::id().to_string());
        drop(held);
        assert_eq!(DataDir::hold(&path).unwrap().node().unwrap(), Some(id));
    }

    #[test]
    fn damage_is_named_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(IDENTITY), "{\"format\":1,").unwrap();
        let held = DataDir::hold(dir.path()).unwrap();
        let e = held.node_or_new(1).unwrap_err();
        assert!(e.to_string().contains(IDENTITY), "{e}");
        assert_eq!(fs::read(dir.path().join(IDENTITY)).unwrap(), b"{\"format\":1,");
    }

    #[test]
    fn what_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none");
        assert!(DataDir::hold_existing(&path).unwrap().is_none());
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_of_others_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("theirs"), "x").unwrap();
        assert!(DataDir::hold_existing(dir.path()).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_cleared_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        let held = DataDir::hold(&path).unwrap();
        held.node_or_new(3).unwrap();
        let own = RuntimeRecord { node: "x".to_owned(), socket: None };
        held.write_runtime_record(&own).unwrap();
        assert_eq!(held.runtime_record().unwrap(), Some(own));
        fs::create_dir_all(path.join("raft/x")).unwrap();
        held.clear().unwrap();
        assert!(!path.exists());
    }
}
