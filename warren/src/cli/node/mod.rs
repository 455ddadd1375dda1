//! `warren node …`

pub(super) mod check;
mod inspect;
mod ls;
pub(super) mod reset;
pub(super) mod start;

use clap::Subcommand;

use super::Context;
use crate::model::{Availability, Node, NodeState};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run a node in the foreground. On an empty data directory this makes a cluster of one.
    Start(Box<start::Args>),
    /// Check that a node could start here, and change nothing.
    Check(Box<start::Args>),
    /// Remove every trace of a node: data, containers, network. The node must not be running.
    Reset(Box<reset::Args>),
    /// List the cluster's nodes.
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Show a node whole, as JSON.
    Inspect(inspect::Args),
}

pub(super) async fn run(verb: Verb, context: &Context) -> anyhow::Result<()> {
    match verb {
        Verb::Ls(args) => ls::run(args, context).await,
        Verb::Inspect(args) => inspect::run(args, context).await,
        Verb::Start(_) | Verb::Check(_) | Verb::Reset(_) => unreachable!("run before a runtime is made"),
    }
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Ready => "ready",
        NodeState::Down => "down",
    }
}

fn availability_name(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

fn node_json(n: &Node) -> serde_json::Value {
    serde_json::json!({
        "id": n.id.to_string(),
        "name": n.description.name,
        "state": state_name(n.state),
        "availability": availability_name(n.availability),
        "labels": n.description.labels,
        "arch": n.description.arch,
        "kernel": n.description.kernel,
        "cpus": n.description.cpus,
        "memory": n.description.memory,
        "version": n.description.version,
        "publish_default": n.description.publish_default.name(),
        "subnet": n.subnet.map(|s| s.v4.to_string()),
        "subnet6": n.subnet.map(|s| s.v6.to_string()),
        "created_at_ms": n.created_at.0,
    })
}
