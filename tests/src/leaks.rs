//! What a node has in the kernel and on disk, as other tools see it, to be compared before and
//! after.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Node, process, program};

/// A look at everything: kind → names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

impl Snapshot {
    /// Looks.
    ///
    /// # Errors
    /// One of the tools fails.
    pub fn take(node: &Node) -> Result<Self> {
        let mut found: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        let ns = &node.host.ns;
        found.insert("network namespace", namespaces());
        found.insert("link", json_names(&ns.ip(&["-j", "link"])?, |l| l["ifname"].to_string())?);
        let guarded = ns.ip(&["-j", "link"])?;
        found.insert("XDP program", json_names(&guarded, |l| format!("{} {}", l["ifname"], l["xdp"]))?);
        // Link-local ones come by themselves, a second or two after their link.
        let routes = |text: String| {
            let ours: Vec<_> = text.lines().filter(|l| !l.contains("fe80::")).collect();
            lines(&ours.join("\n"))
        };
        found.insert("route", routes(ns.ip(&["route", "show", "table", "all"])?));
        found.insert("IPv6 route", routes(ns.ip(&["-6", "route", "show", "table", "all"])?));
        found.insert("rule", lines(&ns.ip(&["rule"])?));
        found.insert("permanent neighbour", lines(&ns.ip(&["neigh", "show", "nud", "permanent"])?));
        found.insert("mount", mounts(node.dir()));
        found.insert("cgroup", cgroups());
        found.insert("process", processes(node));
        found.insert("directory", directories(&node.data_dir()));
        found.insert("pin", pins()?);
        found.insert("map entry", map_entries(&node.id()?)?);
        for (kind, entries) in containerd(node)? {
            found.insert(kind, entries);
        }
        Ok(Self(found))
    }

    /// What is in `later` and not in `self`, one line each.
    #[must_use]
    pub fn added(&self, later: &Self) -> Vec<String> {
        let none = BTreeSet::new();
        later
            .0
            .iter()
            .flat_map(|(kind, names)| {
                let before = self.0.get(kind).unwrap_or(&none);
                names.difference(before).map(move |name| format!("{kind}: {name}"))
            })
            .collect()
    }

    /// Fails when `later` has more than `self`.
    ///
    /// # Errors
    /// Names everything added.
    pub fn no_more_than(&self, later: &Self) -> Result<()> {
        let added = self.added(later);
        if added.is_empty() { Ok(()) } else { bail!("left behind:\n{}", added.join("\n")) }
    }
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

fn json_names(text: &str, name: impl Fn(&Value) -> String) -> Result<BTreeSet<String>> {
    let list: Vec<Value> = serde_json::from_str(text).with_context(|| format!("no JSON list: {text}"))?;
    Ok(list.iter().map(name).collect())
}

/// Network namespaces that a file or mount keeps, wherever it lies.
fn namespaces() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: BTreeSet<String> = text
        .lines()
        .filter(|l| l.contains(" - nsfs "))
        .filter_map(|l| l.split(' ').nth(4))
        .map(str::to_owned)
        .collect();
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    found.extend(named.map(|e| e.path().display().to_string()));
    found
}

/// Mounts that have to do with Warren, or lie in the node's directory.
fn mounts(dir: &Path) -> BTreeSet<String> {
    let dir = dir.display().to_string();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter(|l| l.contains("warren") || l.contains(&dir))
        .filter_map(|l| l.split(' ').nth(4))
        .map(str::to_owned)
        .collect()
}

/// Control groups of Warren's, in every hierarchy.
fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let path = entry.path();
                if path.display().to_string().contains("warren") {
                    found.insert(path.display().to_string());
                }
                open.push(path);
            }
        }
    }
    found
}

/// Agent, containerd, shims (in the host's network namespace), and everything in a control group of
/// Warren's; by name and words, not by id, since containerd and agent may have been restarted.
fn processes(node: &Node) -> BTreeSet<String> {
    let inside = process::in_netns(&node.host.ns.path());
    let in_group = process::all().into_iter().filter(|p| p.cgroups.contains("warren"));
    inside.into_iter().chain(in_group).map(|p| p.words).collect()
}

/// Directories of a node's data, but for what containerd keeps as it likes.
fn directories(data: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![data.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            if is_dir && !(path.parent() == Some(data) && path.ends_with("containerd")) {
                found.insert(path.display().to_string());
                open.push(path);
            }
        }
    }
    found
}

/// Files below Warren's directory of the BPF file system.
fn pins() -> Result<BTreeSet<String>> {
    let root = Path::new("/sys/fs/bpf/warren");
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        if !dir.exists() {
            continue;
        }
        for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.insert(path.display().to_string());
        }
    }
    Ok(found)
}

/// Pinned maps of a node, by name.
///
/// # Errors
/// The directory cannot be read.
pub fn pinned_maps(node_id: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for pin in pins()?.into_iter().map(PathBuf::from).filter(|p| p.is_file()) {
        if pin.display().to_string().contains(node_id)
            && let Ok(text) =
                program::host("bpftool", &["-j", "map", "show", "pinned", &pin.display().to_string()])
        {
            let map: Value = serde_json::from_str(&text)?;
            found.insert(map["name"].as_str().unwrap_or_default().to_owned(), pin);
        }
    }
    Ok(found)
}

/// Entries of the node's maps that grow with services: `map name: key`. Arrays and rings have no
/// entries to leak; flows outlive their connection on purpose and go with their task, so those of
/// no live task count.
fn map_entries(node_id: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (name, pin) in pinned_maps(node_id)? {
        let pin = pin.display().to_string();
        let shown: Value =
            serde_json::from_str(&program::host("bpftool", &["-j", "map", "show", "pinned", &pin])?)?;
        let kind = shown["type"].as_str().unwrap_or_default();
        if !kind.contains("hash") && !kind.contains("trie") || kind.contains("of_maps") {
            continue;
        }
        let text = program::host("bpftool", &["-j", "map", "dump", "pinned", &pin])?;
        let entries: Vec<Value> =
            serde_json::from_str(&text).with_context(|| format!("map {name}: {text}"))?;
        found.extend(entries.iter().map(|e| format!("{name}: {}", e["key"])));
    }
    Ok(found)
}

/// What the node's containerd holds, in every namespace of it.
fn containerd(node: &Node) -> Result<Vec<(&'static str, BTreeSet<String>)>> {
    let wait = std::time::Duration::from_secs(10);
    let socket = crate::eventually("containerd listens", wait, || containerd_socket(node))?;
    let ctr = |words: &[&str]| {
        let mut all = vec!["--address", socket.as_str()];
        all.extend(words);
        node.host.ns.run("ctr", &all)
    };
    let kinds: [(&'static str, &[&str]); 4] = [
        ("container", &["containers", "ls", "-q"]),
        ("task", &["tasks", "ls", "-q"]),
        ("snapshot", &["snapshots", "ls"]),
        ("lease", &["leases", "ls", "-q"]),
    ];
    let mut found: Vec<(&'static str, BTreeSet<String>)> =
        kinds.iter().map(|(k, _)| (*k, BTreeSet::new())).collect();
    for namespace in ctr(&["namespaces", "ls", "-q"])?.lines() {
        for ((_, words), (_, entries)) in kinds.iter().zip(&mut found) {
            let mut all = vec!["--namespace", namespace];
            all.extend(*words);
            entries.extend(ctr(&all)?.lines().map(|l| format!("{namespace}: {l}")));
        }
    }
    Ok(found)
}

/// The socket the node's containerd listens on, from `ss`.
///
/// # Errors
/// There is none.
pub fn containerd_socket(node: &Node) -> Result<String> {
    let pid = format!("pid={},", node.containerd()?);
    let text = node.host.ns.run("ss", &["-xlpH"])?;
    let mut sockets = text
        .lines()
        .filter(|l| l.contains(&pid))
        .filter_map(|l| l.split_whitespace().find(|w| w.starts_with('/')))
        .filter(|s| !s.ends_with(".ttrpc"));
    sockets.next().map(str::to_owned).context("the node's containerd listens on no socket")
}

/// A look at a node in which nothing changes any more.
///
/// # Errors
/// It does not come to rest.
pub fn settled(node: &Node) -> Result<Snapshot> {
    let mut last = Snapshot::take(node)?;
    crate::eventually("nothing changes any more", std::time::Duration::from_secs(20), || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let now = Snapshot::take(node)?;
        if now == last {
            return Ok(now);
        }
        last = now;
        bail!("it still changes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_counts() {
        let snapshot = |names: &[&str]| {
            Snapshot(BTreeMap::from([("link", names.iter().map(|&n| n.to_owned()).collect())]))
        };
        let before = snapshot(&["lo", "eth0"]);
        assert!(before.no_more_than(&snapshot(&["lo"])).is_ok());
        let left = before.no_more_than(&snapshot(&["lo", "veth1"])).unwrap_err();
        assert_eq!(left.to_string(), "left behind:\nlink: veth1");
    }
}
