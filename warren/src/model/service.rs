//! Services: what a user asks for.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    ClientLimits, HealthCheck, ImageReference, LogLimits, Mount, Names, NetworkMode, PortSpec, PullPolicy,
    Resources, Sealed, Security, ServiceId, Timestamp, Ulimit,
};

/// What a user wants of a service. Stored as written, but that published ports which were left open
/// have a number; Warren never changes it by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Unique in the cluster; a DNS label (see `validate`).
    pub name: String,
    /// Free labels on the service.
    pub labels: BTreeMap<String, String>,
    /// How many tasks should run.
    pub replicas: u32,
    /// What each task runs.
    pub task: TaskSpec,
    /// Ports published for the service.
    pub publish: Vec<PortSpec>,
    /// What one client gets of each of them.
    pub limits: ClientLimits,
}

/// What one task runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// The image, in full form.
    pub image: ImageReference,
    /// When a registry is asked for it.
    pub pull: PullPolicy,
    /// Credentials for the image's registry, if it needs any: a sealed [`super::RegistryAuth`].
    pub registry_auth: Option<Sealed>,
    /// Replaces the image's entrypoint when set. An empty list clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Added to the image's environment, replacing variables of the same name.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub workdir: Option<PathBuf>,
    /// Replaces the image's user: `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Further groups of the process, names or numbers.
    pub groups: Vec<String>,
    /// The container's host name; service and slot when absent.
    pub hostname: Option<String>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// Whether a small init is the first process: it reaps orphans and passes signals on.
    pub init: bool,
    /// Whether the process has a terminal.
    pub tty: bool,
    /// Resolver and host table.
    pub names: Names,
    /// What is mounted into it.
    pub mounts: Vec<Mount>,
    /// Whether its root file system can only be read.
    pub read_only: bool,
    /// Bytes of /dev/shm, 64 MiB when absent.
    pub shm_size: Option<u64>,
    /// What it may do.
    pub security: Security,
    /// Limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// What it is joined to.
    pub network: NetworkMode,
    /// What it may use.
    pub resources: Resources,
    /// How it is found out whether it works; what the image says when absent.
    pub health: HealthCheck,
    /// How much of its output is kept.
    pub log: LogLimits,
    /// Replaces the image's stop signal: its number.
    pub stop_signal: Option<i32>,
    /// How long a task may take to stop between its stop signal and SIGKILL.
    pub stop_grace: Duration,
    /// What happens when a task ends.
    pub restart: RestartPolicy,
    /// Counts what replaces tasks though nothing else changed.
    pub force_update: u32,
}

/// When an ended task is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartCondition {
    /// Never.
    None,
    /// When it ended with a failure.
    OnFailure,
    /// Always.
    Any,
}

/// What happens when a task ends. The delay doubles with each task of the slot that ended early,
/// up to [`RestartPolicy::MAX_DELAY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// When to replace.
    pub condition: RestartCondition,
    /// Delay before the first replacement.
    pub delay: Duration,
    /// Replacements of one slot within `window`; 0 for no limit.
    pub max_attempts: u32,
    /// How far back replacements are counted; zero for all of them.
    pub window: Duration,
}

impl RestartPolicy {
    /// No replacement waits longer than this.
    pub const MAX_DELAY: Duration = Duration::from_secs(60);
    /// Most replacements that a limit can allow: each is remembered.
    pub const MAX_ATTEMPTS: u32 = 1000;
    /// A task that ran for this long was healthy: the delay starts anew after it.
    pub const STABLE_AFTER: Duration = Duration::from_secs(10);
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(1),
            max_attempts: 0,
            window: Duration::ZERO,
        }
    }
}

/// Default of [`TaskSpec::stop_grace`], Docker's.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

impl TaskSpec {
    /// A task of `image` with everything else at its default.
    #[must_use]
    pub fn new(image: ImageReference) -> Self {
        Self {
            image,
            pull: PullPolicy::default(),
            registry_auth: None,
            entrypoint: None,
            args: Vec::new(),
            env: Vec::new(),
            workdir: None,
            user: None,
            groups: Vec::new(),
            hostname: None,
            labels: BTreeMap::new(),
            init: false,
            tty: false,
            names: Names::default(),
            mounts: Vec::new(),
            read_only: false,
            shm_size: None,
            security: Security::default(),
            ulimits: Vec::new(),
            network: NetworkMode::default(),
            resources: Resources::default(),
            health: HealthCheck::default(),
            log: LogLimits::default(),
            stop_signal: None,
            stop_grace: DEFAULT_STOP_GRACE,
            restart: RestartPolicy::default(),
            force_update: 0,
        }
    }

    /// Whether a container made of `other` is as good as one made of this. What is of no
    /// consequence to a container that runs (how its image was got, what happens after its end)
    /// makes no difference.
    #[must_use]
    pub fn same_container(&self, other: &Self) -> bool {
        // The usual case, without a copy.
        if self == other {
            return true;
        }
        let other = Self {
            pull: self.pull,
            registry_auth: self.registry_auth.clone(),
            restart: self.restart,
            ..other.clone()
        };
        *self == other
    }
}

/// A service as the cluster stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Never reused.
    pub id: ServiceId,
    /// Store index of the last change; a writer names the version it read.
    pub version: u64,
    /// Changes only when the spec does: tasks name the one they were made from.
    pub spec_version: u64,
    /// The numeric name of the service in the datapath, 1–65535; unique among live services.
    /// 0 until the allocator has chosen it.
    pub datapath_id: u32,
    /// What the user wants.
    pub spec: ServiceSpec,
    /// What the user wanted before the last update: what a rollback returns to.
    pub previous: Option<ServiceSpec>,
    /// Set when the user removed the service: its tasks are being shut down, then it goes.
    pub removing: bool,
    /// When it was created.
    pub created_at: Timestamp,
}
