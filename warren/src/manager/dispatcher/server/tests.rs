//! Sessions and reports, through the service as tonic calls it.

use std::{convert::Infallible, pin::Pin, time::Duration};

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::Dispatcher;
use crate::{
    manager::system_clock,
    model::*,
    proto::v1::{self, dispatcher_server::Dispatcher as _, update_task_status_request::Update},
    store::Store,
};

/// A node's end of a session.
pub(in crate::manager) struct Node {
    id: NodeId,
    dispatcher: Dispatcher,
    stream: Pin<Box<dyn Stream<Item = Result<v1::Assignment, Status>> + Send>>,
}

impl Node {
    pub(in crate::manager) async fn open(dispatcher: &Dispatcher, id: NodeId) -> Self {
        Self::try_open(dispatcher, id).await.unwrap()
    }

    async fn try_open(dispatcher: &Dispatcher, id: NodeId) -> Result<Self, Status> {
        let description = NodeDescription { name: format!("name of {id}"), ..Default::default() };
        let request = v1::SessionRequest { node: id.to_string(), description: Some((&description).into()) };
        let stream = dispatcher.session(Request::new(request)).await?.into_inner();
        Ok(Self { id, dispatcher: dispatcher.clone(), stream })
    }

    async fn next(&mut self) -> Option<Result<Assignment, Status>> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.stream.next());
        next.await.expect("nothing came").map(|m| m.map(|a| a.try_into().unwrap()))
    }

    pub(in crate::manager) async fn wait(&mut self, f: impl Fn(&Assignment) -> bool) -> Assignment {
        loop {
            let a = self.next().await.expect("the session is open").expect("an assignment");
            assert_eq!(a.node, self.id);
            if f(&a) {
                return a;
            }
        }
    }

    pub(in crate::manager) async fn report(&self, task: TaskId, state: TaskState) -> Result<(), Status> {
        let at = system_clock()();
        self.report_status(
            task,
            TaskStatus { state, at, message: String::new(), container: None, health: Default::default() },
        )
        .await
    }

    async fn report_status(&self, task: TaskId, status: TaskStatus) -> Result<(), Status> {
        let request = v1::UpdateTaskStatusRequest {
            node: self.id.to_string(),
            updates: vec![Update { task: task.to_string(), status: Some((&status).into()) }],
        };
        self.dispatcher.update_task_status(Request::new(request)).await.map(drop)
    }
}

fn id(n: u128) -> NodeId {
    NodeId::from_random(n)
}

fn task(n: u128, node: NodeId) -> Task {
    Task {
        id: TaskId::from_random(n),
        version: 0,
        service: ServiceId::from_random(1),
        service_name: "web".into(),
        slot: 1,
        spec: TaskSpec::new("web".parse().unwrap()),
        spec_version: 1,
        node: Some(node),
        attachment: Some(Attachment {
            address: "10.0.0.2".parse().unwrap(),
            address6: "fd00::2".parse().unwrap(),
            backend: u32::try_from(n).unwrap(),
            generation: 1,
        }),
        desired: TaskState::Running,
        status: TaskStatus {
            state: TaskState::Assigned,
            at: Timestamp(1),
            message: String::new(),
            container: None,
            health: Default::default(),
        },
        created_at: Timestamp(1),
        start_at: Timestamp(1),
        restarts: Vec::new(),
    }
}

async fn put(store: &Store, tasks: impl IntoIterator<Item = Task> + Clone) {
    let done = store.update(|tx| {
        tasks.clone().into_iter().for_each(|t| tx.put_task(t));
        Ok::<_, Infallible>(())
    });
    done.await.unwrap();
}

struct World {
    store: Store,
    dispatcher: Dispatcher,
    lead: watch::Sender<bool>,
    cancel: CancellationToken,
}

fn world() -> World {
    let store = Store::local();
    let (lead, leadership) = watch::channel(true);
    let cancel = CancellationToken::new();
    let dispatcher = Dispatcher::new(store.clone(), leadership, system_clock(), cancel.clone());
    World { store, dispatcher, lead, cancel }
}

async fn until(store: &Store, what: impl Fn(&crate::store::View) -> bool) {
    let mut watch = store.watch();
    let all = async {
        while !what(&store.view()) {
            watch.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("it never became so");
}

fn state(store: &Store, n: NodeId) -> NodeState {
    store.view().node(n).unwrap().state
}

#[tokio::test]
async fn a_session_registers_the_node_and_its_end_takes_it_down() {
    let w = world();
    let mut node = Node::open(&w.dispatcher, id(1)).await;
    assert_eq!(state(&w.store, id(1)), NodeState::Ready);
    assert!(w.store.view().node(id(1)).unwrap().description.name.contains("name of"));
    assert!(node.next().await.unwrap().unwrap().tasks.is_empty(), "the first assignment comes at once");
    drop(node);
    until(&w.store, |v| v.node(id(1)).unwrap().state == NodeState::Down).await;
}

#[tokio::test]
async fn a_later_session_takes_the_place_of_an_earlier_one() {
    let w = world();
    let mut old = Node::open(&w.dispatcher, id(1)).await;
    old.next().await.unwrap().unwrap();
    let mut new = Node::open(&w.dispatcher, id(1)).await;
    new.next().await.unwrap().unwrap();
    // The old one hears of it with the next change and its end means nothing.
    put(&w.store, [task(1, id(1))]).await;
    new.wait(|a| a.tasks.len() == 1).await;
    while let Some(message) = old.next().await {
        if let Err(status) = message {
            assert_eq!(status.code(), Code::Aborted);
        }
    }
    tokio::task::yield_now().await;
    assert_eq!(state(&w.store, id(1)), NodeState::Ready);
    drop(new);
    until(&w.store, |v| v.node(id(1)).unwrap().state == NodeState::Down).await;
}

#[tokio::test]
async fn a_new_term_forgets_sessions_that_are_not_here() {
    let w = world();
    let node = Node::open(&w.dispatcher, id(1)).await;
    let done = w.store.update(|tx| {
        let here = tx.node(id(1)).unwrap().clone();
        tx.put_node(crate::model::Node { id: id(2), version: 0, ..here });
        Ok::<_, Infallible>(())
    });
    done.await.unwrap();
    w.dispatcher.begin_term().await;
    assert_eq!((state(&w.store, id(1)), state(&w.store, id(2))), (NodeState::Ready, NodeState::Unknown));
    drop(node);
}

#[tokio::test]
async fn sessions_end_with_leadership_and_with_the_manager() {
    let w = world();
    let mut node = Node::open(&w.dispatcher, id(1)).await;
    node.next().await.unwrap().unwrap();
    w.lead.send_replace(false);
    assert_eq!(node.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(node.next().await.is_none());
    w.lead.send_replace(true);
    let mut node = Node::open(&w.dispatcher, id(1)).await;
    node.next().await.unwrap().unwrap();
    w.cancel.cancel();
    assert!(node.next().await.is_none());
    assert_eq!(state(&w.store, id(1)), NodeState::Ready, "a manager that stops says nothing of its nodes");
    assert_eq!(
        node.report(TaskId::from_random(1), TaskState::Running).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn a_task_is_assigned_until_its_end_is_stored_and_reports_do_not_echo() {
    let w = world();
    let mut node = Node::open(&w.dispatcher, id(1)).await;
    put(&w.store, [task(1, id(1)), task(2, id(2))]).await;
    let a = node.wait(|a| !a.tasks.is_empty()).await;
    assert_eq!(a.tasks.iter().map(|t| t.id).collect::<Vec<_>>(), [TaskId::from_random(1)]);
    let before = a.generation;
    for s in [TaskState::Preparing, TaskState::Running] {
        node.report(TaskId::from_random(1), s).await.unwrap();
        assert_eq!(w.store.view().task(TaskId::from_random(1)).unwrap().status.state, s);
    }
    node.report(TaskId::from_random(1), TaskState::Failed).await.unwrap();
    // The two reports in between were no news for the node that made them.
    let a = node.next().await.unwrap().unwrap();
    assert!(a.tasks.is_empty() && a.generation > before, "{a:?}");
}

#[tokio::test]
async fn old_news_is_taken_without_an_error_and_changes_nothing() {
    let w = world();
    let node = Node::open(&w.dispatcher, id(1)).await;
    put(&w.store, [task(1, id(1))]).await;
    let (t, other) = (TaskId::from_random(1), TaskId::from_random(9));
    node.report(t, TaskState::Running).await.unwrap();
    let version = w.store.view().version();
    node.report(t, TaskState::Preparing).await.unwrap();
    node.report(other, TaskState::Running).await.unwrap();
    assert_eq!(w.store.view().version(), version);
    // The same state with more to say about it is news.
    let status = TaskStatus {
        state: TaskState::Running,
        at: Timestamp(u64::MAX / 2),
        message: "unhealthy".into(),
        container: Some(ContainerStatus { pid: 7, exit_code: None, oom_killed: false }),
        health: Default::default(),
    };
    node.report_status(t, status.clone()).await.unwrap();
    assert_eq!(w.store.view().task(t).unwrap().status, status);
    node.report(t, TaskState::Failed).await.unwrap();
    node.report(t, TaskState::Shutdown).await.unwrap();
    assert_eq!(w.store.view().task(t).unwrap().status.state, TaskState::Failed, "an end is an end");
}

#[tokio::test]
async fn a_node_reports_its_own_tasks_and_sense() {
    let w = world();
    let node = Node::open(&w.dispatcher, id(1)).await;
    put(&w.store, [task(1, id(2))]).await;
    let refused = node.report(TaskId::from_random(1), TaskState::Running).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(w.store.view().task(TaskId::from_random(1)).unwrap().status.state, TaskState::Assigned);
    for (node, task, status) in [
        ("x", TaskId::from_random(1).to_string(), Some(v1::TaskStatus { state: 512, ..Default::default() })),
        (id(1).as_str(), "x".into(), Some(v1::TaskStatus { state: 512, ..Default::default() })),
        (id(1).as_str(), TaskId::from_random(1).to_string(), None),
        (
            id(1).as_str(),
            TaskId::from_random(1).to_string(),
            Some(v1::TaskStatus { state: 5, ..Default::default() }),
        ),
    ] {
        let request =
            v1::UpdateTaskStatusRequest { node: node.into(), updates: vec![Update { task, status }] };
        let refused = w.dispatcher.update_task_status(Request::new(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{}", refused.message());
    }
    let bad = v1::SessionRequest { node: "x".into(), description: None };
    assert_eq!(w.dispatcher.session(Request::new(bad)).await.err().unwrap().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn many_reports_at_once_are_all_stored() {
    let w = world();
    let node = std::sync::Arc::new(tokio::sync::Mutex::new(Node::open(&w.dispatcher, id(1)).await));
    put(&w.store, (1..=300).map(|n| task(n, id(1))).collect::<Vec<_>>()).await;
    let before = w.store.view().version();
    let all: Vec<_> = (1..=300u128)
        .map(|n| {
            let dispatcher = w.dispatcher.clone();
            tokio::spawn(async move {
                let status = v1::TaskStatus { state: TaskState::Running as u32, ..Default::default() };
                let task = TaskId::from_random(n).to_string();
                let updates = vec![Update { task, status: Some(status) }];
                let request = v1::UpdateTaskStatusRequest { node: id(1).to_string(), updates };
                dispatcher.update_task_status(Request::new(request)).await.unwrap();
            })
        })
        .collect();
    for t in all {
        t.await.unwrap();
    }
    assert!(w.store.view().tasks().all(|t| t.status.state == TaskState::Running));
    assert!(w.store.view().version() - before < 100, "reports are stored in batches");
    drop(node);
}
