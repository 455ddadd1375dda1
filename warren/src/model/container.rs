//! How a task's container is to be made: everything of a task that is neither its image nor its
//! process. Names, units and defaults are Docker's; an absent value means Docker's default.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, time::Duration};

/// When the node asks a registry for a task's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Before every start, also when an image of the name is here.
    Always,
    /// When no image of the name is here.
    #[default]
    Missing,
    /// Never: an absent image is a rejection.
    Never,
}

/// What a container is joined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// An address of its own in the cluster's network.
    #[default]
    Cluster,
    /// The node's own network: no address, no published ports.
    Host,
    /// Nothing but a loopback device of its own.
    None,
}

impl NetworkMode {
    /// Whether tasks of this mode have a place in the cluster's network.
    #[must_use]
    pub fn is_attached(self) -> bool {
        self == Self::Cluster
    }
}

/// What the container's resolver and host table say beyond the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Lines added to /etc/hosts.
    pub hosts: Vec<(String, IpAddr)>,
    /// Name servers; the node's own when empty.
    pub dns: Vec<IpAddr>,
    /// Search domains; the node's own when empty. A single `.` means none.
    pub dns_search: Vec<String>,
    /// Resolver options; the node's own when empty.
    pub dns_options: Vec<String>,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where in the container; absolute.
    pub target: PathBuf,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A file or directory of the node.
    Bind {
        /// Absolute; must exist unless `create`.
        path: PathBuf,
        /// How mounts below it propagate.
        propagation: Propagation,
        /// Whether what is mounted below it is left out.
        non_recursive: bool,
        /// Whether a missing source is made as a directory.
        create: bool,
    },
    /// A volume of the node, made when first used.
    Volume {
        /// `None`: one of the task's own, removed with it.
        name: Option<String>,
        /// Whether a new one is left empty instead of filled with what the image has there.
        no_copy: bool,
        /// Labels of the volume, when it is made.
        labels: BTreeMap<String, String>,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; half of the node's memory when absent (the kernel's default).
        size: Option<u64>,
        /// Permission bits of its root, 1777 when absent.
        mode: Option<u32>,
    },
}

/// How mounts made later are seen on the other side of a bind. The words are those of mount(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Propagation {
    #[default]
    RPrivate,
    Private,
    RShared,
    Shared,
    RSlave,
    Slave,
}

impl Propagation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::RPrivate, Self::Private, Self::RShared, Self::Shared, Self::RSlave, Self::Slave];

    /// As mount(8) and Docker write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RPrivate => "rprivate",
            Self::Private => "private",
            Self::RShared => "rshared",
            Self::Shared => "shared",
            Self::RSlave => "rslave",
            Self::Slave => "slave",
        }
    }
}

/// A device of the node that the container may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the node.
    pub host: PathBuf,
    /// In the container.
    pub container: PathBuf,
    /// Some of `r`, `w` and `m`, in this order.
    pub access: String,
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Without `RLIMIT_`, lower case: `nofile`.
    pub name: String,
    /// `u64::MAX` for unlimited.
    pub soft: u64,
    /// `u64::MAX` for unlimited.
    pub hard: u64,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// Docker's default list.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// A profile in Docker's JSON form.
    Profile(String),
}

/// What a container may do to its node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// Capabilities beyond the default set, without `CAP_`, upper case; or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities of the default set that are left out; or `ALL`.
    pub cap_drop: Vec<String>,
    /// Everything: all capabilities and devices, no seccomp, nothing masked or read-only.
    pub privileged: bool,
    /// Devices beyond the default ones.
    pub devices: Vec<Device>,
    /// Kernel parameters of the container's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// System calls.
    pub seccomp: Seccomp,
    /// Whether set-user-id programs and file capabilities have no effect.
    pub no_new_privileges: bool,
    /// Whether /proc and /sys are shown whole (`systempaths=unconfined`).
    pub unmasked_paths: bool,
    /// AppArmor profile; the runtime's default when absent.
    pub apparmor: Option<String>,
}

/// What a container may use of its node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory that are left to it when memory gets short.
    pub memory_reservation: Option<u64>,
    /// Memory and swap together, bytes; −1 for as much swap as there is. Twice `memory` when
    /// absent.
    pub memory_swap: Option<i64>,
    /// Most processes and threads.
    pub pids: Option<u64>,
    /// −1000 to 1000: who is killed first when memory runs out.
    pub oom_score_adj: Option<i32>,
}

/// How much of a container's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of one file.
    pub max_size: u64,
    /// Files kept, the one being written among them.
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 3 }
    }
}

/// How it is found out whether a container works.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthCheck {
    /// What is tried; what the image says when absent.
    pub probe: Option<Probe>,
    /// Between the end of one try and the next.
    pub interval: Option<Duration>,
    /// How long one try may take.
    pub timeout: Option<Duration>,
    /// Failed tries in a row that make it unhealthy.
    pub retries: Option<u32>,
    /// From the start on, failed tries do not count for so long.
    pub start_period: Option<Duration>,
    /// Between tries while the start period lasts.
    pub start_interval: Option<Duration>,
}

/// One way to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Nothing is tried, whatever the image says.
    Disabled,
    /// A program in the container: exit status 0 is good.
    Command(Vec<String>),
    /// A line for the container's `/bin/sh -c`.
    Shell(String),
    /// An HTTP request to the container.
    Http(HttpProbe),
    /// A TCP connection to this port of the container.
    Tcp(u16),
}

/// An HTTP request and the answers that are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// TLS; the certificate is not verified, since it is for another name.
    pub https: bool,
    /// On the container.
    pub port: u16,
    /// With its query; begins with `/`.
    pub path: String,
    /// `GET`, `HEAD`, ….
    pub method: String,
    /// Sent with the request.
    pub headers: Vec<(String, String)>,
    /// First and last of each range of good status codes; 200–399 when empty.
    pub statuses: Vec<(u16, u16)>,
}

/// Bytes that only this cluster's managers and nodes can read: a registry's credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}
