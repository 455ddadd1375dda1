//! Services: what a user asks for.

use std::{collections::BTreeMap, time::Duration};

use super::{ImageReference, PortSpec, ServiceId, Timestamp};

/// What a user wants of a service. Stored as written; Warren never changes it by itself.
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
}

/// What one task runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// The image, in full form.
    pub image: ImageReference,
    /// Replaces the image's entrypoint when set. An empty list clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Added to the image's environment, replacing variables of the same name.
    pub env: Vec<(String, String)>,
    /// How long a task may take to stop between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// What happens when a task ends.
    pub restart: RestartPolicy,
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
}

impl RestartPolicy {
    /// No replacement waits longer than this.
    pub const MAX_DELAY: Duration = Duration::from_secs(60);
    /// A task that ran for this long was healthy: the delay starts anew after it.
    pub const STABLE_AFTER: Duration = Duration::from_secs(10);
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { condition: RestartCondition::Any, delay: Duration::from_secs(1) }
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
            entrypoint: None,
            args: Vec::new(),
            env: Vec::new(),
            stop_grace: DEFAULT_STOP_GRACE,
            restart: RestartPolicy::default(),
        }
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
    /// Set when the user removed the service: its tasks are being shut down, then it goes.
    pub removing: bool,
    /// When it was created.
    pub created_at: Timestamp,
}
