//! `cargo xtask deps`: what building, running and testing Warren needs of the machine.
//!
//! On Debian and its children it is installed, as root; elsewhere it is listed with the way to get
//! it. What is already there, from whatever source, is left alone.

mod apt;
mod bpf;
mod qemu;

use anyhow::{Result, bail};

use crate::process::{find, is_root, say};

pub use qemu::Qemu;

/// A program the machine must have.
struct Need {
    program: &'static str,
    why: &'static str,
    /// Debian packages that bring it, the first that the archive has.
    packages: &'static [&'static str],
}

const fn need(program: &'static str, why: &'static str, packages: &'static [&'static str]) -> Need {
    Need { program, why, packages }
}

const NEEDS: &[Need] = &[
    need("containerd", "runs containers", &["containerd"]),
    need("containerd-shim-runc-v2", "keeps containers when containerd is away", &["containerd"]),
    need("ctr", "tests look into containerd with it", &["containerd"]),
    need("runc", "starts containers", &["runc"]),
    need("tini-static", "is the first process of services with --init", &["tini"]),
    need("protoc", "generates the wire code", &["protobuf-compiler"]),
    need("cc", "compiles parts of dependencies and links", &["gcc"]),
    need("c++", "links the BPF linker", &["g++"]),
    need("cmake", "builds parts of dependencies", &["cmake"]),
    need("bpftool", "shows maps and programs", &["bpftool", "linux-tools-generic"]),
    need("ip", "tests and demo make hosts of network namespaces", &["iproute2"]),
    need("ss", "tests look at sockets", &["iproute2"]),
    need("nft", "tests see that no rule is Warren's", &["nftables"]),
    need("iptables-legacy-save", "tests see that no rule is Warren's", &["iptables"]),
    need("ip6tables-legacy-save", "tests see that no rule is Warren's", &["iptables"]),
    need("curl", "the client of tests and demo", &["curl"]),
    need("docker-registry", "the registry that tests pull from", &["docker-registry"]),
    need("htpasswd", "tests give that registry a password", &["apache2-utils"]),
    need("zstd", "tests pack layers with it", &["zstd"]),
    need("ps", "tests look at processes", &["procps"]),
    need("busybox", "tests get addresses by DHCP with it", &["busybox-static", "busybox"]),
    need("networkctl", "tests let systemd-networkd at a node's links", &["systemd"]),
    need("dockerd", "tests run Docker's engine beside a node", &["docker.io"]),
    need("docker", "tests run Docker's engine beside a node", &["docker-cli", "docker.io"]),
];

/// Only for `cargo xtask test`, which boots other kernels.
const QEMU: Need = need("qemu-system-x86_64", "boots other kernels", &["qemu-system-x86"]);
const KERNEL_NEEDS: &[Need] = &[
    need("xz", "unpacks kernel modules", &["xz-utils"]),
    need("apt-get", "fetches Debian's kernels", &["apt"]),
    need("dpkg-deb", "unpacks Debian's kernels", &["dpkg"]),
];

/// Only for `cargo xtask bench datapath`: whom Warren is measured beside.
const RIVAL_NEEDS: &[Need] = &[
    need("haproxy", "is measured beside", &["haproxy"]),
    need("docker-proxy", "is measured beside", &["docker.io"]),
    need("iptables-nft-restore", "is measured beside", &["iptables"]),
    need("iptables-legacy-restore", "is measured beside", &["iptables"]),
];

/// Installs what is missing.
///
/// # Errors
/// Something is missing and cannot be installed: says what, and how to get it.
pub fn run() -> Result<()> {
    say("what this machine needs");
    provide(NEEDS)?;
    bpf::provide()
}

/// Provides what booting other kernels needs on top.
///
/// # Errors
/// As [`run`].
pub fn for_kernels() -> Result<Qemu> {
    provide(KERNEL_NEEDS)?;
    qemu::provide()
}

/// Installs whom Warren is measured beside.
///
/// # Errors
/// As [`run`].
pub fn for_rivals() -> Result<()> {
    provide(RIVAL_NEEDS)
}

fn provide(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|n| find(n.program).is_none()).collect();
    if missing.is_empty() {
        eprintln!("    all {} programs are here", needs.len());
        return Ok(());
    }
    for n in &missing {
        eprintln!("    missing: {} ({})", n.program, n.why);
    }
    if !apt::here() {
        let list: Vec<String> = missing
            .iter()
            .map(|n| format!("  {}: {} (Debian package {})", n.program, n.why, n.packages[0]))
            .collect();
        bail!("this is no Debian, so install these with your own package manager:\n{}", list.join("\n"));
    }
    let wanted: Vec<&[&str]> = missing.iter().map(|n| n.packages).collect();
    if !is_root() {
        let mut names: Vec<&str> = wanted.iter().map(|w| w[0]).collect();
        names.dedup();
        bail!(
            "only root can install them: run `sudo apt-get install --no-install-recommends {}`",
            names.join(" ")
        );
    }
    apt::install(&wanted)?;
    match missing.iter().find(|n| find(n.program).is_none()) {
        Some(n) => {
            bail!("{} is still missing though its package was installed: look at apt's output", n.program)
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_names_a_package() {
        for n in NEEDS.iter().chain(KERNEL_NEEDS).chain(RIVAL_NEEDS).chain([&QEMU]) {
            assert!(!n.packages.is_empty() && !n.why.is_empty(), "{}", n.program);
        }
    }
}
