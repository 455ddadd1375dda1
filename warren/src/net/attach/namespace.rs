//! Network namespaces as bind mounts (`<netns_dir>/<task>`), and work inside them.
//!
//! A thread that has entered a namespace never does anything else afterwards and ends: entering
//! one from a thread of tokio would take everything that runs on it later along.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::statfs,
};

const NSFS_MAGIC: i64 = 0x6e73_6673;
/// The namespace of the thread that looks, not of its process.
pub const THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// Whether a network namespace is mounted there.
pub fn exists(path: &Path) -> bool {
    #[allow(clippy::unnecessary_cast)] // the type differs between architectures
    statfs(path).is_ok_and(|s| s.filesystem_type().0 as i64 == NSFS_MAGIC)
}

/// Makes a namespace and mounts it at `path`; one that is there is left as it is. Completes what
/// an earlier call left half-made.
pub fn create(path: &Path) -> io::Result<()> {
    if exists(path) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = match OpenOptions::new().create(true).append(true).mode(0o444).open(path) {
        // Mounted in between: nobody writes to that.
        Err(_) if exists(path) => return Ok(()),
        file => file?,
    };
    // Whoever gave up waiting for this left it at work: a second namespace over the first one would
    // hide what is made in that.
    file.lock()?;
    if exists(path) {
        return Ok(());
    }
    let target = path.to_path_buf();
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some(THIS_THREAD), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
}

/// Unmounts and removes it; nothing there is no error. The kernel destroys the namespace when the
/// last process in it has ended.
pub fn remove(path: &Path) -> io::Result<()> {
    // Two agents that died at the wrong moments can have left two mounts on one file.
    while exists(path) {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(e) => return Err(e.into()),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Does `work` inside the namespace at `path`, on a thread of its own, and waits for it. Blocks:
/// for short work only.
pub fn inside<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let ns = File::open(path)?;
    on_own_thread(move || {
        setns(&ns, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    thread::Builder::new()
        .name("netns".into())
        .spawn(work)?
        .join()
        .map_err(|_| io::Error::other("a thread inside a network namespace panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn who_comes_at_once_gets_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..10 {
            let path = dir.path().join(round.to_string());
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| create(&path).unwrap());
                }
            });
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let of_it = format!(" {} ", path.display());
            assert_eq!(mounts.matches(&of_it).count(), 1, "{mounts}");
            remove(&path).unwrap();
        }
    }

    fn name_of(ns: &str) -> io::Result<String> {
        Ok(fs::read_link(ns)?.display().to_string())
    }

    #[test]
    #[ignore = "needs root"]
    fn a_namespace_is_made_entered_and_removed_without_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one");
        // What an agent that died between the two steps leaves.
        File::create(&path).unwrap();
        assert!(!exists(&path));
        create(&path).unwrap();
        create(&path).unwrap();
        assert!(exists(&path));
        let within = inside(&path, || name_of(THIS_THREAD)).unwrap();
        assert_ne!(within, name_of(THIS_THREAD).unwrap(), "the caller has not moved");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&path.display().to_string()), "still mounted");
    }
}
