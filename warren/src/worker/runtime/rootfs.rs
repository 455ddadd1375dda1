//! A look into an image whose layers are in the snapshotter, without leaving a mount behind: one is
//! made in a mount namespace that dies with the thread that made it, and for the account files of
//! an image of one layer none at all.

use std::{
    fs, io,
    io::Read,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use containerd_client::types::Mount;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{chdir, fchdir},
};

/// Longest account file that is read.
const LIMIT: u64 = 4 << 20;

/// An image's account files; empty where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    /// /etc/passwd.
    pub passwd: String,
    /// /etc/group.
    pub group: String,
}

/// Reads the accounts from the file system that `mounts` (of a fresh snapshot) would make.
pub(super) fn accounts(mounts: &[Mount]) -> io::Result<Accounts> {
    let Some(mount) = mounts.first() else { return Ok(Accounts::default()) };
    match layers(mount).as_slice() {
        [] => Ok(Accounts::default()),
        [one] => read(one),
        many => apart(|| {
            merge(many)?;
            read(Path::new(MERGED))
        }),
    }
}

/// Runs `work` with a directory of the image as the working directory; `None` when the image has
/// no such directory. Links in the image can not lead out of it.
pub(super) fn within<T: Send>(
    mounts: &[Mount],
    directory: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<Option<T>> {
    let Some(mount) = mounts.first() else { return Ok(None) };
    let layers = layers(mount);
    let inside = directory.strip_prefix("/").unwrap_or(directory);
    let inside = if inside == Path::new("") { Path::new(".") } else { inside };
    apart(|| {
        let root = match layers.as_slice() {
            [] => return Ok(None),
            [one] => one.as_path(),
            many => {
                merge(many)?;
                Path::new(MERGED)
            }
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(fs::File::open(root)?.as_fd(), inside, how) {
            Ok(fd) => fchdir(fd)?,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        work().map(Some)
    })
}

/// Reads the accounts of a running container, by its first process.
pub(super) fn accounts_of(pid: i32) -> io::Result<Accounts> {
    read(Path::new(&format!("/proc/{pid}/root")))
}

/// The directories of a snapshot's layers, uppermost first.
fn layers(mount: &Mount) -> Vec<PathBuf> {
    if mount.r#type == "overlay" {
        let lower = mount.options.iter().find_map(|o| o.strip_prefix("lowerdir="));
        return lower.map(|l| l.split(':').map(PathBuf::from).collect()).unwrap_or_default();
    }
    vec![PathBuf::from(&mount.source)]
}

/// Runs `work` in a thread whose mounts and working directory are its own.
fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        work()
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("rootfs".to_owned())
            .spawn_scoped(scope, alone)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the look into the image panicked")))
    })
}

/// Where layers are merged: a directory that is always there and of which nothing is needed.
const MERGED: &str = "/proc";

/// Mounts layers as one, to be read only.
fn merge(layers: &[PathBuf]) -> io::Result<()> {
    // Relative names keep a long list of layers within the one page mount options may have.
    let base = layers[0].parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    chdir(base)?;
    let lower: Vec<String> =
        layers.iter().map(|l| l.strip_prefix(base).unwrap_or(l).display().to_string()).collect();
    mount(
        Some("overlay"),
        MERGED,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(format!("lowerdir={}", lower.join(":")).as_str()),
    )?;
    Ok(())
}

fn read(root: &Path) -> io::Result<Accounts> {
    let root = fs::File::open(root)?;
    Ok(Accounts { passwd: read_within(&root, "etc/passwd")?, group: read_within(&root, "etc/group")? })
}

/// Reads a file of the image; links in the image can not lead out of it.
fn read_within(root: &fs::File, path: &str) -> io::Result<String> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root.as_fd(), path, how) {
        Ok(fd) => fs::File::from(fd),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(String::new()),
        Err(e) => return Err(e.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(lower: &str) -> Mount {
        Mount {
            r#type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec!["index=off".to_owned(), "upperdir=/u".to_owned(), format!("lowerdir={lower}")],
        }
    }

    #[test]
    fn a_link_in_the_image_stays_in_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        fs::create_dir_all(&etc).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", etc.join("passwd")).unwrap();
        fs::write(etc.join("shadow"), "mine").unwrap();
        std::os::unix::fs::symlink("../../../../etc/hosts", etc.join("group")).unwrap();
        let a = accounts(&[overlay(dir.path().to_str().unwrap())]).unwrap();
        assert_eq!(a, Accounts { passwd: "mine".to_owned(), group: String::new() });
    }

    #[test]
    #[ignore = "needs root"]
    fn layers_are_merged_and_no_mount_stays() {
        let dir = tempfile::tempdir().unwrap();
        for (layer, file, text) in [("1", "passwd", "old"), ("1", "group", "g"), ("2", "passwd", "new")] {
            let etc = dir.path().join(layer).join("fs/etc");
            fs::create_dir_all(&etc).unwrap();
            fs::write(etc.join(file), text).unwrap();
        }
        let d = dir.path().display();
        let a = accounts(&[overlay(&format!("{d}/2/fs:{d}/1/fs"))]).unwrap();
        assert_eq!(a, Accounts { passwd: "new".to_owned(), group: "g".to_owned() });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&d.to_string()), "{mounts}");
    }

    #[test]
    #[ignore = "needs root"]
    fn work_is_done_within_a_directory_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        for (layer, file) in [("1", "data/old"), ("2", "data/new"), ("2", "plain")] {
            let file = dir.path().join(layer).join("fs").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        std::os::unix::fs::symlink("/data", dir.path().join("2/fs/link")).unwrap();
        let d = dir.path().display();
        let names = |lower: String, at: &str| {
            within(&[overlay(&lower)], Path::new(at), || {
                let all = fs::read_dir(".")?.map(|e| Ok(e?.file_name().into_string().unwrap()));
                let mut all = all.collect::<io::Result<Vec<_>>>()?;
                all.sort();
                Ok(all)
            })
            .unwrap()
        };
        let both = format!("{d}/2/fs:{d}/1/fs");
        assert_eq!(names(both.clone(), "/link").unwrap(), ["new", "old"]);
        assert_eq!(names(format!("{d}/2/fs"), "/data").unwrap(), ["new"]);
        assert_eq!(names(both.clone(), "/plain"), None);
        assert_eq!(names(both, "/data/none"), None);
    }
}
