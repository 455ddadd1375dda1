//! Which nodes can take a task, and why the others cannot: one pass gives both.

use super::attach::Attachments;
use crate::model::{Availability, Node, NodeState, Task};

/// One rule. In the order in which they are asked; a node is counted under the first it fails.
struct Filter {
    /// Whether it is asked only for tasks that get an address.
    of_addresses: bool,
    passes: fn(&Node, &Attachments) -> bool,
    /// For one node and for several.
    explain: (&'static str, &'static str),
}

const FILTERS: [Filter; 6] = [
    Filter {
        of_addresses: false,
        passes: |n, _| n.state != NodeState::Down,
        explain: ("is down", "are down"),
    },
    Filter {
        of_addresses: false,
        passes: |n, _| n.state == NodeState::Ready,
        explain: ("has not reported yet", "have not reported yet"),
    },
    Filter {
        of_addresses: false,
        passes: |n, _| n.availability != Availability::Pause,
        explain: ("is paused", "are paused"),
    },
    Filter {
        of_addresses: false,
        passes: |n, _| n.availability == Availability::Active,
        explain: ("is drained", "are drained"),
    },
    Filter {
        of_addresses: true,
        passes: |n, _| n.subnet.is_some(),
        explain: (
            "got no addresses: the cluster's pool is used up",
            "got no addresses: the cluster's pool is used up",
        ),
    },
    Filter {
        of_addresses: true,
        passes: |n, a| a.has_room(n),
        explain: ("has no free container address", "have no free container address"),
    },
];

/// Counts of nodes by the rule they failed.
#[derive(Debug, Default)]
pub(super) struct Rejections([usize; FILTERS.len()]);

impl Rejections {
    /// Whether the node passes every filter of this task; counted when it does not.
    pub(super) fn pass(&mut self, task: &Task, node: &Node, attachments: &Attachments) -> bool {
        let asked = |f: &Filter| !f.of_addresses || task.spec.network.is_attached();
        match FILTERS.iter().position(|f| asked(f) && !(f.passes)(node, attachments)) {
            Some(failed) => {
                self.0[failed] += 1;
                false
            }
            None => true,
        }
    }

    /// Why nothing passed, in one sentence.
    pub(super) fn explain(&self) -> String {
        let parts: Vec<_> = FILTERS
            .iter()
            .zip(self.0)
            .filter(|(_, n)| *n > 0)
            .map(|(f, n)| match n {
                1 => format!("1 node {}", f.explain.0),
                n => format!("{n} nodes {}", f.explain.1),
            })
            .collect();
        match parts.is_empty() {
            true => "no suitable node: no node has joined yet".into(),
            false => format!("no suitable node: {}", parts.join(", ")),
        }
    }
}
