//! The node's volumes: directories that outlive the containers they are mounted in.
//!
//! ```text
//! <dir>/<name>/_data    what is mounted
//! <dir>/<name>/meta     labels and age (a saved file)
//! <dir>/.new-<name>     being made; made whole before it is renamed
//! <dir>/.gone-<name>    being removed
//! ```
//!
//! A crash leaves a volume whole or not there; what begins with a dot is removed at the next
//! change of that name. Of a task's own volumes only the content is kept here (`fill`): they lie
//! among the task's files and go with them.

pub mod fill;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::saved::{self, SavedError};
use crate::model::Timestamp;

/// Where a volume's content is below its directory.
pub const DATA: &str = "_data";
const META: &str = "meta";
/// Longest name: with a prefix it must be a file name.
const LONGEST: usize = 200;

/// Why something could not be done with a volume. Each is a sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A name is none.
    #[error(
        "bad volume name \"{0}\": use letters, digits, and after the first also _ . and -, up to {LONGEST} in all"
    )]
    Name(String),
    /// There is no such volume.
    #[error("no such volume: {0}; `warren volume ls` shows those there are")]
    NotFound(String),
    /// There is one already, with other labels.
    #[error("volume {0} is there already, with other labels; remove it first, or use another name")]
    Exists(String),
    /// Somebody needs it.
    #[error("volume {name} is in use by {by}; remove that first (`warren service rm`)")]
    InUse {
        /// The volume.
        name: String,
        /// The service.
        by: String,
    },
    /// Its record cannot be used.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// The file system refused.
    #[error("volume {name}: cannot {doing}: {source}; check the disk and its free space")]
    Io {
        /// The volume.
        name: String,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Given when it was made.
    pub labels: BTreeMap<String, String>,
    /// What is mounted.
    pub data: PathBuf,
    /// When it was made.
    pub created_at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    labels: BTreeMap<String, String>,
    created_at_ms: u64,
}

/// The volumes below a directory. Every call works on the file system: not for async threads.
#[derive(Debug, Clone)]
pub struct Volumes {
    dir: PathBuf,
    /// One lock for each name that is worked on: filling one may take long.
    busy: Arc<Mutex<Locks>>,
}

/// A lock by name.
type Locks = HashMap<String, Arc<Mutex<()>>>;

/// Whether this may be a volume's name: Docker's rule.
///
/// # Errors
/// Says what a name may be.
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && name.len() <= LONGEST { Ok(()) } else { Err(VolumeError::Name(name.to_owned())) }
}

impl Volumes {
    /// The volumes below `dir`, which is made when the first volume is.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, busy: Arc::default() }
    }

    /// Runs `work` while nobody else works on this name.
    fn alone<T>(&self, name: &str, work: impl FnOnce() -> Result<T, VolumeError>) -> Result<T, VolumeError> {
        check_name(name)?;
        let own = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            busy.entry(name.to_owned()).or_default().clone()
        };
        let _held = own.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<Option<VolumeInfo>, VolumeError> {
        let path = self.path(name);
        let Some(meta) = saved::read(&path.join(META))? else { return Ok(None) };
        let damaged = |_| SavedError::Damaged { path: path.join(META) };
        let meta: Meta = serde_json::from_slice(&meta).map_err(damaged)?;
        Ok(Some(VolumeInfo {
            name: name.to_owned(),
            labels: meta.labels,
            data: path.join(DATA),
            created_at: Timestamp(meta.created_at_ms),
        }))
    }

    fn make(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<VolumeInfo, VolumeError> {
        let err = io_error(name, "be made");
        let aside = self.dir.join(format!(".new-{name}"));
        let make = || {
            // What is in it may be read by those whom the volume's own owner and mode let in, and
            // by nobody who is not in a container.
            fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.dir)?;
            remove_tree(&aside)?;
            fs::create_dir(&aside)?;
            fs::create_dir(aside.join(DATA))
        };
        make().map_err(&err)?;
        let meta = Meta { labels: labels.clone(), created_at_ms: now.0 };
        let meta = serde_json::to_vec(&meta).map_err(io::Error::other).map_err(&err)?;
        saved::write(&aside.join(META), &meta)?;
        fs::rename(&aside, self.path(name)).and_then(|()| sync(&self.dir)).map_err(&err)?;
        Ok(VolumeInfo {
            name: name.to_owned(),
            labels: labels.clone(),
            data: self.path(name).join(DATA),
            created_at: now,
        })
    }

    /// Makes a volume. One that is there with the same labels is no error.
    ///
    /// # Errors
    /// The name's, [`VolumeError::Exists`], the file system's.
    pub fn create(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<VolumeInfo, VolumeError> {
        self.alone(name, || match self.read(name)? {
            Some(there) if there.labels == *labels => Ok(there),
            Some(_) => Err(VolumeError::Exists(name.to_owned())),
            None => self.make(name, labels, now),
        })
    }

    /// The volume for a container, made when it is not there, and while it is empty filled by
    /// `fill`, which is given its content's directory.
    ///
    /// # Errors
    /// The name's, the file system's.
    pub fn mounted(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        now: Timestamp,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<PathBuf, VolumeError> {
        self.alone(name, || {
            let volume = match self.read(name)? {
                Some(there) => there,
                None => self.make(name, labels, now)?,
            };
            fill(&self.path(name)).map_err(io_error(name, "be filled with what the image has there"))?;
            Ok(volume.data)
        })
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// The file system's; one damaged record is left out.
    pub fn list(&self) -> Result<Vec<VolumeInfo>, VolumeError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_error("", "be listed"))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("", "be listed"))?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if check_name(&name).is_err() {
                continue;
            }
            match self.read(&name) {
                Ok(volume) => all.extend(volume),
                Err(e) => tracing::warn!(volume = name, "left out of the list: {e}"),
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// One volume.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], the file system's.
    pub fn get(&self, name: &str) -> Result<VolumeInfo, VolumeError> {
        check_name(name)?;
        self.read(name)?.ok_or_else(|| VolumeError::NotFound(name.to_owned()))
    }

    /// Bytes of disk that its content takes.
    ///
    /// # Errors
    /// The file system's.
    pub fn size(&self, name: &str) -> Result<u64, VolumeError> {
        disk_usage(&self.path(name).join(DATA)).map_err(io_error(name, "be measured"))
    }

    /// Removes a volume unless `in_use`, asked when nobody can begin to use it any more, names
    /// somebody. Returns its size.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], [`VolumeError::InUse`], the file system's.
    pub fn remove(&self, name: &str, in_use: impl FnOnce() -> Option<String>) -> Result<u64, VolumeError> {
        self.alone(name, || {
            let path = self.path(name);
            if !path.exists() {
                return Err(VolumeError::NotFound(name.to_owned()));
            }
            if let Some(by) = in_use() {
                return Err(VolumeError::InUse { name: name.to_owned(), by });
            }
            let size = self.size(name).unwrap_or(0);
            let gone = self.dir.join(format!(".gone-{name}"));
            let remove = || {
                remove_tree(&gone)?;
                fs::rename(&path, &gone)?;
                sync(&self.dir)?;
                remove_tree(&gone)
            };
            remove().map_err(io_error(name, "be removed"))?;
            Ok(size)
        })
    }
}

fn io_error(name: &str, doing: &'static str) -> impl Fn(io::Error) -> VolumeError {
    let name = name.to_owned();
    move |source| VolumeError::Io { name: name.clone(), doing, source }
}

fn sync(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Bytes on disk below a path, each file once.
fn disk_usage(path: &Path) -> io::Result<u64> {
    let mut seen = std::collections::HashSet::new();
    let (mut bytes, mut left) = (0, vec![path.to_owned()]);
    while let Some(path) = left.pop() {
        let meta = match fs::symlink_metadata(&path) {
            // It is in use: what is there a moment ago need not be now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        bytes += meta.blocks() * 512;
        if meta.is_dir() {
            left.extend(fs::read_dir(&path)?.flatten().map(|e| e.path()));
        }
    }
    Ok(bytes)
}
