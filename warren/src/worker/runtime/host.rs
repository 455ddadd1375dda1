//! What this node is like: asked anew for each container, since much of it can change while the
//! node runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::spec::{Cgroups, Host};

/// Most open files a container's process may ask for, as Docker's default is.
const OPEN_FILES: u64 = 524_288;

/// Where packages put a small init that needs no library: Debian's tini, and Docker's.
const INITS: [&str; 4] = [
    "/usr/bin/tini-static",
    "/usr/local/bin/tini-static",
    "/usr/libexec/docker/docker-init",
    "/usr/local/bin/docker-init",
];

/// The controllers of version 1 that limits need; `cpuacct` and the like go beside them.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "devices"];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Looks.
pub(super) fn look() -> Host {
    let status = read("/proc/self/status");
    let hard_limits = hard_limits(&read("/proc/self/limits"));
    Host {
        name: read("/proc/sys/kernel/hostname"),
        open_files: hard_limits.get("nofile").map_or(OPEN_FILES, |&own| own.min(OPEN_FILES)),
        hard_limits,
        oom_score_adj: read("/proc/self/oom_score_adj").parse().unwrap_or(0),
        capabilities: field(&status, "CapBnd").and_then(|m| u64::from_str_radix(m, 16).ok()).unwrap_or(0),
        kernel: kernel(&read("/proc/sys/kernel/osrelease")),
        seccomp: field(&status, "Seccomp").is_some(),
        apparmor: read("/sys/module/apparmor/parameters/enabled") == "Y",
        cgroups: cgroups(),
        init: INITS.iter().map(PathBuf::from).find(|p| p.is_file()),
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim())
}

fn kernel(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The hard limits of `/proc/PID/limits` that are not unlimited.
fn hard_limits(table: &str) -> BTreeMap<String, u64> {
    const NAMES: [(&str, &str); 16] = [
        ("Max address space", "as"),
        ("Max core file size", "core"),
        ("Max cpu time", "cpu"),
        ("Max data size", "data"),
        ("Max file size", "fsize"),
        ("Max file locks", "locks"),
        ("Max locked memory", "memlock"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max open files", "nofile"),
        ("Max processes", "nproc"),
        ("Max resident set", "rss"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
        ("Max pending signals", "sigpending"),
        ("Max stack size", "stack"),
    ];
    let of = |title: &str| {
        let line = table.lines().find_map(|l| l.strip_prefix(title))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    NAMES.iter().filter_map(|(title, name)| Some(((*name).to_owned(), of(title)?))).collect()
}

fn cgroups() -> Cgroups {
    let root = Path::new("/sys/fs/cgroup");
    let unified = root.join("cgroup.controllers").exists();
    let controllers: BTreeSet<String> = if unified {
        let mut all: BTreeSet<String> =
            read("/sys/fs/cgroup/cgroup.controllers").split_whitespace().map(str::to_owned).collect();
        // There a program does it.
        all.insert("devices".to_owned());
        all
    } else {
        mounted(&read("/proc/self/mounts"))
    };
    let swap = match unified {
        // Counted wherever memory is, unless the kernel was built or told not to.
        true => Path::new("/proc/swaps").exists() && !swap_is_switched_off(&read("/proc/cmdline")),
        false => root.join("memory/memory.memsw.limit_in_bytes").exists(),
    };
    Cgroups { unified, controllers, swap }
}

/// The controllers of version 1 that are mounted.
fn mounted(mounts: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [_, _, "cgroup", options, ..] = words[..] {
            found.extend(options.split(',').filter(|o| CONTROLLERS.contains(o)).map(str::to_owned));
        }
    }
    found
}

fn swap_is_switched_off(command_line: &str) -> bool {
    command_line.split_whitespace().any(|w| w == "swapaccount=0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max cpu time              unlimited            unlimited            seconds   \n\
             Max open files            1024                 20000                files     \n\
             Max nice priority         0                    0                    \n";
        assert_eq!(hard_limits(limits), [("nofile".to_owned(), 20000), ("nice".to_owned(), 0)].into());
        assert_eq!(kernel("6.1.0-28-amd64"), (6, 1));
        assert_eq!(kernel("6.18-rc1"), (6, 18));
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,nosuid,cpu,cpuacct 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n\
             cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
             tmpfs /x tmpfs rw,pids 0 0\n";
        assert_eq!(mounted(mounts), ["cpu".to_owned(), "memory".to_owned()].into());
        assert!(swap_is_switched_off("quiet swapaccount=0") && !swap_is_switched_off("swapaccount=1"));
    }

    #[test]
    fn this_machine_is_seen() {
        let host = look();
        assert!(host.kernel >= (4, 0) && host.open_files > 0 && !host.name.is_empty(), "{host:?}");
    }
}
