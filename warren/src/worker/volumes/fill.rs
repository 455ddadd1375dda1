//! A new volume gets what its image has at the place where it is mounted, as with Docker.
//!
//! ```text
//! <volume>/_filling   being copied; thrown away by the next try
//! <volume>/_filled    copied whole; its entries are moved to _data, also by a later try
//! ```
//! Before the first entry is moved the whole copy is on disk: a crash leaves nothing half-filled.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::AT_FDCWD,
    sys::{
        stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat},
        time::TimeSpec,
    },
};

use super::{DATA, remove_tree};

const COPYING: &str = "_filling";
const COPIED: &str = "_filled";

/// Whether the volume in this directory still is to be filled: nothing is in it.
///
/// # Errors
/// The file system's.
pub fn is_empty(volume: &Path) -> io::Result<bool> {
    Ok(!volume.join(COPIED).exists() && fs::read_dir(volume.join(DATA))?.next().is_none())
}

/// Copies what is in `from`, and its owner and mode, into an empty volume.
///
/// # Errors
/// The file system's.
pub fn copy_into(volume: &Path, from: &Path) -> io::Result<()> {
    let (copying, copied) = (volume.join(COPYING), volume.join(COPIED));
    remove_tree(&copying)?;
    fs::create_dir(&copying)?;
    Copy::default().directory(from, &copying)?;
    // All files of the copy, before the name that says it is whole.
    nix::unistd::syncfs(fs::File::open(&copying)?)?;
    fs::rename(&copying, &copied)?;
    fs::File::open(volume)?.sync_all()
}

/// Moves a whole copy to its place, also one that an earlier try left. Nothing to move is no error.
///
/// # Errors
/// The file system's.
pub fn finish(volume: &Path) -> io::Result<()> {
    let (copied, data) = (volume.join(COPIED), volume.join(DATA));
    let entries = match fs::read_dir(&copied) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let meta = fs::metadata(&copied)?;
    for entry in entries {
        let entry = entry?;
        fs::rename(entry.path(), data.join(entry.file_name()))?;
    }
    // Moving has changed the time; owner and mode are the copy's.
    lchown(&data, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(&data, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    extended(&copied, &data)?;
    fs::remove_dir(&copied)?;
    fs::File::open(volume)?.sync_all()
}

/// A copy of a tree; files of several names stay one.
#[derive(Default)]
struct Copy {
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            self.entry(&from.join(entry.file_name()), &to.join(entry.file_name()))?;
        }
        attributes(from, to, &fs::symlink_metadata(from)?)
    }

    fn entry(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(from)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            fs::create_dir(to)?;
            return self.directory(from, to);
        }
        if meta.nlink() > 1 {
            if let Some(first) = self.linked.get(&(meta.dev(), meta.ino())) {
                return fs::hard_link(first, to);
            }
            self.linked.insert((meta.dev(), meta.ino()), to.to_owned());
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        } else if kind.is_file() {
            fs::copy(from, to)?;
        } else if kind.is_socket() {
            // Nobody listens on a copy.
            return Ok(());
        } else {
            let kind = if kind.is_fifo() {
                SFlag::S_IFIFO
            } else if kind.is_block_device() {
                SFlag::S_IFBLK
            } else {
                SFlag::S_IFCHR
            };
            mknod(to, kind, Mode::from_bits_truncate(0o600), meta.rdev())?;
        }
        attributes(from, to, &meta)
    }
}

/// Owner, mode, extended attributes and times.
fn attributes(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    if !meta.file_type().is_symlink() {
        // After the owner: a change of owner clears the set-user-id bit.
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    extended(from, to)?;
    let time = |s: i64, ns: i64| TimeSpec::new(s, ns);
    utimensat(
        AT_FDCWD,
        to,
        &time(meta.atime(), meta.atime_nsec()),
        &time(meta.mtime(), meta.mtime_nsec()),
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

fn extended(from: &Path, to: &Path) -> io::Result<()> {
    let unsupported = |e: &io::Error| e.raw_os_error() == Some(libc::ENOTSUP);
    let names = match xattr::list(from) {
        Err(e) if unsupported(&e) => return Ok(()),
        names => names?,
    };
    for name in names {
        let Some(value) = xattr::get(from, &name)? else { continue };
        match xattr::set(to, &name, &value) {
            Err(e) if unsupported(&e) => {}
            set => set?,
        }
    }
    Ok(())
}
