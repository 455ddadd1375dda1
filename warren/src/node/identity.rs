//! The data directory: whose it is, and that only one process has it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::NodeError;
use crate::model::{Id, NodeId};

const IDENTITY: &str = "node.json";
const LOCK: &str = "lock";

#[derive(Serialize, Deserialize)]
struct Identity {
    /// Of this file.
    format: u32,
    /// The node.
    id: String,
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

    /// Takes the directory if there is one.
    pub(super) fn hold_existing(path: &Path) -> Result<Option<Self>, NodeError> {
        match fs::metadata(path) {
            Ok(_) => Self::lock(path).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(NodeError::DataDir(path.to_owned(), e)),
        }
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
        self.write(&text).map_err(|e| NodeError::DataDir(self.path.clone(), e))?;
        Ok(id)
    }

    /// Aside, then in place: a cut of power leaves the old file or the new one.
    fn write(&self, text: &[u8]) -> std::io::Result<()> {
        let aside = self.path.join(format!("{IDENTITY}.new"));
        let mut file = File::create(&aside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&aside, self.path.join(IDENTITY))?;
        File::open(&self.path)?.sync_all()
    }
}

/// The node a data directory is of, without holding it.
pub(super) fn read_identity(dir: &Path) -> Result<Option<NodeId>, NodeError> {
    let path = dir.join(IDENTITY);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
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
}
