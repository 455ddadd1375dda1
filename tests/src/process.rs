//! Processes, as `/proc` shows them.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// The program's short name.
    pub name: String,
    /// The words it was started with, joined by spaces.
    pub words: String,
    /// Its control groups, one line each.
    pub cgroups: String,
}

/// Every process that is no kernel thread and no zombie.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| one(e.file_name().to_str()?.parse().ok()?)).collect()
}

/// One process, while it lives.
#[must_use]
pub fn one(pid: i32) -> Option<Process> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let words = fs::read(dir.join("cmdline")).ok().filter(|w| !w.is_empty())?;
    let words = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name is in parentheses and may contain anything.
    let (head, tail) = stat.rsplit_once(") ")?;
    let mut fields = tail.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let name = head.split_once('(')?.1.to_owned();
    let cgroups = fs::read_to_string(dir.join("cgroup")).unwrap_or_default();
    Some(Process { pid, parent, name, words, cgroups })
}

/// Those whose words name a directory: agent, containerd and shims of a node.
#[must_use]
pub fn naming(dir: &Path) -> Vec<Process> {
    let dir = dir.display().to_string();
    let us = std::process::id().cast_signed();
    all().into_iter().filter(|p| p.pid != us && p.words.contains(&dir)).collect()
}

/// Those in a network namespace, given by its file.
#[must_use]
pub fn in_netns(file: &Path) -> Vec<Process> {
    use std::os::unix::fs::MetadataExt;
    let Ok(inode) = fs::metadata(file).map(|m| m.ino()) else { return Vec::new() };
    all()
        .into_iter()
        .filter(|p| fs::metadata(format!("/proc/{}/ns/net", p.pid)).is_ok_and(|m| m.ino() == inode))
        .collect()
}

/// A process and everything below it, children before parents.
#[must_use]
pub fn tree(root: i32) -> Vec<i32> {
    let all = all();
    let mut found = vec![root];
    let mut i = 0;
    while i < found.len() {
        let parent = found[i];
        found.extend(all.iter().filter(|p| p.parent == parent).map(|p| p.pid));
        i += 1;
    }
    found.reverse();
    found
}

/// Sends a signal; a process that is gone is no error.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// SIGKILL, and waits until they are gone.
pub fn end(pids: &[i32]) {
    for pid in pids {
        signal(*pid, Signal::SIGKILL);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline && pids.iter().any(|p| one(*p).is_some()) {
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn we_see_ourselves_and_our_children() {
        let us = std::process::id().cast_signed();
        let me = one(us).unwrap();
        assert!(!me.words.is_empty());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        // A process has no words for a moment after it was started.
        let seen = crate::eventually("the child", Duration::from_secs(5), || one(pid).context("not yet"));
        assert_eq!(seen.unwrap().parent, us);
        assert!(tree(us).contains(&pid));
        end(&[pid]);
        child.wait().unwrap();
        assert_eq!(one(pid), None);
    }
}
