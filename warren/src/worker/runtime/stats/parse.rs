//! The kernel's texts, made numbers. Pure.

use std::{collections::BTreeMap, path::PathBuf};

/// Where control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Hierarchies {
    /// Controllers of version 1.
    pub(super) v1: BTreeMap<String, PathBuf>,
    /// Version 2; beside version 1 it has the controllers that version 1 has not.
    pub(super) v2: Option<PathBuf>,
}

/// From `/proc/self/mounts`. Of several mounts of one hierarchy the first counts.
pub(super) fn hierarchies(mounts: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, at, kind, options, ..] = words[..] else { continue };
        let at = PathBuf::from(at.replace("\\040", " "));
        match kind {
            "cgroup2" => drop(found.v2.get_or_insert(at)),
            "cgroup" => {
                for option in options.split(',') {
                    found.v1.entry(option.to_owned()).or_insert_with(|| at.clone());
                }
            }
            _ => {}
        }
    }
    found
}

/// Bytes of memory of the node, from `/proc/meminfo`.
pub(super) fn total_memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(u64::MAX >> 10) << 10
}

/// A file of one number; `max` is none.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number after a key that has a line of its own.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Bytes used, without file pages nobody has touched for long, and the limit.
pub(super) fn memory_v1(used: &str, limit: Option<&str>, stat: Option<&str>) -> Option<(u64, Option<u64>)> {
    let stat = stat.unwrap_or_default();
    let inactive = keyed(stat, "total_inactive_file").or_else(|| keyed(stat, "inactive_file"));
    memory(used, limit, inactive)
}

/// The same of version 2.
pub(super) fn memory_v2(used: &str, limit: Option<&str>, stat: Option<&str>) -> Option<(u64, Option<u64>)> {
    memory(used, limit, keyed(stat.unwrap_or_default(), "inactive_file"))
}

fn memory(used: &str, limit: Option<&str>, inactive: Option<u64>) -> Option<(u64, Option<u64>)> {
    let used = number(used)?;
    Some((used.saturating_sub(inactive.unwrap_or(0)), limit.and_then(number)))
}

/// Nanoseconds, from `cpu.stat`.
pub(super) fn cpu_v2(stat: &str) -> Option<u64> {
    keyed(stat, "usage_usec").map(|us| us.saturating_mul(1000))
}

/// Bytes read and written on all devices.
pub(super) fn blocks_v1(text: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        let lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        lines.filter(|w| w.len() == 3 && w[1] == kind).filter_map(|w| w[2].parse::<u64>().ok()).sum()
    };
    (sum("Read"), sum("Write"))
}

/// The same, from `io.stat`.
pub(super) fn blocks_v2(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let words = text.split_whitespace();
        words.filter_map(|w| w.strip_prefix(key)?.parse::<u64>().ok()).sum()
    };
    (sum("rbytes="), sum("wbytes="))
}

/// Bytes received and sent on all devices but loopback, from `/proc/<pid>/net/dev`.
pub(super) fn network(dev: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in dev.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        if let (true, Some(received), Some(sent)) = (name.trim() != "lo", numbers.first(), numbers.get(8)) {
            sums = (sums.0 + received, sums.1 + sent);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_and_beside_each_other() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
            cgroup /elsewhere cgroup rw,relatime,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let h = hierarchies(hybrid);
        assert_eq!(h.v1["cpuacct"], PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(h.v1["memory"], PathBuf::from("/sys/fs/cgroup/memory"));
        assert_eq!(h.v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let h = hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n");
        assert!(h.v1.is_empty() && h.v2 == Some(PathBuf::from("/sys/fs/cgroup")));
    }

    #[test]
    fn memory_is_without_what_could_be_dropped() {
        let stat = "cache 8192\ninactive_file 1\ntotal_cache 8192\ntotal_inactive_file 4096\n";
        assert_eq!(
            memory_v1("10000\n", Some("9223372036854771712\n"), Some(stat)),
            Some((5904, Some(9_223_372_036_854_771_712)))
        );
        let stat = "anon 1\nfile 2\ninactive_file 1000\n";
        assert_eq!(memory_v2("10000\n", Some("max\n"), Some(stat)), Some((9000, None)));
        assert_eq!(memory_v2("10\n", Some("67108864\n"), Some(stat)), Some((0, Some(67_108_864))));
        assert_eq!(memory_v2("", None, None), None);
        assert_eq!(total_memory("MemTotal:        8119820 kB\nMemFree: 1 kB\n"), 8_119_820 << 10);
    }

    #[test]
    fn processors_and_blocks() {
        let stat = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 0\n";
        assert_eq!(cpu_v2(stat), Some(1_234_567_000));
        assert_eq!(number("98765\n"), Some(98_765));
        let v1 = "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\n8:16 Read 4\n8:16 Write 0\nTotal 12292\n";
        assert_eq!(blocks_v1(v1), (4100, 8192));
        let v2 = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=4 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n";
        assert_eq!(blocks_v2(v2), (4100, 8192));
        assert_eq!((blocks_v1(""), blocks_v2("")), ((0, 0), (0, 0)));
    }

    #[test]
    fn the_network_without_loopback() {
        let dev = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0          0\n  \
            eth0: 1234567     100    0    0    0     0          0         0    89012      90    0    0    0     0       0          0\n";
        assert_eq!(network(dev), (1_234_567, 89_012));
        assert_eq!(network(""), (0, 0));
    }
}
