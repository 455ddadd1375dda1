//! What a node is told, from the store alone.

use crate::{
    model::{Assignment, NodeId, ServiceEndpoint, Task},
    store::View,
};

/// Everything `node` has to do: its tasks whose end is not recorded (what is to stop among them,
/// the desired state says), and every service with published ports. A task leaves the assignment
/// once its end is stored; its node then forgets it.
pub(in crate::manager) fn plan(view: &View, node: NodeId) -> Assignment {
    Assignment {
        generation: view.version(),
        node,
        subnet: view.node(node).and_then(|n| n.subnet),
        tasks: view.tasks_of_node(node).filter(|t| !t.status.state.is_final()).cloned().collect(),
        services: endpoints(view),
    }
}

/// Services in the datapath. One without backends stays in it as long as it is wanted: its port is
/// its own even while nothing serves it.
fn endpoints(view: &View) -> Vec<ServiceEndpoint> {
    let published = view.services().filter(|s| !s.spec.publish.is_empty() && s.datapath_id != 0);
    published
        .filter_map(|s| {
            let backends: Vec<_> = view
                .tasks_of_service(s.id)
                .filter(|t| !t.status.state.is_final())
                .filter_map(|t| Some((t.id, t.node?, t.attachment?)))
                .collect();
            (!s.removing || !backends.is_empty()).then(|| ServiceEndpoint {
                id: s.id,
                name: s.spec.name.clone(),
                datapath_id: s.datapath_id,
                ports: s.spec.publish.clone(),
                backends,
            })
        })
        .collect()
}

/// Whether a node that has `old` needs `new`. How far its own tasks got it knows itself: without
/// this, every report would come back as an assignment.
pub(in crate::manager) fn is_news(old: &Assignment, new: &Assignment) -> bool {
    let same_task = |a: &Task, b: &Task| {
        a == b || *a == Task { status: a.status.clone(), version: a.version, ..b.clone() }
    };
    old.node != new.node
        || old.subnet != new.subnet
        || old.services != new.services
        || old.tasks.len() != new.tasks.len()
        || !old.tasks.iter().zip(&new.tasks).all(|(a, b)| same_task(a, b))
}
