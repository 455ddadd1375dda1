//! Gives out what is unique in the cluster: node subnets and services' datapath numbers. A task
//! becomes PENDING when its service has all of it.

use crate::{
    ipam::{numbers, subnets},
    manager::Plan,
    model::{Change, Node, NodeSubnet, Service, Task, TaskState, TaskStatus, Timestamp, Writer},
    store::View,
};

/// Decides. What cannot be given (a pool is used up) is left; the scheduler says so to the user.
pub(super) fn plan(view: &View, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    node_subnets(view, &mut plan);

    let numbered_before = || view.services().filter(|s| s.datapath_id != 0);
    let mut used: Vec<u32> = numbered_before().map(|s| s.datapath_id).collect();
    let mut newest = numbered_before().max_by_key(|s| (s.created_at, s.id)).map(|s| s.datapath_id);
    let mut numbered = Vec::new();
    for service in view.services().filter(|s| s.datapath_id == 0) {
        let Some(id) = numbers::next(numbers::DATAPATH, newest, |n| used.contains(&n)) else { break };
        used.push(id);
        newest = Some(id);
        numbered.push(service.id);
        plan.push(Change::PutService(Service { datapath_id: id, ..service.clone() }));
    }

    for task in view.tasks().filter(|t| t.is_live()) {
        let ready =
            view.service(task.service).is_some_and(|s| s.datapath_id != 0 || numbered.contains(&s.id));
        if ready && task.status.state.may_move(TaskState::Pending, Writer::Allocator) {
            let status = TaskStatus {
                state: TaskState::Pending,
                at: now,
                message: String::new(),
                container: None,
                health: Default::default(),
            };
            plan.push(Change::PutTask(Task { status, ..task.clone() }));
        }
    }
    plan
}

fn node_subnets(view: &View, plan: &mut Plan) {
    let Some(cluster) = view.cluster() else { return };
    let mut used: Vec<NodeSubnet> = view.nodes().filter_map(|n| n.subnet).collect();
    for node in view.nodes().filter(|n| n.subnet.is_none()) {
        let Some(subnet) = subnets::next(&cluster.network, &used) else { break };
        used.push(subnet);
        plan.push(Change::PutNode(Node { subnet: Some(subnet), ..node.clone() }));
    }
}
