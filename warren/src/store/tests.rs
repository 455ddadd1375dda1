//! What every store keeps to, whoever agrees on the order.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use proptest::{collection::vec, prelude::*};

use super::{LocalProposer, Outcome, Proposer, Replica, Store, StoreError, UpdateError, View};
use crate::model::{
    Change, Service, ServiceId, ServiceSpec, StoreAction, Task, TaskSpec, TaskState, TaskStatus,
};

fn service(n: u8, name: &str) -> Service {
    Service {
        id: ServiceId::from_random(n.into()),
        version: 0,
        spec_version: 1,
        datapath_id: 0,
        spec: ServiceSpec {
            name: name.into(),
            labels: Default::default(),
            replicas: 1,
            task: TaskSpec::new("web".parse().unwrap()),
            publish: vec![],
            limits: Default::default(),
        },
        previous: None,
        removing: false,
        created_at: Default::default(),
    }
}

fn task(n: u8, service: &Service, node: Option<u8>) -> Task {
    Task {
        id: crate::model::TaskId::from_random(n.into()),
        version: 0,
        service: service.id,
        service_name: service.spec.name.clone(),
        slot: 1,
        spec: service.spec.task.clone(),
        spec_version: 1,
        node: node.map(|n| crate::model::NodeId::from_random(n.into())),
        attachment: None,
        desired: TaskState::Running,
        status: TaskStatus {
            state: TaskState::New,
            at: Default::default(),
            message: String::new(),
            container: None,
            health: Default::default(),
        },
        created_at: Default::default(),
        start_at: Default::default(),
        restarts: Vec::new(),
    }
}

async fn put(store: &Store, s: Service) {
    let done: Result<(), UpdateError<Infallible>> = store
        .update(|tx| {
            tx.put_service(s.clone());
            Ok(())
        })
        .await;
    done.unwrap();
}

#[tokio::test]
async fn an_update_is_seen_when_it_returns_and_sets_versions() {
    let store = Store::local();
    let mut watch = store.watch();
    put(&store, service(1, "web")).await;
    assert_eq!(store.view().service_by_name("web").unwrap().version, 1);
    assert!(watch.has_changed().unwrap());
    assert_eq!(*watch.borrow_and_update(), 1);
    let before = store.view();
    put(&store, Service { removing: true, ..service(1, "web") }).await;
    assert_eq!(store.read().await.unwrap().service_by_name("web").unwrap().version, 2);
    assert!(!before.service_by_name("web").unwrap().removing, "a view changed");
}

#[tokio::test]
async fn refused_and_empty_updates_change_nothing() {
    let store = Store::local();
    let refused = store
        .update(|tx| {
            tx.put_service(service(1, "web"));
            assert!(tx.service_by_name("web").is_some(), "it sees its own writes");
            Err::<(), _>(StoreError::Busy)
        })
        .await;
    assert_eq!(refused, Err(UpdateError::Refused(StoreError::Busy)));
    put(&store, service(1, "web")).await;
    put(&store, service(1, "web")).await;
    let nothing: Result<(), UpdateError<Infallible>> = store
        .update(|tx| {
            tx.put_task(task(1, &service(1, "web"), None));
            tx.remove_task(task(1, &service(1, "web"), None).id);
            tx.remove_service(service(9, "x").id);
            Ok(())
        })
        .await;
    nothing.unwrap();
    assert_eq!(store.view().version(), 1, "nothing but the first put was proposed");
}

#[tokio::test]
async fn transactions_that_read_many_objects_do_not_cross() {
    // Each takes the next free name; were two to run on one view they would take the same.
    let store = Store::local();
    let all = (0..50u8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .update(|tx| {
                    let name = format!("s{}", tx.services().count());
                    tx.put_service(service(n, &name));
                    Ok::<_, Infallible>(())
                })
                .await
                .unwrap();
        })
    });
    for t in all.collect::<Vec<_>>() {
        t.await.unwrap();
    }
    let view = store.view();
    assert!((0..50).all(|n| view.service_by_name(&format!("s{n}")).is_some()));
}

/// Lets another writer in between a transaction's read and its proposal, `times` times.
struct Meddler {
    inner: LocalProposer,
    times: AtomicUsize,
}

#[async_trait]
impl Proposer for Meddler {
    async fn propose(&self, actions: Vec<StoreAction>) -> Result<Outcome, StoreError> {
        let left = self.times.load(Ordering::SeqCst);
        if left > 0 {
            self.times.store(left - 1, Ordering::SeqCst);
            let mut theirs = service(1, "web");
            theirs.spec.replicas = 100 + u32::try_from(left).unwrap();
            let expected_version = actions[0].expected_version;
            self.inner
                .propose(vec![StoreAction { expected_version, change: Change::PutService(theirs) }])
                .await?;
        }
        self.inner.propose(actions).await
    }

    async fn barrier(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_conflicting_update_is_run_again_on_what_is_there() {
    for (times, ends) in [(3, true), (1000, false)] {
        let replica = Arc::new(Replica::default());
        let inner = LocalProposer::new(replica.clone());
        let store = Store::new(replica, Arc::new(Meddler { inner, times: AtomicUsize::new(0) }));
        put(&store, service(1, "web")).await;
        let replica = Arc::new(Replica::default());
        replica.install(store.view().to_snapshot());
        let inner = LocalProposer::new(replica.clone());
        let store = Store::new(replica, Arc::new(Meddler { inner, times: AtomicUsize::new(times) }));
        let done = store
            .update(|tx| {
                let mut s = tx.service_by_name("web").unwrap().clone();
                s.spec.replicas += 1;
                tx.put_service(s);
                Ok::<_, Infallible>(())
            })
            .await;
        if ends {
            done.unwrap();
            assert_eq!(store.view().service_by_name("web").unwrap().spec.replicas, 102);
        } else {
            assert_eq!(done, Err(UpdateError::Store(StoreError::Busy)));
        }
    }
}

#[test]
fn a_proposal_is_applied_whole_or_not_at_all() {
    let replica = Replica::default();
    let act = |expected_version, change| StoreAction { expected_version, change };
    let a = service(1, "a");
    let b = service(2, "b");
    assert_eq!(replica.apply(3, &[act(0, Change::PutService(a.clone()))]), Outcome::Applied { version: 3 });
    for refused in [
        // Must not exist yet.
        vec![act(0, Change::PutService(b.clone())), act(0, Change::PutService(a.clone()))],
        // Not at that version.
        vec![act(0, Change::PutService(b.clone())), act(2, Change::PutService(a.clone()))],
        // Not there.
        vec![act(3, Change::PutService(a.clone())), act(0, Change::RemoveService(b.id))],
        vec![act(7, Change::RemoveService(b.id))],
        // Name of another.
        vec![act(0, Change::PutService(service(2, "a")))],
    ] {
        assert_eq!(replica.apply(4, &refused), Outcome::Conflict, "{refused:?}");
        assert_eq!(replica.view().version(), 3);
        assert_eq!(replica.view().services().count(), 1);
    }
}

fn step() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    vec((0..6u8, 0..8u8, 0..4u8), 1..4)
}

/// The indexes say what a look at every object says.
fn check_indexes(view: &View) -> Result<(), TestCaseError> {
    for s in view.services() {
        prop_assert_eq!(view.service_by_name(&s.spec.name).map(|s| s.id), Some(s.id));
        let all: Vec<_> = view.tasks().filter(|t| t.service == s.id).map(|t| t.id).collect();
        prop_assert_eq!(view.tasks_of_service(s.id).map(|t| t.id).collect::<Vec<_>>(), all);
    }
    for n in 0..4 {
        let node = crate::model::NodeId::from_random(n);
        let all: Vec<_> = view.tasks().filter(|t| t.node == Some(node)).map(|t| t.id).collect();
        prop_assert_eq!(view.tasks_of_node(node).map(|t| t.id).collect::<Vec<_>>(), all);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any sequence of transactions: indexes agree with the objects; a replica fed the same
    /// proposals is equal; a snapshot restores to the same.
    #[test]
    fn replicas_agree(steps in vec(step(), 1..30)) {
        let (one, two) = (Replica::default(), Replica::default());
        for (index, step) in (1..).zip(steps) {
            let mut tx = super::Tx::new(one.view());
            for (what, a, b) in step {
                match what {
                    0 => tx.put_service(service(a, &format!("s{b}"))),
                    1 => tx.put_task(task(a, &service(b, "x"), None)),
                    2 | 3 => tx.put_task(task(a, &service(b % 2, "x"), Some(b))),
                    4 => tx.remove_task(task(a, &service(0, "x"), None).id),
                    _ => tx.remove_service(service(a, "x").id),
                }
            }
            let actions = tx.into_actions();
            prop_assert_eq!(one.apply(index, &actions), two.apply(index, &actions));
            check_indexes(&one.view())?;
        }
        let snapshot = one.view().to_snapshot();
        prop_assert_eq!(&snapshot, &two.view().to_snapshot());
        let three = Replica::default();
        three.install(snapshot.clone());
        prop_assert_eq!(&snapshot, &three.view().to_snapshot());
        check_indexes(&three.view())?;
    }
}
