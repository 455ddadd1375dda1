//! What is mounted in a container: what every one has, then what its service says.

use std::path::{Path, PathBuf};

use oci_spec::runtime as oci;

use super::{INIT, SpecError, SpecInput};
use crate::model::{NetworkMode, Propagation};

/// Docker's size of /dev/shm.
const SHM: u64 = 64 << 20;

/// Something to mount, found or made on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    /// In the container; absolute.
    pub target: PathBuf,
    /// What.
    pub source: HostSource,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSource {
    /// A file or directory that exists: of the node, or a volume's.
    Bind {
        /// Where.
        path: PathBuf,
        /// How mounts below it propagate.
        propagation: Propagation,
        /// Whether what is mounted below it is left out.
        non_recursive: bool,
    },
    /// Memory.
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        /// Permission bits.
        mode: Option<u32>,
    },
}

fn mount(to: &Path, kind: &str, from: &Path, options: Vec<String>) -> Result<oci::Mount, SpecError> {
    Ok(oci::MountBuilder::default().destination(to).typ(kind).source(from).options(options).build()?)
}

fn words(options: &str) -> Vec<String> {
    options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect()
}

/// A path without `.`, `..` and doubled slashes, as the container's own root bounds it.
pub(in crate::worker::runtime) fn clean(path: &Path) -> PathBuf {
    use std::path::Component::{CurDir, Normal, ParentDir, Prefix, RootDir};
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Normal(name) => clean.push(name),
            ParentDir => _ = clean.pop(),
            CurDir | RootDir | Prefix(_) => {}
        }
    }
    clean
}

/// What every container has.
fn standard(input: &SpecInput<'_>) -> Result<Vec<oci::Mount>, SpecError> {
    let spec = &input.task.spec;
    let shm = format!("nosuid,noexec,nodev,mode=1777,size={}", spec.shm_size.unwrap_or(SHM));
    let sys = if spec.security.privileged { "nosuid,noexec,nodev" } else { "nosuid,noexec,nodev,ro" };
    let cgroup = if spec.security.privileged {
        "nosuid,noexec,nodev,relatime"
    } else {
        "nosuid,noexec,nodev,relatime,ro"
    };
    let made = [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", "tmpfs", "shm", shm.as_str()),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "sysfs", sys),
        ("/sys/fs/cgroup", "cgroup", "cgroup", cgroup),
    ];
    let mut all = Vec::new();
    for (to, kind, from, options) in made {
        all.push(mount(Path::new(to), kind, Path::new(from), words(options))?);
    }
    // With a root that can only be read these can too, as with Docker.
    let bound = if spec.read_only { "rbind,rprivate,ro" } else { "rbind,rprivate" };
    for (to, from) in [
        ("/etc/hosts", &input.files.hosts),
        ("/etc/hostname", &input.files.hostname),
        ("/etc/resolv.conf", &input.files.resolv_conf),
    ] {
        all.push(mount(Path::new(to), "bind", from, words(bound))?);
    }
    if spec.init {
        let init = input.host.init.as_deref().ok_or_else(|| {
            SpecError::Refused(
                "--init needs a small init on the node, and there is none: install the package \"tini\" there (it brings /usr/bin/tini-static)".to_owned(),
            )
        })?;
        all.push(mount(Path::new(INIT), "bind", init, words("bind,ro"))?);
    }
    Ok(all)
}

fn own(m: &HostMount) -> Result<oci::Mount, SpecError> {
    match &m.source {
        HostSource::Bind { path, propagation, non_recursive } => {
            let bind = if *non_recursive { "bind" } else { "rbind" };
            let mut options = vec![bind.to_owned(), propagation.name().to_owned()];
            match (m.read_only, non_recursive) {
                (false, _) => {}
                (true, true) => options.push("ro".to_owned()),
                // What is mounted below is read-only too: since version 25 Docker's way.
                (true, false) => options.push("rro".to_owned()),
            }
            mount(&m.target, "bind", path, options)
        }
        HostSource::Tmpfs { size, mode } => {
            let mut options = words("noexec,nosuid,nodev,rprivate");
            options.extend(size.map(|n| format!("size={n}")));
            options.extend(mode.map(|n| format!("mode={n:o}")));
            options.extend(m.read_only.then(|| "ro".to_owned()));
            mount(&m.target, "tmpfs", Path::new("tmpfs"), options)
        }
    }
}

/// All mounts in the order in which they are made: what is above another comes first. What the
/// service mounts takes the place of what every container has there.
pub(super) fn mounts(input: &SpecInput<'_>) -> Result<Vec<oci::Mount>, SpecError> {
    let mut wanted: Vec<&HostMount> = input.mounts.iter().collect();
    wanted.sort_by_key(|m| (clean(&m.target).components().count(), clean(&m.target)));
    for pair in wanted.windows(2) {
        if clean(&pair[0].target) == clean(&pair[1].target) {
            return Err(SpecError::Refused(format!(
                "two mounts have the target {}; leave one away",
                clean(&pair[0].target).display()
            )));
        }
    }
    if wanted.iter().any(|m| clean(&m.target) == Path::new("/")) {
        return Err(SpecError::Refused(
            "a mount cannot have the target /; name a directory below it".to_owned(),
        ));
    }
    let taken = |at: &Path| {
        wanted.iter().any(|m| {
            let target = clean(&m.target);
            // With a /dev of one's own nothing is put below it.
            target == at || (target == Path::new("/dev") && at.starts_with("/dev"))
        })
    };
    let mut all: Vec<oci::Mount> = standard(input)?.into_iter().filter(|m| !taken(m.destination())).collect();
    for m in wanted {
        all.push(own(m)?);
    }
    Ok(all)
}

/// How mounts of the node propagate into the container: as the most sharing bind needs it.
pub(super) fn root_propagation(mounts: &[HostMount]) -> Option<&'static str> {
    let has = |kinds: [Propagation; 2]| {
        mounts
            .iter()
            .any(|m| matches!(&m.source, HostSource::Bind { propagation, .. } if kinds.contains(propagation)))
    };
    if has([Propagation::Shared, Propagation::RShared]) {
        Some("shared")
    } else if has([Propagation::Slave, Propagation::RSlave]) {
        Some("rslave")
    } else {
        None
    }
}

/// Whether the container has an /etc/hosts and resolv.conf made for it or copied from the node.
pub(in crate::worker::runtime) fn uses_node_files(network: NetworkMode) -> bool {
    network == NetworkMode::Host
}
