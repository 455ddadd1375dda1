//! Changes of the store and its snapshots.

use super::{ConvertError, many, owned, parse, required};
use crate::{
    model::{Change, StoreAction, StoreSnapshot},
    proto::v1::{self, store_action},
};

owned!(StoreAction, StoreSnapshot);

impl From<&StoreAction> for v1::StoreAction {
    fn from(a: &StoreAction) -> Self {
        use store_action::Change as Wire;
        let change = match &a.change {
            Change::PutCluster(c) => Wire::PutCluster(c.into()),
            Change::PutNode(n) => Wire::PutNode(n.into()),
            Change::PutService(s) => Wire::PutService(s.into()),
            Change::PutTask(t) => Wire::PutTask(t.into()),
            Change::RemoveNode(id) => Wire::RemoveNode(id.to_string()),
            Change::RemoveService(id) => Wire::RemoveService(id.to_string()),
            Change::RemoveTask(id) => Wire::RemoveTask(id.to_string()),
        };
        Self { expected_version: a.expected_version, change: Some(change) }
    }
}

impl TryFrom<v1::StoreAction> for StoreAction {
    type Error = ConvertError;

    fn try_from(a: v1::StoreAction) -> Result<Self, ConvertError> {
        use store_action::Change as Wire;
        // An action of a later version arrives without the change it means: to skip it would make
        // this manager's state differ from the others'.
        let change = match required("action.change", a.change)? {
            Wire::PutCluster(c) => Change::PutCluster(c.try_into()?),
            Wire::PutNode(n) => Change::PutNode(n.try_into()?),
            Wire::PutService(s) => Change::PutService(s.try_into()?),
            Wire::PutTask(t) => Change::PutTask(t.try_into()?),
            Wire::RemoveNode(id) => Change::RemoveNode(parse("action.remove_node", &id)?),
            Wire::RemoveService(id) => Change::RemoveService(parse("action.remove_service", &id)?),
            Wire::RemoveTask(id) => Change::RemoveTask(parse("action.remove_task", &id)?),
        };
        Ok(Self { expected_version: a.expected_version, change })
    }
}

impl From<&StoreSnapshot> for v1::StoreSnapshot {
    fn from(s: &StoreSnapshot) -> Self {
        Self {
            version: s.version,
            cluster: s.cluster.as_ref().map(Into::into),
            nodes: s.nodes.iter().map(Into::into).collect(),
            services: s.services.iter().map(Into::into).collect(),
            tasks: s.tasks.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::StoreSnapshot> for StoreSnapshot {
    type Error = ConvertError;

    fn try_from(s: v1::StoreSnapshot) -> Result<Self, ConvertError> {
        Ok(Self {
            version: s.version,
            cluster: s.cluster.map(TryInto::try_into).transpose()?,
            nodes: many(s.nodes)?,
            services: many(s.services)?,
            tasks: many(s.tasks)?,
        })
    }
}
