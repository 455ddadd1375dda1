//! Which node, which place, and why not.

use std::collections::BTreeSet;

use crate::{
    manager::{allocator, controller, plan::Mint},
    model::*,
    store::{Replica, View},
};

fn node(n: u8, state: NodeState, availability: Availability) -> Node {
    Node {
        id: NodeId::from_random(n.into()),
        version: 0,
        description: NodeDescription { name: format!("n{n}"), ..Default::default() },
        availability,
        state,
        subnet: Some(NodeSubnet {
            v4: format!("10.64.{n}.0/29").parse().unwrap(),
            v6: format!("fd00:0:0:{n}::/64").parse().unwrap(),
        }),
        created_at: Timestamp(0),
    }
}

fn ready(n: u8) -> Node {
    node(n, NodeState::Ready, Availability::Active)
}

fn task(n: u128, service: u128, on: Option<u8>) -> Task {
    Task {
        id: TaskId::from_random(n),
        version: 0,
        service: ServiceId::from_random(service),
        service_name: "web".into(),
        slot: u32::try_from(n).unwrap(),
        spec: TaskSpec::new("web".parse().unwrap()),
        spec_version: 1,
        node: on.map(|n| NodeId::from_random(n.into())),
        attachment: None,
        desired: TaskState::Running,
        status: TaskStatus {
            state: if on.is_some() { TaskState::Running } else { TaskState::Pending },
            at: Timestamp(0),
            message: String::new(),
            container: None,
            health: Default::default(),
        },
        created_at: Timestamp(0),
        start_at: Timestamp(0),
        restarts: Vec::new(),
    }
}

fn view(version: u64, nodes: Vec<Node>, tasks: Vec<Task>) -> View {
    let replica = Replica::default();
    replica.install(StoreSnapshot { version, nodes, tasks, ..Default::default() });
    replica.view()
}

/// The tasks after the plan was carried out.
fn scheduled(view: &View) -> Vec<Task> {
    let plan = super::plan(view, Timestamp(5));
    let tasks = plan.changes.into_iter().map(|c| match c {
        Change::PutTask(t) => t,
        other => panic!("{other:?}"),
    });
    tasks.collect()
}

#[track_caller]
fn says(nodes: Vec<Node>, expected: &str) {
    let tasks = scheduled(&view(1, nodes, vec![task(1, 1, None)]));
    assert_eq!(tasks[0].status.message, expected);
    assert_eq!((tasks[0].status.state, tasks[0].node), (TaskState::Pending, None));
}

#[test]
fn a_task_that_fits_nowhere_says_why() {
    use {Availability::*, NodeState::*};
    says(vec![], "no suitable node: no node has joined yet");
    says(vec![node(1, Down, Active)], "no suitable node: 1 node is down");
    says(
        vec![node(1, Down, Active), node(2, Down, Pause), node(3, Ready, Pause), node(4, Ready, Drain)],
        "no suitable node: 2 nodes are down, 1 node is paused, 1 node is drained",
    );
    says(vec![node(1, Unknown, Active)], "no suitable node: 1 node has not reported yet");
    says(
        vec![Node { subnet: None, ..ready(1) }],
        "no suitable node: 1 node got no addresses: the cluster's pool is used up",
    );
}

#[test]
fn a_reason_that_stays_is_written_once_and_goes_with_the_wait() {
    let mut waiting = task(1, 1, None);
    waiting.status.message = "no suitable node: 1 node is down".into();
    let down = node(1, NodeState::Down, Availability::Active);
    assert!(scheduled(&view(1, vec![down], vec![waiting.clone()])).is_empty());
    let placed = &scheduled(&view(1, vec![ready(1)], vec![waiting]))[0];
    assert_eq!((placed.status.state, placed.status.message.as_str()), (TaskState::Assigned, ""));
}

#[test]
fn tasks_spread_by_service_then_by_load_then_by_id() {
    let nodes = || (1..=3).map(ready).collect::<Vec<_>>();
    let on = |tasks: Vec<Task>| -> Vec<String> {
        let view = view(1, nodes(), tasks);
        let name = |t: Task| view.node(t.node.unwrap()).unwrap().description.name.clone();
        scheduled(&view).into_iter().map(name).collect()
    };
    assert_eq!(on((1..=4).map(|n| task(n, 1, None)).collect()), ["n1", "n2", "n3", "n1"]);
    // Node 1 has one of the service: the others first, though they are fuller.
    assert_eq!(
        on(vec![
            task(1, 1, Some(1)),
            task(2, 2, Some(2)),
            task(3, 2, Some(2)),
            task(4, 2, Some(3)),
            task(5, 1, None)
        ]),
        ["n3"]
    );
}

#[test]
fn tasks_on_the_nodes_network_or_on_none_take_no_place() {
    // A node without an address left, and one that got none: both can take them.
    let mut full = ready(1);
    full.subnet = None;
    for mode in [NetworkMode::Host, NetworkMode::None] {
        let mut wanted = task(1, 1, None);
        wanted.spec.network = mode;
        let tasks = scheduled(&view(1, vec![full.clone()], vec![wanted]));
        assert_eq!((tasks[0].status.state, tasks[0].node), (TaskState::Assigned, Some(full.id)));
        assert_eq!(tasks[0].attachment, None);
    }
    says(vec![full], "no suitable node: 1 node got no addresses: the cluster's pool is used up");
}

#[test]
fn places_are_fresh_and_what_ended_is_used_last() {
    // A /29 has five addresses: .2 to .6.
    let mut all = vec![task(1, 1, Some(1)), task(2, 1, Some(1))];
    for (i, t) in all.iter_mut().enumerate() {
        let host = 2 + u8::try_from(i).unwrap();
        t.attachment = Some(Attachment {
            address: [10, 64, 1, host].into(),
            address6: "fd00:0:0:1::2".parse().unwrap(),
            backend: 10 + u32::from(host),
            generation: u32::from(host),
        });
    }
    all[1].status.state = TaskState::Failed;
    all.extend((3..=8).map(|n| task(n, 1, None)));
    let got = scheduled(&view(99, vec![ready(1)], all));
    let places: Vec<_> = got.iter().filter_map(|t| t.attachment).collect();
    let hosts: Vec<u8> = places.iter().map(|a| a.address.octets()[3]).collect();
    assert_eq!(hosts, [4, 5, 6, 3], "after the last one, what an ended task had at the end");
    assert_eq!(places.iter().map(|a| a.backend).collect::<Vec<_>>(), [14, 15, 16, 17]);
    assert!(places.iter().all(|a| a.generation == 100), "newer than everything before");
    assert_eq!(places[0].address6, "fd00:0:0:1::4".parse::<std::net::Ipv6Addr>().unwrap());
    let last = got.last().unwrap();
    assert_eq!(last.status.message, "no suitable node: 1 node has no free container address");
}

#[test]
fn allocation_gives_subnets_and_numbers_once() {
    let service = |n: u128, datapath_id| Service {
        id: ServiceId::from_random(n),
        version: 1,
        spec_version: 1,
        datapath_id,
        spec: ServiceSpec {
            name: format!("s{n}"),
            labels: Default::default(),
            replicas: 1,
            task: TaskSpec::new("web".parse().unwrap()),
            publish: vec![],
            limits: Default::default(),
        },
        previous: None,
        removing: false,
        created_at: Timestamp(u64::try_from(n).unwrap()),
    };
    let replica = Replica::default();
    let mut new = task(1, 3, None);
    new.status.state = TaskState::New;
    replica.install(StoreSnapshot {
        version: 9,
        cluster: Some(Cluster {
            id: ClusterId::from_random(1),
            version: 1,
            network: ClusterNetwork {
                pool: "10.64.0.0/23".parse().unwrap(),
                pool6: "fd00::/48".parse().unwrap(),
            },
            created_at: Timestamp(0),
        }),
        nodes: (1..=3).map(|n| Node { subnet: None, ..ready(n) }).collect(),
        services: vec![service(1, 0), service(2, 7), service(3, 0)],
        tasks: vec![new],
    });
    let view = replica.view();
    let plan = allocator::plan(&view, Timestamp(5));
    let mut subnets = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut states = Vec::new();
    for c in plan.changes {
        match c {
            Change::PutNode(n) => drop(subnets.insert(n.subnet.unwrap().v4.to_string())),
            Change::PutService(s) => drop(numbers.insert(s.datapath_id)),
            Change::PutTask(t) => states.push(t.status.state),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(subnets, ["10.64.0.0/24".to_owned(), "10.64.1.0/24".to_owned()].into(), "the pool has two");
    assert_eq!(numbers, [8, 9].into(), "after the newest, 7");
    assert_eq!(states, [TaskState::Pending]);
}

/// The stages of one pass build on each other: NEW to ASSIGNED in one commit.
#[tokio::test]
async fn one_pass_takes_a_service_to_assigned_tasks() {
    let store = crate::store::Store::local();
    let done = store
        .update(|tx| {
            for n in [ready(1), ready(2)] {
                tx.put_node(n);
            }
            tx.put_service(Service {
                id: ServiceId::from_random(1),
                version: 0,
                spec_version: 1,
                datapath_id: 0,
                spec: ServiceSpec {
                    name: "web".into(),
                    labels: Default::default(),
                    replicas: 4,
                    task: TaskSpec::new("web".parse().unwrap()),
                    publish: vec![],
                    limits: Default::default(),
                },
                previous: None,
                removing: false,
                created_at: Timestamp(0),
            });
            controller::pass(tx, Timestamp(7), &mut Mint::new([3; 32]));
            Ok::<_, std::convert::Infallible>(())
        })
        .await;
    done.unwrap();
    let view = store.view();
    assert_eq!(view.services().next().unwrap().datapath_id, 1);
    let tasks: Vec<_> = view.tasks().collect();
    assert_eq!(tasks.len(), 4);
    assert!(tasks.iter().all(|t| t.status.state == TaskState::Assigned && t.attachment.is_some()));
    let rows: BTreeSet<_> = tasks.iter().map(|t| t.attachment.unwrap().backend).collect();
    assert_eq!(rows.len(), 4);
}
