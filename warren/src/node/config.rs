//! What a node is told at its start.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{NodeError, identity::RuntimeRecord};
use crate::{
    model::{NodeId, PublishDefault},
    net,
    worker::{
        logs::Logs,
        runtime::{
            self, RuntimeConfig, SupervisorConfig,
            image::{Registries, Watermarks},
        },
    },
};

/// Where a node keeps its data unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/warren";

/// Default of `--pool`.
pub(super) const DEFAULT_POOL: &str = "10.90.0.0/16";
/// Default of `--pool6`: a unique local prefix (RFC 4193) whose 40 bits spell "warre".
pub(super) const DEFAULT_POOL6: &str = "fd77:6172:7265::/48";

/// Where a node finds its containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Containerd {
    /// The machine's, when one answers; else the node's own.
    Found,
    /// The node's own, supervised.
    Embedded,
    /// This one.
    Socket(PathBuf),
}

impl Containerd {
    /// The socket to use, `None` for the node's own, given what was used before: containers stay
    /// where they are.
    pub(super) async fn choose(&self, before: Option<&RuntimeRecord>) -> Result<Option<PathBuf>, NodeError> {
        let Some(before) = before else {
            return Ok(match self {
                Self::Socket(path) => Some(path.clone()),
                Self::Embedded => None,
                Self::Found => runtime::discover().await,
            });
        };
        let differs = match self {
            Self::Found => false,
            Self::Embedded => before.socket.is_some(),
            Self::Socket(path) => before.socket.as_ref() != Some(path),
        };
        if differs {
            let place = match &before.socket {
                Some(path) => format!("the containerd at {}", path.display()),
                None => "its own containerd".to_owned(),
            };
            return Err(NodeError::Runtime(format!(
                "this node's containers are in {place}: leave --containerd away, or start anew with `warren node reset`"
            )));
        }
        Ok(before.socket.clone())
    }
}

/// How a node logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What a node is told at its start, as the flags say it.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where it keeps what must outlive it.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
    /// Its container runtime.
    pub containerd: Containerd,
    /// Devices on which published ports answer; all that are not ours when empty.
    pub interfaces: Vec<String>,
    /// Whom ports answer that were published without an address and sources.
    pub publish_default: PublishDefault,
    /// Where what limits and deny lists refuse is dropped.
    pub guard: net::Guard,
    /// Pool of container addresses, when given.
    pub pool: Option<Ipv4Net>,
    /// The same for IPv6.
    pub pool6: Option<Ipv6Net>,
    /// The node's name, when given.
    pub name: Option<String>,
    /// Labels given.
    pub labels: BTreeMap<String, String>,
    /// `REGISTRY=URL[,URL]`: asked before the registry itself.
    pub registry_mirrors: Vec<String>,
    /// `HOST[:PORT]` of registries that may be talked to without TLS.
    pub insecure_registries: Vec<String>,
    /// Files with certificates (PEM) of authorities that registries' certificates may be of.
    pub registry_authorities: Vec<PathBuf>,
    /// When images that nobody needs are removed.
    pub watermarks: Watermarks,
    /// What to log.
    pub log_level: String,
    /// How to log.
    pub log_format: LogFormat,
}

impl NodeConfig {
    /// What the runtime is told of registries.
    pub(super) fn registries(&self) -> Result<Registries, NodeError> {
        let bad = |e: &dyn std::fmt::Display| NodeError::Registries(e.to_string());
        let mut all = Registries::default();
        for mirror in &self.registry_mirrors {
            all.add_mirror(mirror).map_err(|e| bad(&e))?;
        }
        for host in &self.insecure_registries {
            all.add_plain(host).map_err(|e| bad(&e))?;
        }
        for file in &self.registry_authorities {
            let pem = std::fs::read(file)
                .map_err(|e| bad(&format!("cannot read --registry-ca {}: {e}", file.display())))?;
            all.add_authorities(&pem).map_err(|e| bad(&format!("--registry-ca {}: {e}", file.display())))?;
        }
        Ok(all)
    }

    pub(super) fn pool(&self) -> Ipv4Net {
        self.pool.unwrap_or_else(|| DEFAULT_POOL.parse().expect("a constant"))
    }

    pub(super) fn pool6(&self) -> Ipv6Net {
        self.pool6.unwrap_or_else(|| DEFAULT_POOL6.parse().expect("a constant"))
    }
}

/// Where a node's things are. What lives as long as the machine is up is below `/run` and
/// `/sys/fs/bpf`, by the node's id, so that nodes on one kernel never meet.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) data_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) pin_root: PathBuf,
}

impl Layout {
    pub(super) fn new(data_dir: &Path, node: NodeId) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            state_dir: Path::new("/run/warren").join(node.as_str()),
            pin_root: net::pin_root(node),
        }
    }

    pub(super) fn netns_dir(&self) -> PathBuf {
        self.state_dir.join("netns")
    }

    pub(super) fn deny_file(&self) -> PathBuf {
        self.data_dir.join("deny")
    }

    pub(super) fn raft_dir(&self) -> PathBuf {
        self.data_dir.join("raft")
    }

    /// The key that the cluster's secrets are sealed with.
    pub(super) fn key(&self) -> PathBuf {
        self.data_dir.join("cluster.key")
    }

    pub(super) fn worker_dir(&self) -> PathBuf {
        self.data_dir.join("worker")
    }

    /// What its containers write.
    pub(super) fn logs(&self) -> Logs {
        Logs::below(&self.worker_dir())
    }

    /// The node's own containerd.
    pub(super) fn supervisor(&self) -> SupervisorConfig {
        SupervisorConfig { data_dir: self.data_dir.clone(), state_dir: self.state_dir.clone() }
    }

    /// Its containers in the containerd behind `socket`.
    pub(super) fn runtime(&self, node: NodeId, socket: PathBuf) -> RuntimeConfig {
        let config = RuntimeConfig::new(node, socket, self.state_dir.clone(), self.data_dir.join("runtime"));
        RuntimeConfig { logs: self.logs(), volumes_dir: self.worker_dir().join("volumes"), ..config }
    }
}
