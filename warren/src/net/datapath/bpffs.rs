//! The BPF file system, and whose pins are in it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::statfs,
};

use super::super::NetError;

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Where everybody mounts it.
pub const USUAL: &str = "/sys/fs/bpf";

/// Whether this path, or else its nearest ancestor that exists, is on a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    let Some(existing) = path.ancestors().find(|p| p.exists()) else { return false };
    #[allow(clippy::unnecessary_cast)] // the type differs between architectures
    statfs(existing).is_ok_and(|s| s.filesystem_type().0 as i64 & 0xffff_ffff == BPF_FS_MAGIC)
}

/// Sees to it that `pin_root` is on a BPF file system, mounting one at the usual place if need be.
pub fn ensure(pin_root: &Path) -> Result<(), NetError> {
    if is_bpffs(pin_root) {
        return Ok(());
    }
    if !pin_root.starts_with(USUAL) {
        return Err(NetError::NotBpffs { path: pin_root.into() });
    }
    // Two agents that mount at the same time would hide each other's pins: the directory below the
    // mount is the lock.
    let below = File::open(USUAL).map_err(|e| NetError::system("open /sys/fs/bpf", e))?;
    let _lock = Flock::lock(below, FlockArg::LockExclusive)
        .map_err(|(_, e)| NetError::system("lock /sys/fs/bpf", e))?;
    if is_bpffs(pin_root) {
        return Ok(());
    }
    mount(Some("bpf"), USUAL, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|e| NetError::system("mount the BPF file system at /sys/fs/bpf", e))?;
    tracing::info!("mounted the BPF file system at {USUAL}");
    Ok(())
}

/// Holds a node's pins for one agent.
#[derive(Debug)]
pub struct Lock {
    _dir: Flock<File>,
}

impl Lock {
    /// Makes the directory if need be and takes the lock; it is released with the process.
    pub fn take(pin_root: &Path) -> Result<Self, NetError> {
        fs::create_dir_all(pin_root).map_err(|e| NetError::system("make the directory of the pins", e))?;
        let dir = File::open(pin_root).map_err(|e| NetError::system("open the directory of the pins", e))?;
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(dir) => Ok(Self { _dir: dir }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(NetError::Locked { path: pin_root.into() }),
            Err((_, e)) => Err(NetError::system("lock the directory of the pins", e)),
        }
    }
}

/// Pin directories of other nodes beside ours, and for each whether an agent holds it. Nodes on
/// one kernel are other network namespaces; one that nobody holds may be merely stopped.
pub fn others(pin_root: &Path) -> Vec<(PathBuf, bool)> {
    let Some(node) = pin_root.parent() else { return Vec::new() };
    let Some(all) = node.parent().filter(|p| is_bpffs(p) && *p != Path::new(USUAL)) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(all) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|e| e.path()).filter(|p| p != node && p.is_dir()) {
        let held = subdirectories(&path).iter().any(|version| {
            File::open(version).is_ok_and(|f| Flock::lock(f, FlockArg::LockExclusiveNonblock).is_err())
        });
        found.push((path, held));
    }
    found
}

/// Directories in a directory.
pub fn subdirectories(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path)
        .map(|es| es.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
        .unwrap_or_default()
}

/// Files in a directory, by name.
pub fn files(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for e in entries {
        let e = e?;
        if !e.path().is_dir() {
            found.push((e.file_name().to_string_lossy().into_owned(), e.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a file; none there is no error.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
