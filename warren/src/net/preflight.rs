//! Looks whether the node's network could work here, and changes nothing.

use std::{fmt, fs};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Config, NetError,
    datapath::{
        bpffs::{self, Lock},
        links::cgroup_root,
        loader::has_object,
        sys,
    },
    home,
    netlink::{Netlink, host::Host},
};

/// Something that stands in the way: one sentence that says what and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The sentence.
    pub sentence: String,
}

impl Problem {
    fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Everything that would keep [`super::start`] from working; empty when nothing would. What of it must
/// be asked of the routing socket is in [`misnamed_interfaces`] and [`pool_conflict`].
#[must_use]
pub fn preflight(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        problems.push(Problem::new("a node needs root: run the command with sudo"));
    }
    if !has_object() {
        problems.push(Problem::new(NetError::NoObject.to_string()));
    }
    if let Ok(release) = nix::sys::utsname::uname() {
        let release = release.release().to_string_lossy();
        if !kernel_is_recent_enough(&release) {
            problems.push(Problem::new(format!(
                "Linux {release} is too old: the node's network needs Linux 6.1 or newer"
            )));
        }
    }
    // Without root every call is refused, which was said above.
    if nix::unistd::geteuid().is_root() {
        problems.extend(bpf());
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let bpf_known = filesystems.lines().any(|l| l.split_whitespace().last() == Some("bpf"));
    if !bpffs::is_bpffs(&config.pin_root) {
        if !bpf_known {
            problems.push(Problem::new(
                "this kernel has no BPF file system: use one built with CONFIG_BPF_SYSCALL",
            ));
        } else if !config.pin_root.starts_with(bpffs::USUAL) {
            problems.push(Problem::new(NetError::NotBpffs { path: config.pin_root.clone() }.to_string()));
        }
    } else if config.pin_root.is_dir()
        && let Err(e @ NetError::Locked { .. }) = Lock::take(&config.pin_root)
    {
        problems.push(Problem::new(e.to_string()));
    }
    if let Err(e @ NetError::Elsewhere) = home::check(config) {
        problems.push(Problem::new(e.to_string()));
    }
    if let Err(e) = cgroup_root() {
        problems.push(Problem::new(e.to_string()));
    }
    problems
}

fn bpf() -> Option<Problem> {
    let error = sys::probe().err()?;
    Some(Problem::new(match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "this kernel has no BPF: use one built with CONFIG_BPF_SYSCALL".to_owned()
        }
        Some(libc::EPERM) => {
            "the kernel refuses BPF although we are root: give this container or unit the capabilities BPF, NET_ADMIN and SYS_ADMIN".to_owned()
        }
        _ => format!("the kernel refuses BPF ({error}): see `dmesg`"),
    }))
}

fn kernel_is_recent_enough(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 1)
}

/// Looks whether what `--interface` names takes part.
///
/// # Errors
/// When the node's devices cannot be read.
pub async fn misnamed_interfaces(interfaces: &[String]) -> Result<Vec<Problem>, NetError> {
    if interfaces.is_empty() {
        return Ok(Vec::new());
    }
    let host = Netlink::open()?.host().await?;
    Ok(host.misnamed(interfaces).into_iter().map(Problem::new).collect())
}

/// Looks whether the cluster's pools overlap a network that this node reaches already.
///
/// # Errors
/// When the node's addresses and routes cannot be read.
pub async fn pool_conflict(pool: Ipv4Net, pool6: Ipv6Net) -> Result<Option<Problem>, NetError> {
    let host = Netlink::open()?.host().await?;
    Ok([(IpNet::V4(pool), "--pool"), (IpNet::V6(pool6), "--pool6")]
        .into_iter()
        .find_map(|(net, flag)| overlap(&host, net, flag)))
}

fn overlap(host: &Host, pool: IpNet, flag: &str) -> Option<Problem> {
    let overlaps = |net: &IpNet| net.contains(&pool.network()) || pool.contains(&net.network());
    let ours = |device: u32| host.devices.iter().any(|d| d.index == device && d.is_ours());
    let name = |device: u32| {
        host.devices.iter().find(|d| d.index == device).map_or("a device", |d| d.name.as_str()).to_owned()
    };
    let address = host
        .addresses
        .iter()
        .find(|a| !ours(a.device) && overlaps(&a.net.trunc()))
        .map(|a| format!("the network {} of {}", a.net.trunc(), name(a.device)));
    let route = || {
        host.routes
            .iter()
            // The default route overlaps everything and is in nobody's way.
            .filter(|r| r.destination.prefix_len() > 0 && !r.device.is_some_and(ours))
            .find(|r| overlaps(&r.destination))
            .map(|r| {
                let by = r.device.map_or("nowhere".to_owned(), |d| format!("by {}", name(d)));
                format!("the route to {} {by}", r.destination)
            })
    };
    let what = address.or_else(route)?;
    Some(Problem::new(format!("the containers' pool {pool} overlaps {what}: choose another one with {flag}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netlink::host::{Address, Device, Layer, Route};

    #[test]
    fn kernels() {
        for (release, enough) in [
            ("6.1.0-50-cloud-amd64", true),
            ("6.18.44-fc", true),
            ("10.0", true),
            ("6.0.19", false),
            ("5.15.0-100-generic", false),
            ("rubbish", false),
        ] {
            assert_eq!(kernel_is_recent_enough(release), enough, "{release}");
        }
    }

    #[test]
    fn a_pool_may_not_overlap_what_the_node_reaches_already() {
        let device = |index, name: &str, mac: Vec<u8>| Device {
            index,
            name: name.into(),
            alias: None,
            mac,
            mtu: 1500,
            layer: Layer::Ethernet,
            controller: None,
            up: true,
        };
        let route = |destination: &str, device| Route {
            destination: destination.parse().unwrap(),
            device: Some(device),
            gateway: None,
            source: None,
            metric: 0,
        };
        let host = Host {
            devices: vec![
                device(2, "eth0", vec![2]),
                device(3, "wrabc", crate::net::attach::HOST_MAC.to_vec()),
            ],
            addresses: vec![Address {
                device: 2,
                net: "10.1.2.3/24".parse().unwrap(),
                global: true,
                secondary: false,
            }],
            routes: vec![route("0.0.0.0/0", 2), route("172.16.0.0/12", 2), route("10.86.0.5/32", 3)],
        };
        let found = |pool: &str| overlap(&host, pool.parse().unwrap(), "--pool").map(|p| p.sentence);
        let problem = found("10.1.0.0/16").unwrap();
        assert!(problem.contains("10.1.2.0/24 of eth0") && problem.contains("--pool"), "{problem}");
        assert!(found("172.20.0.0/16").unwrap().contains("172.16.0.0/12"));
        assert_eq!(found("10.86.0.0/16"), None, "a container's own route and the default route do not count");
        assert_eq!(found("fd00::/64"), None);
    }
}
