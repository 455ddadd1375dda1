//! Nodes and the cluster.

use super::{ConvertError, owned, parse, parse_net, required};
use crate::{
    model::{
        Availability, Cluster, ClusterNetwork, Node, NodeDescription, NodeState, NodeSubnet, PublishDefault,
        Timestamp,
    },
    proto::v1::{self, node, node_description},
};

owned!(NodeDescription, NodeSubnet, Node, Cluster);

impl From<&NodeDescription> for v1::NodeDescription {
    fn from(d: &NodeDescription) -> Self {
        Self {
            name: d.name.clone(),
            labels: d.labels.clone().into_iter().collect(),
            arch: d.arch.clone(),
            kernel: d.kernel.clone(),
            cpus: d.cpus,
            memory: d.memory,
            version: d.version.clone(),
            publish_default: match d.publish_default {
                PublishDefault::Any => node_description::PublishDefault::Any,
                PublishDefault::Lan => node_description::PublishDefault::Lan,
                PublishDefault::None => node_description::PublishDefault::Nobody,
            }
            .into(),
        }
    }
}

impl From<v1::NodeDescription> for NodeDescription {
    fn from(d: v1::NodeDescription) -> Self {
        Self {
            name: d.name,
            labels: d.labels.into_iter().collect(),
            arch: d.arch,
            kernel: d.kernel,
            cpus: d.cpus,
            memory: d.memory,
            version: d.version,
            publish_default: match node_description::PublishDefault::try_from(d.publish_default) {
                Ok(node_description::PublishDefault::Lan) => PublishDefault::Lan,
                Ok(node_description::PublishDefault::Nobody) => PublishDefault::None,
                // Of a newer node: what it does is its own to decide, this is for show.
                Ok(node_description::PublishDefault::Any) | Err(_) => PublishDefault::Any,
            },
        }
    }
}

impl From<&NodeSubnet> for v1::NodeSubnet {
    fn from(s: &NodeSubnet) -> Self {
        Self { v4: s.v4.to_string(), v6: s.v6.to_string() }
    }
}

impl TryFrom<v1::NodeSubnet> for NodeSubnet {
    type Error = ConvertError;

    fn try_from(s: v1::NodeSubnet) -> Result<Self, ConvertError> {
        Ok(Self { v4: parse_net("subnet.v4", &s.v4)?, v6: parse_net("subnet.v6", &s.v6)? })
    }
}

impl From<&Node> for v1::Node {
    fn from(n: &Node) -> Self {
        let availability = match n.availability {
            Availability::Active => node::Availability::Active,
            Availability::Pause => node::Availability::Pause,
            Availability::Drain => node::Availability::Drain,
        };
        let state = match n.state {
            NodeState::Unknown => node::State::Unknown,
            NodeState::Ready => node::State::Ready,
            NodeState::Down => node::State::Down,
        };
        Self {
            id: n.id.to_string(),
            version: n.version,
            description: Some((&n.description).into()),
            availability: availability.into(),
            state: state.into(),
            subnet: n.subnet.as_ref().map(Into::into),
            created_at_ms: n.created_at.0,
        }
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = ConvertError;

    fn try_from(n: v1::Node) -> Result<Self, ConvertError> {
        let unknown = |field, number: i32| {
            ConvertError::new(field, format_args!("{number} has no meaning here; update this node"))
        };
        let availability = node::Availability::try_from(n.availability)
            .map_err(|_| unknown("node.availability", n.availability))?;
        let state = node::State::try_from(n.state).map_err(|_| unknown("node.state", n.state))?;
        Ok(Self {
            id: parse("node.id", &n.id)?,
            version: n.version,
            description: required("node.description", n.description)?.into(),
            availability: match availability {
                node::Availability::Active => Availability::Active,
                node::Availability::Pause => Availability::Pause,
                node::Availability::Drain => Availability::Drain,
            },
            state: match state {
                node::State::Unknown => NodeState::Unknown,
                node::State::Ready => NodeState::Ready,
                node::State::Down => NodeState::Down,
            },
            subnet: n.subnet.map(TryInto::try_into).transpose()?,
            created_at: Timestamp(n.created_at_ms),
        })
    }
}

impl From<&Cluster> for v1::Cluster {
    fn from(c: &Cluster) -> Self {
        Self {
            id: c.id.to_string(),
            version: c.version,
            pool: c.network.pool.to_string(),
            pool6: c.network.pool6.to_string(),
            created_at_ms: c.created_at.0,
        }
    }
}

impl TryFrom<v1::Cluster> for Cluster {
    type Error = ConvertError;

    fn try_from(c: v1::Cluster) -> Result<Self, ConvertError> {
        Ok(Self {
            id: parse("cluster.id", &c.id)?,
            version: c.version,
            network: ClusterNetwork {
                pool: parse_net("cluster.pool", &c.pool)?,
                pool6: parse_net("cluster.pool6", &c.pool6)?,
            },
            created_at: Timestamp(c.created_at_ms),
        })
    }
}
