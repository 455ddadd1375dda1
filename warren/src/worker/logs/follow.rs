//! Waiting for more to be written.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::io::unix::AsyncFd;

/// A look is taken this often whatever the kernel tells.
const LOOK: Duration = Duration::from_secs(1);
/// The same while it tells nothing: no directory yet, or no more watches to be had.
const BLIND: Duration = Duration::from_millis(100);

/// Whether a writer is at work in `dir`: what the container wrote may not all be there yet.
#[must_use]
pub fn is_written(dir: &Path) -> bool {
    // Writers hold a shared lock as long as they live.
    let Ok(dir) = File::open(dir) else { return false };
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).is_err()
}

struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Changes of a directory's files.
pub struct Changes {
    dir: PathBuf,
    watch: Option<AsyncFd<Watch>>,
}

impl Changes {
    /// Of `dir`, which need not be there yet. What happens from now on is not missed.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), watch: watch(dir).ok() }
    }

    /// Waits for a change; may return without one. To be called again when it was cut off.
    pub async fn next(&mut self) {
        let Some(there) = &self.watch else {
            tokio::time::sleep(BLIND).await;
            self.watch = watch(&self.dir).ok();
            return;
        };
        let Ok(ready) = tokio::time::timeout(LOOK, there.readable()).await else { return };
        if let Ok(mut guard) = ready {
            while there.get_ref().0.read_events().is_ok_and(|events| !events.is_empty()) {}
            guard.clear_ready();
        }
    }
}

fn watch(dir: &Path) -> io::Result<AsyncFd<Watch>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let all = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_CLOSE_WRITE;
    match inotify.add_watch(dir, all | AddWatchFlags::IN_ONLYDIR) {
        // SAFETY: the descriptor is the watch's own, open and the same as long as that lives.
        Ok(_) => Ok(unsafe { AsyncFd::register(Watch(inotify)) }?),
        Err(Errno::ENOENT) => Err(io::ErrorKind::NotFound.into()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, time::Instant};

    use super::{
        super::writer::files::{Files, Limits},
        *,
    };

    #[test]
    fn a_directory_is_written_as_long_as_its_writer_lives() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_written(&dir.path().join("not-there")) && !is_written(dir.path()));
        let files = Files::new(dir.path(), Limits { max_size: 1000, max_files: 2 });
        assert!(is_written(dir.path()));
        drop(files);
        assert!(!is_written(dir.path()));
    }

    #[tokio::test]
    async fn a_change_wakes_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("task");
        let mut changes = Changes::of(&place);
        fs::create_dir(&place).unwrap();
        changes.next().await; // finds the directory
        let mut file = File::create(place.join("00000001.log")).unwrap();
        changes.next().await;
        let waiting = tokio::spawn(async move {
            let begun = Instant::now();
            changes.next().await;
            begun.elapsed()
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        file.write_all(b"x").unwrap();
        assert!(waiting.await.unwrap() < LOOK / 2, "it was not told");
    }
}
