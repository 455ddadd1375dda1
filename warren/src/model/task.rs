//! Tasks: one container's worth of a service, and the rules of their life.

use super::{Attachment, NodeId, ServiceId, TaskId, TaskSpec, Timestamp};

/// Where a task is in its life. Ordered: a task only ever moves to a greater state.
///
/// The numbers are those on the wire and in the store; they are spaced so that states can be
/// added between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum TaskState {
    /// Made by the orchestrator.
    New = 0,
    /// The allocator gave it what it needs of the cluster.
    Pending = 64,
    /// The scheduler chose a node and an address there.
    Assigned = 192,
    /// The node knows of it.
    Accepted = 256,
    /// The node makes its image, file system and network.
    Preparing = 320,
    /// Everything is made; nothing runs yet.
    Ready = 384,
    /// The process is being started.
    Starting = 448,
    /// The process runs.
    Running = 512,
    /// Ended by itself with status 0.
    Complete = 576,
    /// Ended because it was asked to.
    Shutdown = 640,
    /// Ended by itself with a failure, or was killed from outside.
    Failed = 704,
    /// The node could not make it.
    Rejected = 768,
    /// Its node is gone for good.
    Orphaned = 832,
    /// Only as a desired state: the record is to vanish once the task has ended.
    Remove = 896,
}

/// Who may write a task's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// Makes tasks.
    Orchestrator,
    /// NEW to PENDING.
    Allocator,
    /// PENDING to ASSIGNED.
    Scheduler,
    /// What the node reports: from ACCEPTED on.
    Worker,
    /// Declares the tasks of a lost node orphaned.
    Dispatcher,
}

impl TaskState {
    /// All states, in order.
    pub const ALL: [Self; 14] = [
        Self::New,
        Self::Pending,
        Self::Assigned,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::Starting,
        Self::Running,
        Self::Complete,
        Self::Shutdown,
        Self::Failed,
        Self::Rejected,
        Self::Orphaned,
        Self::Remove,
    ];

    /// The state with this number.
    #[must_use]
    pub fn from_number(n: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u16 == n)
    }

    /// Whether the task has ended and will never run again.
    #[must_use]
    pub fn is_final(self) -> bool {
        self > Self::Running
    }

    /// The one table of who may move a task where.
    #[must_use]
    pub fn may_move(self, to: Self, writer: Writer) -> bool {
        let allowed = match writer {
            Writer::Orchestrator => self == Self::New && to == Self::New,
            Writer::Allocator => self == Self::New && to == Self::Pending,
            Writer::Scheduler => self == Self::Pending && to == Self::Assigned,
            Writer::Worker => self >= Self::Assigned && to >= Self::Accepted && to <= Self::Rejected,
            Writer::Dispatcher => self >= Self::Assigned && to == Self::Orphaned,
        };
        allowed && (to > self || (to == self && writer == Writer::Orchestrator)) && !self.is_final()
    }

    /// The word shown to people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Orphaned => "orphaned",
            Self::Remove => "remove",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What is known of a task's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerStatus {
    /// The process on its node; 0 when it never ran.
    pub pid: u32,
    /// The exit status; 128 + n after signal n. `None` while it runs.
    pub exit_code: Option<i32>,
    /// Whether the kernel killed one of its processes because its memory limit was reached.
    pub oom_killed: bool,
}

/// Whether a container works, as its health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// It has no health check.
    #[default]
    None,
    /// Nothing is known yet.
    Starting,
    /// The last try was good.
    Healthy,
    /// Several tries in a row were not.
    Unhealthy,
}

impl Health {
    /// The word shown to people; empty without a health check.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Where a task is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// The state reached.
    pub state: TaskState,
    /// When.
    pub at: Timestamp,
    /// One sentence for a person; empty when there is nothing to say. Carries the reason of a
    /// wait ("no suitable node: …") or of an end ("exited with status 3").
    pub message: String,
    /// The container, once there is one.
    pub container: Option<ContainerStatus>,
    /// Whether it works.
    pub health: Health,
}

/// One container's worth of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Never reused; also the container's name.
    pub id: TaskId,
    /// Store index of the last change.
    pub version: u64,
    /// The service it is of.
    pub service: ServiceId,
    /// The service's name, for people and for the container's host name.
    pub service_name: String,
    /// Which of the service's replicas it is, from 1.
    pub slot: u32,
    /// What it runs; a copy, so that a change of the service does not change it.
    pub spec: TaskSpec,
    /// [`super::Service::spec_version`] it was made from.
    pub spec_version: u64,
    /// Where it runs, once scheduled.
    pub node: Option<NodeId>,
    /// Its network, once scheduled.
    pub attachment: Option<Attachment>,
    /// Where it should be: RUNNING, SHUTDOWN or REMOVE. Only ever grows.
    pub desired: TaskState,
    /// Where it is.
    pub status: TaskStatus,
    /// When it was made.
    pub created_at: Timestamp,
    /// Not started before this moment (restart back-off).
    pub start_at: Timestamp,
    /// When earlier tasks of the slot were replaced because they had ended, up to the making of
    /// this one; oldest first, and only as many as the restart policy has to count.
    pub restarts: Vec<Timestamp>,
}

impl Task {
    /// Whether it should run and has not ended.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.desired <= TaskState::Running && !self.status.state.is_final()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_only_move_forward_and_never_out_of_an_end() {
        use Writer::{Allocator, Dispatcher, Scheduler, Worker};
        for from in TaskState::ALL {
            for to in TaskState::ALL {
                for w in [Allocator, Scheduler, Worker, Dispatcher] {
                    if from.may_move(to, w) {
                        assert!(to > from, "{w:?} moved {from} to {to}");
                        assert!(!from.is_final(), "{w:?} woke {from} to {to}");
                        assert_ne!(to, TaskState::Remove, "remove is only ever desired");
                    }
                }
            }
        }
    }

    #[test]
    fn the_worker_writes_nothing_before_it_was_told() {
        assert!(!TaskState::New.may_move(TaskState::Running, Writer::Worker));
        assert!(!TaskState::Pending.may_move(TaskState::Rejected, Writer::Worker));
        assert!(TaskState::Assigned.may_move(TaskState::Rejected, Writer::Worker));
        assert!(TaskState::Preparing.may_move(TaskState::Shutdown, Writer::Worker));
    }

    #[test]
    fn numbers_round_trip() {
        for s in TaskState::ALL {
            assert_eq!(TaskState::from_number(s as u16), Some(s));
        }
        assert_eq!(TaskState::from_number(1), None);
    }
}
