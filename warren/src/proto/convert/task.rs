//! Tasks, their status and their place in the network.

use super::{ConvertError, owned, parse, parse_net, required};
use crate::{
    model::{Attachment, ContainerStatus, Health, Task, TaskState, TaskStatus, Timestamp},
    proto::v1::{self, task_status},
};

owned!(ContainerStatus, TaskStatus, Attachment, Task);

fn state(field: &'static str, number: u32) -> Result<TaskState, ConvertError> {
    u16::try_from(number).ok().and_then(TaskState::from_number).ok_or_else(|| {
        ConvertError::new(field, format_args!("{number} is not a task state; update this node"))
    })
}

impl From<&ContainerStatus> for v1::ContainerStatus {
    fn from(c: &ContainerStatus) -> Self {
        Self { pid: c.pid, exit_code: c.exit_code, oom_killed: c.oom_killed }
    }
}

impl From<v1::ContainerStatus> for ContainerStatus {
    fn from(c: v1::ContainerStatus) -> Self {
        Self { pid: c.pid, exit_code: c.exit_code, oom_killed: c.oom_killed }
    }
}

impl From<&TaskStatus> for v1::TaskStatus {
    fn from(s: &TaskStatus) -> Self {
        Self {
            state: s.state as u32,
            at_ms: s.at.0,
            message: s.message.clone(),
            container: s.container.as_ref().map(Into::into),
            health: match s.health {
                Health::None => task_status::Health::None,
                Health::Starting => task_status::Health::Starting,
                Health::Healthy => task_status::Health::Healthy,
                Health::Unhealthy => task_status::Health::Unhealthy,
            }
            .into(),
        }
    }
}

impl TryFrom<v1::TaskStatus> for TaskStatus {
    type Error = ConvertError;

    fn try_from(s: v1::TaskStatus) -> Result<Self, ConvertError> {
        Ok(Self {
            state: state("task.status.state", s.state)?,
            at: Timestamp(s.at_ms),
            message: s.message,
            container: s.container.map(Into::into),
            health: match task_status::Health::try_from(s.health).map_err(|_| {
                let why = format_args!("{} is not a health; update this node", s.health);
                ConvertError::new("task.status.health", why)
            })? {
                task_status::Health::None => Health::None,
                task_status::Health::Starting => Health::Starting,
                task_status::Health::Healthy => Health::Healthy,
                task_status::Health::Unhealthy => Health::Unhealthy,
            },
        })
    }
}

impl From<&Attachment> for v1::Attachment {
    fn from(a: &Attachment) -> Self {
        Self {
            address: a.address.to_string(),
            address6: a.address6.to_string(),
            backend: a.backend,
            generation: a.generation,
        }
    }
}

impl TryFrom<v1::Attachment> for Attachment {
    type Error = ConvertError;

    fn try_from(a: v1::Attachment) -> Result<Self, ConvertError> {
        Ok(Self {
            address: parse_net("attachment.address", &a.address)?,
            address6: parse_net("attachment.address6", &a.address6)?,
            backend: a.backend,
            generation: a.generation,
        })
    }
}

impl From<&Task> for v1::Task {
    fn from(t: &Task) -> Self {
        Self {
            id: t.id.to_string(),
            version: t.version,
            service: t.service.to_string(),
            service_name: t.service_name.clone(),
            slot: t.slot,
            spec: Some((&t.spec).into()),
            spec_version: t.spec_version,
            node: t.node.map(|n| n.to_string()).unwrap_or_default(),
            attachment: t.attachment.as_ref().map(Into::into),
            desired: t.desired as u32,
            status: Some((&t.status).into()),
            created_at_ms: t.created_at.0,
            start_at_ms: t.start_at.0,
            restarts_ms: t.restarts.iter().map(|at| at.0).collect(),
        }
    }
}

impl TryFrom<v1::Task> for Task {
    type Error = ConvertError;

    fn try_from(t: v1::Task) -> Result<Self, ConvertError> {
        Ok(Self {
            id: parse("task.id", &t.id)?,
            version: t.version,
            service: parse("task.service", &t.service)?,
            service_name: t.service_name,
            slot: t.slot,
            spec: required("task.spec", t.spec)?.try_into()?,
            spec_version: t.spec_version,
            node: match t.node.as_str() {
                "" => None,
                text => Some(parse("task.node", text)?),
            },
            attachment: t.attachment.map(TryInto::try_into).transpose()?,
            desired: state("task.desired", t.desired)?,
            status: required("task.status", t.status)?.try_into()?,
            created_at: Timestamp(t.created_at_ms),
            start_at: Timestamp(t.start_at_ms),
            restarts: t.restarts_ms.into_iter().map(Timestamp).collect(),
        })
    }
}
