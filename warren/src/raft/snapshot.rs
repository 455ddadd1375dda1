//! The snapshot file.
//!
//! `WRNSNAP1`, the length of the body (u64, little-endian), its SHA-256, the body (`SnapshotFile`).
//! Written to `snapshot.new`, synced, renamed over `snapshot`, the directory synced: at every
//! moment `snapshot` is a whole one. What a crash left in `snapshot.new` is dropped at the next
//! start.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use super::{
    codec::{self, Snapshot},
    error::{Fault, RaftError},
};

const MAGIC: &[u8; 8] = b"WRNSNAP1";
const HEADER: usize = 8 + 8 + 32;

/// Where the snapshot is kept; clones are the same place.
#[derive(Clone)]
pub(super) struct Snapshots {
    dir: PathBuf,
    /// One writer at a time: a snapshot may be built while another is installed.
    writing: Arc<Mutex<()>>,
    fault: Fault,
}

impl Snapshots {
    pub(super) fn open(dir: &Path, fault: Fault) -> Result<Self, RaftError> {
        let this = Self { dir: dir.to_owned(), writing: Arc::default(), fault };
        let aside = this.aside();
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(RaftError::file("remove", &aside, e)),
            _ => Ok(this),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join("snapshot")
    }

    fn aside(&self) -> PathBuf {
        self.dir.join("snapshot.new")
    }

    /// The snapshot and its bytes, when there is one.
    pub(super) fn load(&self) -> Result<Option<(Snapshot, Vec<u8>)>, RaftError> {
        let path = self.path();
        let loaded = match fs::read(&path) {
            Ok(bytes) => check(&path, bytes).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(RaftError::file("read", &path, e)),
        };
        loaded.inspect_err(|e| self.fault.set(e))
    }

    /// Makes `body` the snapshot, unless there is a later one by now.
    pub(super) fn store(&self, snapshot: &Snapshot, body: &[u8]) -> Result<(), RaftError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.load()?.is_some_and(|(there, _)| there.last > snapshot.last) {
            return Ok(());
        }
        let (path, aside) = (self.path(), self.aside());
        let write = || -> io::Result<()> {
            let mut file = File::create(&aside)?;
            file.write_all(MAGIC)?;
            file.write_all(&(body.len() as u64).to_le_bytes())?;
            file.write_all(&Sha256::digest(body))?;
            file.write_all(body)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            sync_directory(&self.dir)
        };
        write().map_err(|e| RaftError::file("write", &aside, e)).inspect_err(|e| self.fault.set(e))
    }
}

/// Makes a rename or a new file in `dir` outlive a power cut.
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn check(path: &Path, mut bytes: Vec<u8>) -> Result<(Snapshot, Vec<u8>), RaftError> {
    let damaged = |why: &str| RaftError::damaged(path, why);
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err(damaged("it is not a snapshot"));
    }
    let body = bytes.split_off(HEADER);
    if bytes[8..16] != (body.len() as u64).to_le_bytes() {
        return Err(damaged("its length is not what was written"));
    }
    if bytes[16..] != Sha256::digest(&body)[..] {
        return Err(damaged("its checksum does not fit"));
    }
    let snapshot = codec::to_snapshot(&body).map_err(|e| RaftError::damaged(path, e))?;
    Ok((snapshot, body))
}
