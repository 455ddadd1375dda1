//! From one store to the next, and from the ring to whoever asks.

use std::{collections::BTreeMap, convert::Infallible};

use super::*;
use crate::{
    model::*,
    proto::v1::watch_events_request,
    store::{Replica, View},
};

fn service(n: u128, change: impl FnOnce(&mut Service)) -> Service {
    let mut s = Service {
        id: ServiceId::from_random(n),
        version: 1,
        spec_version: 1,
        datapath_id: 0,
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
        created_at: Timestamp(7),
    };
    change(&mut s);
    s
}

fn task(n: u128, state: TaskState, change: impl FnOnce(&mut Task)) -> Task {
    let service = service(1, |_| {});
    let mut t = Task {
        id: TaskId::from_random(n),
        version: 1,
        service: service.id,
        service_name: service.spec.name.clone(),
        slot: 2,
        spec: service.spec.task,
        spec_version: 1,
        node: None,
        attachment: None,
        desired: TaskState::Running,
        status: TaskStatus {
            state,
            at: Timestamp(50),
            message: String::new(),
            container: None,
            health: Default::default(),
        },
        created_at: Timestamp(5),
        start_at: Timestamp(5),
        restarts: vec![],
    };
    change(&mut t);
    t
}

fn node(state: NodeState) -> Node {
    Node {
        id: NodeId::from_random(1),
        version: 1,
        description: NodeDescription { name: "here".into(), ..Default::default() },
        availability: Default::default(),
        state,
        subnet: None,
        created_at: Timestamp(0),
    }
}

fn view(services: Vec<Service>, tasks: Vec<Task>, nodes: Vec<Node>) -> View {
    let replica = Replica::default();
    replica.install(StoreSnapshot { version: 9, cluster: None, nodes, services, tasks });
    replica.view()
}

/// `TIME TYPE EVENT NAME`.
fn words(before: &View, after: &View) -> Vec<String> {
    let events = diff::diff(before, after, Timestamp(100));
    events.iter().map(|e| format!("{} {} {} {}", e.at_ms, e.r#type, e.event, e.name)).collect()
}

#[test]
fn services_are_created_changed_and_removed() {
    let none = || view(vec![], vec![], vec![]);
    let of = |change: fn(&mut Service)| view(vec![service(1, change)], vec![], vec![]);
    let plain = || of(|_| {});
    assert_eq!(words(&none(), &plain()), ["7 service create s1"]);
    assert_eq!(words(&plain(), &plain()), [""; 0]);
    assert_eq!(
        words(&plain(), &of(|s| (s.version, s.datapath_id) = (2, 1))),
        [""; 0],
        "what the cluster does for itself is no event"
    );
    assert_eq!(words(&plain(), &of(|s| (s.version, s.spec.replicas) = (2, 3))), ["100 service scale s1"]);
    let updated = || {
        of(|s| {
            (s.version, s.spec_version) = (2, 2);
            s.previous = Some(s.spec.clone());
            s.spec.replicas = 3;
        })
    };
    let back = of(|s| {
        (s.version, s.spec_version) = (3, 3);
        s.previous = Some(ServiceSpec { replicas: 3, ..s.spec.clone() });
    });
    assert_eq!(words(&plain(), &updated()), ["100 service update s1"]);
    assert_eq!(words(&updated(), &back), ["100 service rollback s1"]);
    let removing = || of(|s| (s.version, s.removing) = (2, true));
    assert_eq!(words(&plain(), &removing()), ["100 service remove s1"]);
    assert_eq!(words(&removing(), &none()), [""; 0]);
    assert_eq!(words(&plain(), &none()), ["100 service remove s1"]);
}

#[test]
fn tasks_say_where_they_are_and_how_they_are() {
    let of = |state, change: fn(&mut Task)| view(vec![], vec![task(1, state, change)], vec![]);
    let running = || of(TaskState::Running, |_| {});
    assert_eq!(words(&view(vec![], vec![], vec![]), &of(TaskState::New, |_| {})), ["50 task new s1.2"]);
    let healthy = |t: &mut Task| (t.version, t.status.health) = (2, Health::Healthy);
    assert_eq!(
        words(&of(TaskState::Starting, |_| {}), &of(TaskState::Running, healthy)),
        ["50 task running s1.2", "50 task healthy s1.2"]
    );
    let sick = |t: &mut Task| (t.version, t.status.health) = (2, Health::Unhealthy);
    assert_eq!(words(&running(), &of(TaskState::Running, sick)), ["100 task unhealthy s1.2"]);
    let none = || view(vec![], vec![], vec![]);
    assert_eq!(words(&running(), &none()), ["100 task remove s1.2"]);
    assert_eq!(words(&of(TaskState::Shutdown, |_| {}), &none()), [""; 0]);
    let ended = of(TaskState::Failed, |t| {
        t.version = 2;
        t.status.message = "exited with status 3".into();
        t.status.container = Some(ContainerStatus { pid: 0, exit_code: Some(3), oom_killed: false });
        t.node = Some(NodeId::from_random(1));
    });
    let [event] = diff::diff(&running(), &ended, Timestamp(100)).try_into().unwrap();
    assert_eq!((event.event.as_str(), event.id), ("failed", TaskId::from_random(1).to_string()));
    let attributes: BTreeMap<_, _> = event.attributes.into_iter().collect();
    let expected = BTreeMap::from([
        ("exit_code".to_owned(), "3".to_owned()),
        ("image".to_owned(), "docker.io/library/web:latest".to_owned()),
        ("message".to_owned(), "exited with status 3".to_owned()),
        ("node".to_owned(), NodeId::from_random(1).to_string()),
        ("service".to_owned(), "s1".to_owned()),
        ("service_id".to_owned(), ServiceId::from_random(1).to_string()),
        ("slot".to_owned(), "2".to_owned()),
    ]);
    assert_eq!(attributes, expected);
}

#[test]
fn nodes_come_and_go() {
    let of = |state| view(vec![], vec![], vec![node(state)]);
    let none = view(vec![], vec![], vec![]);
    assert_eq!(words(&none, &of(NodeState::Ready)), ["100 node ready here"]);
    assert_eq!(words(&of(NodeState::Ready), &of(NodeState::Down)), ["100 node down here"]);
    assert_eq!(words(&of(NodeState::Ready), &of(NodeState::Ready)), [""; 0]);
    assert_eq!(words(&none, &of(NodeState::Unknown)), [""; 0]);
}

fn asked(filters: &[(&str, &str)]) -> Result<Filter, Status> {
    let filters: Vec<_> = filters
        .iter()
        .map(|(key, value)| watch_events_request::Filter {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        })
        .collect();
    Filter::new(&filters)
}

#[test]
fn filters_narrow_by_key_and_widen_by_value() {
    let before = view(vec![], vec![], vec![]);
    let after = view(
        vec![service(1, |_| {}), service(2, |_| {})],
        vec![task(1, TaskState::Running, |t| t.node = Some(NodeId::from_random(1)))],
        vec![node(NodeState::Ready)],
    );
    let events = diff::diff(&before, &after, Timestamp(100));
    let names = |filters: &[(&str, &str)]| {
        let filter = asked(filters).unwrap();
        events.iter().filter(|e| filter.matches(e)).map(|e| e.name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&[]), "s1 s2 s1.2 here");
    assert_eq!(names(&[("type", "service")]), "s1 s2");
    assert_eq!(names(&[("type", "node"), ("type", "task")]), "s1.2 here");
    assert_eq!(names(&[("service", "s1")]), "s1 s1.2");
    assert_eq!(names(&[("service", ServiceId::from_random(1).as_str())]), "s1 s1.2");
    assert_eq!(names(&[("service", "s1"), ("type", "task")]), "s1.2");
    assert_eq!(names(&[("task", "s1.2")]), "s1.2");
    assert_eq!(names(&[("node", NodeId::from_random(1).as_str())]), "s1.2 here");
    assert_eq!(names(&[("event", "create"), ("event", "ready")]), "s1 s2 here");
    assert_eq!(names(&[("task", "")]), "");
    let e = asked(&[("colour", "red")]).unwrap_err();
    assert!(e.message().contains("\"colour\"") && e.message().contains("type, event, service"), "{e}");
}

#[test]
fn the_ring_forgets_the_oldest_and_knows_it() {
    let mut ring = Ring::default();
    for n in 0..REMEMBERED as u64 + 3 {
        ring.push(Event { at_ms: n, ..Event::default() });
    }
    assert_eq!((ring.first, ring.next()), (3, REMEMBERED as u64 + 3));
    let (events, forgotten) = ring.from(1);
    assert_eq!((events.len(), events[0].at_ms, forgotten), (REMEMBERED, 3, 2));
    assert_eq!(ring.from(ring.next()), (vec![], 0));
}

async fn put(store: &Store, s: Service) {
    let done = store.update(|tx| {
        tx.put_service(s.clone());
        Ok::<_, Infallible>(())
    });
    done.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_with_what_is_remembered_and_ends_when_told() {
    let store = Store::local();
    put(&store, service(1, |_| {})).await;
    let events = Events::start(store.clone(), || Timestamp(1000));
    let mut all = events.watch(WatchEventsRequest::default()).unwrap();
    put(&store, service(2, |s| s.created_at = Timestamp(900))).await;
    assert_eq!(all.recv().await.unwrap().unwrap().name, "s2", "what was there is no event");
    put(&store, service(3, |s| s.created_at = Timestamp(950))).await;
    assert_eq!(all.recv().await.unwrap().unwrap().name, "s3");
    let until = |since_ms, until_ms| WatchEventsRequest { since_ms, until_ms, ..Default::default() };
    let mut names = Vec::new();
    let mut past = events.watch(until(1, 900)).unwrap();
    while let Some(e) = past.recv().await {
        names.push(e.unwrap().name);
    }
    assert_eq!(names, ["s2"]);
    // Ends by itself, also when nothing happens.
    let mut soon = events.watch(until(940, 3000)).unwrap();
    assert_eq!(soon.recv().await.unwrap().unwrap().name, "s3");
    assert!(soon.recv().await.is_none());
    drop(events);
    assert!(all.recv().await.is_none());
}
