//! What a test process left behind because it was killed: removed by the next one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Once,
};

use crate::{netns, node, process};

/// Sweeps, the first time it is called in this process.
pub fn once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for dir in left_behind(&std::env::temp_dir()) {
            remove_node_dir(&dir);
        }
        for path in left_behind(Path::new("/run/netns")) {
            netns::remove(&path.file_name().unwrap_or_default().to_string_lossy());
        }
    });
}

fn left_behind(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|e| owner(&e.file_name().to_string_lossy()).is_some_and(|pid| process::one(pid).is_none()))
        .map(|e| e.path())
        .collect()
}

/// The process that made something of this name, if the harness did.
fn owner(name: &str) -> Option<i32> {
    name.strip_prefix(netns::PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Removes a node's directory with everything that works or is mounted in it.
pub fn remove_node_dir(dir: &Path) {
    if dir.join("data").exists()
        && let Err(e) = node::reset(dir)
    {
        eprintln!("harness: {}: {e:#}", dir.display());
    }
    // What a failing reset leaves: processes (with all below them: containers), then mounts.
    for p in process::naming(dir) {
        process::end(&process::tree(p.pid));
    }
    for point in mounts_below(dir) {
        let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
    }
    if let Err(e) = fs::remove_dir_all(dir)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("harness: {}: {e}", dir.display());
    }
}

/// Mount points below a directory, the deepest first.
#[must_use]
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|p| p.starts_with(dir))
        .collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_harness_own_names_have_an_owner() {
        assert_eq!(owner("wt123-0-node"), Some(123));
        for other in ["wt", "wt-1", "wtx-1", "web-1", "wt12"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
