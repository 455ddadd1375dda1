//! Chooses a node for every PENDING task, and its place in the network there.

mod attach;
mod filter;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use attach::Attachments;
use filter::Rejections;

use crate::{
    manager::Plan,
    model::{Attachment, Change, Node, NodeId, ServiceId, Task, TaskState, TaskStatus, Timestamp, Writer},
    store::View,
};

/// Decides, oldest task first. Among the nodes that pass every filter the one with the fewest
/// tasks of the service wins, then the one with the fewest tasks, then the lowest id: the same
/// view gives the same answer. A task that fits nowhere stays and says why.
pub(super) fn plan(view: &View, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut waiting: Vec<&Task> = view
        .tasks()
        .filter(|t| t.is_live() && t.status.state.may_move(TaskState::Assigned, Writer::Scheduler))
        .collect();
    if waiting.is_empty() {
        return plan;
    }
    waiting.sort_by_key(|t| (t.created_at, t.slot, t.id));
    let mut load = Load::of(view);
    let mut attachments = Attachments::of(view);
    for task in waiting {
        match choose(view, task, &load, &mut attachments) {
            Ok((node, attachment)) => {
                load.add(node, task.service);
                let status = TaskStatus { state: TaskState::Assigned, at: now, ..blank(task) };
                let node = Some(node);
                plan.push(Change::PutTask(Task { node, attachment, status, ..task.clone() }));
            }
            // Only what is new is written: a reason that stays is no change.
            Err(reason) if reason != task.status.message => {
                let status = TaskStatus { message: reason, ..task.status.clone() };
                plan.push(Change::PutTask(Task { status, ..task.clone() }));
            }
            Err(_) => {}
        }
    }
    plan
}

fn blank(task: &Task) -> TaskStatus {
    TaskStatus { message: String::new(), container: None, ..task.status.clone() }
}

fn choose(
    view: &View,
    task: &Task,
    load: &Load,
    attachments: &mut Attachments,
) -> Result<(NodeId, Option<Attachment>), String> {
    let mut rejections = Rejections::default();
    let mut fit: Vec<&Node> = view.nodes().filter(|n| rejections.pass(task, n, attachments)).collect();
    fit.sort_by_key(|n| (load.of_service(n.id, task.service), load.of_node(n.id), n.id));
    let Some(node) = fit.first() else { return Err(rejections.explain()) };
    if !task.spec.network.is_attached() {
        return Ok((node.id, None));
    }
    match attachments.take(node) {
        Some(attachment) => Ok((node.id, Some(attachment))),
        None => Err("no room in the network: all 65535 rows of the backend table are in use; \
                     scale services down"
            .into()),
    }
}

/// How many live tasks each node has.
struct Load {
    node: BTreeMap<NodeId, usize>,
    service: BTreeMap<(NodeId, ServiceId), usize>,
}

impl Load {
    fn of(view: &View) -> Self {
        let mut load = Self { node: BTreeMap::new(), service: BTreeMap::new() };
        for task in view.tasks().filter(|t| t.is_live()) {
            if let Some(node) = task.node {
                load.add(node, task.service);
            }
        }
        load
    }

    fn add(&mut self, node: NodeId, service: ServiceId) {
        *self.node.entry(node).or_default() += 1;
        *self.service.entry((node, service)).or_default() += 1;
    }

    fn of_node(&self, node: NodeId) -> usize {
        self.node.get(&node).copied().unwrap_or(0)
    }

    fn of_service(&self, node: NodeId, service: ServiceId) -> usize {
        self.service.get(&(node, service)).copied().unwrap_or(0)
    }
}
