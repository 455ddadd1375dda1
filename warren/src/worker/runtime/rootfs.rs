//! Reads the account files of an image whose layers are in the snapshotter, without leaving a
//! mount behind: with one layer none is made, with more it is made in a mount namespace that dies
//! with the thread that made it.

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
    unistd::chdir,
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
        many => {
            let many = many.to_vec();
            std::thread::Builder::new()
                .name("rootfs".to_owned())
                .spawn(move || read_merged(&many))?
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the reader of account files panicked")))
        }
    }
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

fn read_merged(layers: &[PathBuf]) -> io::Result<Accounts> {
    // Of this thread only: its working directory and its mounts are its own from here on.
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    // Relative names keep a long list of layers within the one page mount options may have.
    let base = layers[0].parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    chdir(base)?;
    let lower: Vec<String> =
        layers.iter().map(|l| l.strip_prefix(base).unwrap_or(l).display().to_string()).collect();
    mount(
        Some("overlay"),
        "/proc",
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(format!("lowerdir={}", lower.join(":")).as_str()),
    )?;
    read(Path::new("/proc"))
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
}
