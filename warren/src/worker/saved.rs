//! Small files that survive a crash: written aside, flushed, renamed, and checked when read.
//!
//! Layout: one text line `warren 1 <crc32 of the rest, 8 hex digits>`, then the content.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const MAGIC: &str = "warren 1 ";
/// Extension of a file while it is being written.
pub const ASIDE: &str = "new";
const HEADER: usize = MAGIC.len() + 8 + 1;

/// Why a saved file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The file system refused.
    #[error("cannot {doing} {path}: {source}; check the disk and its free space")]
    Io {
        /// `read`, `write` or `remove`.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The content is not what was written.
    #[error("{path} is damaged (wrong length or checksum); it was left as it is and is not used")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

impl SavedError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Replaces the file's content. After a crash at any moment the file has the old or the new one.
///
/// # Errors
/// The file system's.
pub fn write(path: &Path, content: &[u8]) -> Result<(), SavedError> {
    let err = || SavedError::io("write", path);
    let aside = path.with_extension(ASIDE);
    let mut file = File::create(&aside).map_err(err())?;
    file.write_all(format!("{MAGIC}{:08x}\n", crc32fast::hash(content)).as_bytes()).map_err(err())?;
    file.write_all(content).map_err(err())?;
    file.sync_data().map_err(err())?;
    fs::rename(&aside, path).map_err(err())?;
    sync_dir(path).map_err(err())
}

/// The file's content; `None` when there is no such file.
///
/// # Errors
/// The file system's, and [`SavedError::Damaged`].
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, SavedError> {
    let mut bytes = match fs::read(path) {
        Ok(b) => b,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(SavedError::io("read", path)(e)),
    };
    let damaged = || SavedError::Damaged { path: path.to_owned() };
    if bytes.len() < HEADER {
        return Err(damaged());
    }
    let content = bytes.split_off(HEADER);
    if bytes == format!("{MAGIC}{:08x}\n", crc32fast::hash(&content)).as_bytes() {
        Ok(Some(content))
    } else {
        Err(damaged())
    }
}

/// Removes the file; nothing there is no error.
///
/// # Errors
/// The file system's.
pub fn remove(path: &Path) -> Result<(), SavedError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SavedError::io("remove", path)(e)),
        // The removal is not flushed: a record that comes back is removed again.
        _ => Ok(()),
    }
}

/// Makes a rename in the file's directory last.
fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_round_trips_and_any_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(read(&path).unwrap().is_none());
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"second");

        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(matches!(read(&path), Err(SavedError::Damaged { .. })), "cut at {cut} was accepted");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(matches!(read(&path), Err(SavedError::Damaged { .. })), "flip at {at} was accepted");
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(read(&path).unwrap().is_none());
    }
}
