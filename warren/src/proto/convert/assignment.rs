//! What a node is told.

use super::{ConvertError, many, owned, parse, required};
use crate::{
    model::{Assignment, ServiceEndpoint},
    proto::v1,
};

owned!(ServiceEndpoint, Assignment);

impl From<&ServiceEndpoint> for v1::ServiceEndpoint {
    fn from(e: &ServiceEndpoint) -> Self {
        Self {
            id: e.id.to_string(),
            name: e.name.clone(),
            datapath_id: e.datapath_id,
            ports: e.ports.iter().map(Into::into).collect(),
            limits: e.limits.any().then(|| e.limits.into()),
            backends: e
                .backends
                .iter()
                .map(|(task, node, attachment)| v1::service_endpoint::Backend {
                    task: task.to_string(),
                    node: node.to_string(),
                    attachment: Some(attachment.into()),
                })
                .collect(),
        }
    }
}

impl TryFrom<v1::ServiceEndpoint> for ServiceEndpoint {
    type Error = ConvertError;

    fn try_from(e: v1::ServiceEndpoint) -> Result<Self, ConvertError> {
        let backend = |b: v1::service_endpoint::Backend| {
            Ok((
                parse("backend.task", &b.task)?,
                parse("backend.node", &b.node)?,
                required("backend.attachment", b.attachment)?.try_into()?,
            ))
        };
        Ok(Self {
            id: parse("endpoint.id", &e.id)?,
            name: e.name,
            datapath_id: e.datapath_id,
            ports: many(e.ports)?,
            limits: e.limits.map(Into::into).unwrap_or_default(),
            backends: e.backends.into_iter().map(backend).collect::<Result<_, ConvertError>>()?,
        })
    }
}

impl From<&Assignment> for v1::Assignment {
    fn from(a: &Assignment) -> Self {
        Self {
            generation: a.generation,
            node: a.node.to_string(),
            subnet: a.subnet.as_ref().map(Into::into),
            tasks: a.tasks.iter().map(Into::into).collect(),
            services: a.services.iter().map(Into::into).collect(),
            ended: a.ended.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = ConvertError;

    fn try_from(a: v1::Assignment) -> Result<Self, ConvertError> {
        Ok(Self {
            generation: a.generation,
            node: parse("assignment.node", &a.node)?,
            subnet: a.subnet.map(TryInto::try_into).transpose()?,
            tasks: many(a.tasks)?,
            services: many(a.services)?,
            ended: a.ended.iter().map(|t| parse("assignment.ended", t)).collect::<Result<_, _>>()?,
        })
    }
}
