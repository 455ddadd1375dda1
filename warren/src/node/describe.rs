//! What a node says of itself.

use procfs::Current as _;

use super::NodeConfig;
use crate::model::NodeDescription;

/// The node as the cluster is to know it.
pub(super) fn describe(config: &NodeConfig) -> NodeDescription {
    let uname = nix::sys::utsname::uname().ok();
    let text = |s: Option<&std::ffi::OsStr>| s.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    NodeDescription {
        name: config.name.clone().unwrap_or_else(|| text(uname.as_ref().map(|u| u.nodename()))),
        labels: config.labels.clone(),
        arch: std::env::consts::ARCH.to_owned(),
        kernel: text(uname.as_ref().map(|u| u.release())),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory: procfs::Meminfo::current().map_or(0, |m| m.mem_total),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        publish_default: config.publish_default,
    }
}
