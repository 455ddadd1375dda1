//! How a task ends: asked to, by itself, or because it stays unhealthy.

use super::{
    super::step::{Trouble, describe_exit},
    Machine, Phase,
};
use crate::{
    model::{ContainerStatus, TaskState, TaskStatus, Timestamp},
    worker::executor::Exit,
};

impl Machine {
    /// The container has ended.
    pub fn exited(&mut self, exit: Exit, now: Timestamp) {
        if self.waits_for_exit() {
            let message = match self.phase {
                Phase::Kill { .. } | Phase::Killed { .. } => {
                    format!("killed after its stop grace of {:?}", self.task.spec.stop_grace)
                }
                _ => String::new(),
            };
            self.ended(exit, &message, now);
        }
    }

    /// Waiting for the container's end did not work.
    pub fn wait_failed(&mut self, trouble: Trouble, now: Timestamp) {
        if !self.waits_for_exit() {
            return;
        }
        match trouble {
            Trouble::Fatal(why) => self.end(TaskState::Failed, why, now),
            Trouble::Temporary(_) => {
                self.wait_tries += 1;
                self.wait_retry_at = now.after(self.timing.back_off(self.wait_tries));
            }
        }
    }

    /// A look at the whole runtime showed no container where one should run.
    pub fn gone(&mut self, now: Timestamp) {
        if self.waits_for_exit() {
            self.end(TaskState::Failed, "container is gone".into(), now);
        }
    }

    /// The task should be there. Only ever grows: an earlier one is ignored.
    pub fn desire(&mut self, desired: TaskState, now: Timestamp) {
        if desired > self.task.desired {
            self.task.desired = desired;
            self.stop_if_asked(now);
        }
    }

    fn waits_for_exit(&self) -> bool {
        use Phase::{Close, Grace, Kill, Killed, RecordWhy, Running, Started, Terminate};
        matches!(
            self.phase,
            Started { .. }
                | Running
                | Close
                | RecordWhy
                | Terminate { .. }
                | Grace { .. }
                | Kill { .. }
                | Killed { .. }
        )
    }

    pub(super) fn stop_if_asked(&mut self, now: Timestamp) {
        if self.task.desired <= TaskState::Running {
            return;
        }
        match self.phase {
            Phase::Attach | Phase::Prepare(_) | Phase::Ready => {
                self.end(TaskState::Shutdown, String::new(), now);
            }
            // A start that was never tried; a failed one is looked at first.
            Phase::Start => self.end(TaskState::Shutdown, String::new(), now),
            Phase::Started { .. } | Phase::Running => self.go(Phase::Close),
            _ => {}
        }
    }

    /// Nothing new reaches it any more. What was asked to stop needs no reason.
    pub(super) fn closed(&mut self, now: Timestamp) {
        match self.unhealthy {
            Some(_) if !self.stopping() => self.go(Phase::RecordWhy),
            _ => self.terminate(now),
        }
    }

    pub(super) fn terminate(&mut self, now: Timestamp) {
        self.go(Phase::Terminate { until: now.after(self.task.spec.stop_grace) });
    }

    /// The container ended by itself or because it was asked to.
    pub(super) fn ended(&mut self, exit: Exit, message: &str, now: Timestamp) {
        if exit == Exit::UNSEEN {
            return self.end(TaskState::Failed, "container is gone".into(), now);
        }
        let pid = self.status.container.map_or(0, |c| c.pid);
        self.status.container =
            Some(ContainerStatus { pid, exit_code: Some(exit.code), oom_killed: exit.oom_killed });
        match exit.code {
            _ if self.stopping() => self.end(TaskState::Shutdown, message.to_owned(), now),
            0 => self.end(TaskState::Complete, String::new(), now),
            _ => {
                let message = describe_exit(exit, self.task.spec.resources.memory);
                self.end(TaskState::Failed, message, now);
            }
        }
    }

    /// Fixes how the task ended, once, and starts to clear up. What was to be stopped anyway was
    /// shut down, however it came about.
    pub(super) fn end(&mut self, state: TaskState, message: String, now: Timestamp) {
        if self.end.is_some() {
            return;
        }
        let (state, message) = match &self.unhealthy {
            _ if self.stopping() => (TaskState::Shutdown, message),
            Some(why) => (TaskState::Failed, why.clone()),
            None => (state, message),
        };
        self.end = Some(TaskStatus {
            state,
            at: now,
            message,
            container: self.status.container,
            health: self.status.health,
        });
        let may_be_open = self.attached
            && !matches!(
                self.phase,
                Phase::Attach | Phase::Prepare(_) | Phase::Ready | Phase::Start | Phase::Doubt(_)
            );
        self.go(if may_be_open { Phase::CloseEnded } else { Phase::RecordEnd });
    }

    fn stopping(&self) -> bool {
        self.task.desired > TaskState::Running
    }

    pub(super) fn end_status(&self) -> TaskStatus {
        self.end.clone().unwrap_or_else(|| self.status.clone())
    }

    /// Makes the end the status once it may be told.
    pub(super) fn tell_end(&mut self, now: Timestamp) {
        let Some(end) = &self.end else { return };
        let patience_over = now >= end.at.after(self.timing.removal_patience);
        if !self.status.state.is_final() && (self.phase == Phase::Gone || patience_over) {
            self.status = end.clone();
        }
    }
}
