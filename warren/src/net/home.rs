//! A node lives in one network namespace. Its pins and its directory are the machine's and can be
//! reached from every other one, where starting or resetting it would report success and harm: so
//! the namespace is remembered.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    Config, NetError,
    attach::namespace::{self, THIS_THREAD},
    datapath::{bpffs, links::Links, sys::netns_cookie},
    reserved::Reserved,
};

/// Beside the containers' namespaces: like all of them it is gone after a restart of the machine.
const FILE: &str = "namespace";

/// Which network namespace. Cookies are never used twice while a kernel runs, inodes are; but only
/// those can be looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Home {
    boot: String,
    cookie: u64,
    inode: u64,
}

impl Home {
    fn here() -> io::Result<Self> {
        Ok(Self {
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            cookie: netns_cookie()?,
            inode: fs::metadata(THIS_THREAD)?.ino(),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let boot = words.next()?.to_owned();
        Some(Self { boot, cookie: words.next()?.parse().ok()?, inode: words.next()?.parse().ok()? })
    }

    /// Whether a process is in it or it is mounted somewhere.
    fn is_held(&self) -> bool {
        let cookie = self.cookie;
        self.holders()
            .iter()
            .filter(|path| fs::metadata(path).is_ok_and(|m| m.ino() == self.inode))
            .any(|path| namespace::inside(path, netns_cookie).is_ok_and(|c| c == cookie))
    }

    /// Files that may be this namespace.
    fn holders(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let root = format!("net:[{}]", self.inode);
        for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path()) {
            if !process.file_name().is_some_and(|n| n.as_encoded_bytes().iter().all(u8::is_ascii_digit)) {
                continue;
            }
            found.insert(process.join("ns/net"));
            // Once for each namespace of mounts.
            if fs::read_link(process.join("ns/mnt")).is_ok_and(|m| seen.insert(m)) {
                let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
                let points = mounts.lines().filter_map(|l| {
                    let mut fields = l.split(' ').skip(3);
                    (fields.next()? == root).then(|| fields.next()).flatten()
                });
                found.extend(points.map(|at| process.join("root").join(at.trim_start_matches('/'))));
            }
        }
        found
    }
}

fn remembered(config: &Config) -> Option<Home> {
    Home::parse(&fs::read_to_string(config.netns_dir.join(FILE)).ok()?)
}

/// Whether a program of the node runs on a device somewhere.
fn has_devices(pin_root: &Path) -> bool {
    let versions = pin_root.parent().map(bpffs::subdirectories).unwrap_or_default();
    versions.into_iter().any(|v| Links::new(v.join("links")).on_devices())
}

/// Refuses when the node lives in another network namespace than the calling thread's. What is
/// remembered of one that is gone is in nobody's way.
///
/// # Errors
/// [`NetError::Elsewhere`].
pub fn check(config: &Config) -> Result<(), NetError> {
    let here = Home::here().map_err(|e| NetError::system("learn which network namespace this is", e))?;
    match remembered(config).filter(|home| home.boot == here.boot && home.cookie != here.cookie) {
        Some(home) if home.is_held() || has_devices(&config.pin_root) => Err(NetError::Elsewhere),
        _ => Ok(()),
    }
}

/// [`check`], then forgets what was reserved in a namespace that is gone.
pub(super) fn leave_old(config: &Config) -> Result<(), NetError> {
    check(config)?;
    let here = Home::here().map_err(|e| NetError::system("learn which network namespace this is", e))?;
    if remembered(config).is_some_and(|home| home.boot != here.boot || home.cookie != here.cookie) {
        tracing::info!("the network namespace in which this node lived is gone");
        let forgotten = Reserved::new(&config.netns_dir).forget();
        forgotten
            .map_err(|e| NetError::system("forget the ports reserved in a namespace that is gone", e))?;
    }
    Ok(())
}

/// Remembers the calling thread's namespace as the node's.
pub(super) fn settle(config: &Config) -> Result<(), NetError> {
    let write = || {
        let here = Home::here()?;
        fs::create_dir_all(&config.netns_dir)?;
        let (file, aside) = (config.netns_dir.join(FILE), config.netns_dir.join("namespace.new"));
        fs::write(&aside, format!("{} {} {}\n", here.boot, here.cookie, here.inode))?;
        fs::rename(aside, file)
    };
    write().map_err(|e| NetError::system("remember the node's network namespace", e))
}

/// Forgets it.
pub(super) fn forget(config: &Config) -> io::Result<()> {
    for name in ["namespace.new", FILE] {
        bpffs::remove_file(&config.netns_dir.join(name))?;
    }
    Ok(())
}
