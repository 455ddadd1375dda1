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
        ended: view.tasks_of_node(node).filter(|t| t.status.state.is_final()).map(|t| t.id).collect(),
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
                limits: s.spec.limits,
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
        || old.ended != new.ended
        || old.services != new.services
        || old.tasks.len() != new.tasks.len()
        || !old.tasks.iter().zip(&new.tasks).all(|(a, b)| same_task(a, b))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::plan;
    use crate::model::*;

    fn id(n: u128) -> NodeId {
        NodeId::from_random(n)
    }

    #[test]
    fn the_datapath_hears_of_published_services_and_everything_that_may_serve() {
        let service = |n: u128, publish: &[&str], removing, datapath_id| Service {
            id: ServiceId::from_random(n),
            version: 1,
            spec_version: 1,
            datapath_id,
            spec: ServiceSpec {
                name: format!("s{n}"),
                labels: Default::default(),
                replicas: 1,
                task: TaskSpec::new("web".parse().unwrap()),
                publish: publish.iter().map(|p| p.parse().unwrap()).collect(),
                limits: Default::default(),
            },
            previous: None,
            removing,
            created_at: Timestamp(0),
        };
        let of = |n: u128, service: u128, node, state, desired| Task {
            id: TaskId::from_random(n),
            version: 0,
            service: ServiceId::from_random(service),
            service_name: "web".into(),
            slot: 1,
            spec: TaskSpec::new("web".parse().unwrap()),
            spec_version: 1,
            node: Some(id(node)),
            attachment: Some(Attachment {
                address: "10.0.0.2".parse().unwrap(),
                address6: "fd00::2".parse().unwrap(),
                backend: u32::try_from(n).unwrap(),
                generation: 1,
            }),
            desired,
            status: TaskStatus {
                state,
                at: Timestamp(1),
                message: String::new(),
                container: None,
                health: Default::default(),
            },
            created_at: Timestamp(1),
            start_at: Timestamp(1),
            restarts: Vec::new(),
        };
        use TaskState::{Assigned, Failed, Remove, Running};
        let replica = crate::store::Replica::default();
        replica.install(StoreSnapshot {
            version: 5,
            services: vec![
                service(1, &["80:80"], false, 1),
                service(2, &[], false, 2),
                service(3, &["81:80"], true, 3),
                service(4, &["82:80"], true, 4),
                service(5, &["83:80"], false, 0),
                service(6, &["84:80"], false, 6),
            ],
            tasks: vec![
                of(1, 1, 1, Running, Running),
                of(2, 1, 2, Assigned, Running),
                of(3, 1, 1, Running, Remove),
                of(4, 1, 1, Failed, Running),
                of(5, 2, 1, Running, Running),
                of(6, 3, 1, Running, Remove),
                of(7, 4, 1, Failed, Remove),
            ],
            ..Default::default()
        });
        let a = plan(&replica.view(), id(1));
        let numbers: Vec<u128> = (1..10).collect();
        let place = |t: TaskId| *numbers.iter().find(|n| TaskId::from_random(**n) == t).unwrap();
        assert_eq!(a.generation, 5);
        assert_eq!(a.tasks.iter().map(|t| place(t.id)).collect::<BTreeSet<_>>(), [1, 3, 5, 6].into());
        let mut endpoints: Vec<_> = a
            .services
            .iter()
            .map(|s| {
                let mut backends: Vec<_> =
                    s.backends.iter().map(|(t, n, _)| (place(*t), *n == id(1))).collect();
                backends.sort_unstable();
                (s.datapath_id, backends)
            })
            .collect();
        endpoints.sort();
        assert_eq!(
            endpoints,
            [(1, vec![(1, true), (2, false), (3, true)]), (3, vec![(6, true)]), (6, vec![])],
            "published ones only; without backends only as long as they are wanted"
        );
    }
}
