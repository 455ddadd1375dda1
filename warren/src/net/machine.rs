//! What the machine at hand has, as far as the network asks.

use std::path::Path;

/// Why new links get no IPv6, if so.
pub(super) fn without_ipv6() -> Option<&'static str> {
    let sysctls = Path::new("/proc/sys/net/ipv6/conf");
    if !sysctls.exists() {
        return Some("this kernel has no IPv6");
    }
    let off = |which: &str| {
        std::fs::read_to_string(sysctls.join(which).join("disable_ipv6")).is_ok_and(|s| s.trim() == "1")
    };
    off("default").then_some("IPv6 is switched off here (net.ipv6.conf.default.disable_ipv6)")
}

/// Processors of the machine that are at work.
pub(super) fn cpus() -> usize {
    aya::util::online_cpus().map_or(1, |cpus| cpus.len())
}

/// Memory of the machine, in bytes.
pub(super) fn memory() -> u64 {
    use procfs::Current;
    procfs::Meminfo::current().map_or(1 << 30, |m| m.mem_total)
}
