//! The whole pipeline but the workers: whatever happens in whatever order, it converges, and on
//! the way no service has too many live tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Mint, controller, dispatcher::server::tests::Node as FakeNode};
use crate::{
    model::*,
    store::{Store, Tx, View},
};

#[derive(Debug, Clone)]
enum Step {
    /// Creates the service or sets its replicas.
    Scale(u8, u32),
    /// Changes what the service's tasks run.
    Update(u8, u32),
    Rollback(u8),
    Remove(u8),
    /// The `nth` task that a node knows of makes a step.
    Work(usize, Progress),
    /// The node's agent goes away or comes back.
    Node(bool),
    Wait(u64),
    /// The manager looks.
    Pass,
}

#[derive(Debug, Clone, Copy)]
enum Progress {
    /// To the next state on the way to where it should be.
    On,
    /// It ends by itself.
    End(TaskState),
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop::sample::select(vec![TaskState::Failed, TaskState::Complete, TaskState::Rejected]);
    prop_oneof![
        2 => (0..3u8, 0..6u32).prop_map(|(s, n)| Step::Scale(s, n)),
        2 => (0..3u8, 0..4u32).prop_map(|(s, n)| Step::Update(s, n)),
        1 => (0..3u8).prop_map(Step::Rollback),
        1 => (0..3u8).prop_map(Step::Remove),
        8 => any::<usize>().prop_map(|n| Step::Work(n, Progress::On)),
        3 => (any::<usize>(), end).prop_map(|(n, e)| Step::Work(n, Progress::End(e))),
        1 => any::<bool>().prop_map(Step::Node),
        1 => (1..20_000u64).prop_map(Step::Wait),
        6 => Just(Step::Pass),
    ]
}

struct World {
    store: Store,
    now: Timestamp,
    mint: Mint,
    made: u128,
}

impl World {
    async fn new() -> Self {
        let this =
            Self { store: Store::local(), now: Timestamp(1_000_000), mint: Mint::new([9; 32]), made: 0 };
        this.update(|tx| {
            tx.put_cluster(Cluster {
                id: ClusterId::from_random(1),
                version: 0,
                network: ClusterNetwork {
                    pool: "10.64.0.0/16".parse().unwrap(),
                    pool6: "fd00::/48".parse().unwrap(),
                },
                created_at: Timestamp(0),
            });
            tx.put_node(Node {
                id: NodeId::from_random(1),
                version: 0,
                description: Default::default(),
                availability: Default::default(),
                state: NodeState::Ready,
                subnet: None,
                created_at: Timestamp(0),
            });
        })
        .await;
        this
    }

    async fn update(&self, mut f: impl FnMut(&mut Tx)) {
        let done = self.store.update(|tx| {
            f(tx);
            Ok::<_, Infallible>(())
        });
        done.await.unwrap();
    }

    async fn pass(&mut self) {
        let (store, now, mint) = (self.store.clone(), self.now, &mut self.mint);
        let done = store.update(|tx| {
            controller::pass(tx, now, mint);
            Ok::<_, Infallible>(())
        });
        done.await.unwrap();
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Scale(s, replicas) => {
                self.made += 1;
                let (made, now) = (self.made, self.now);
                let name = format!("s{s}");
                self.update(|tx| match tx.service_by_name(&name).cloned() {
                    // As the API does: a service that is being removed is not scaled.
                    Some(s) if s.removing => {}
                    Some(mut s) => {
                        s.spec.replicas = replicas;
                        tx.put_service(s);
                    }
                    None => tx.put_service(Service {
                        id: ServiceId::from_random(made),
                        version: 0,
                        spec_version: 1,
                        datapath_id: 0,
                        spec: ServiceSpec {
                            name: name.clone(),
                            labels: Default::default(),
                            replicas,
                            task: TaskSpec::new("web".parse().unwrap()),
                            publish: vec![],
                            limits: Default::default(),
                        },
                        previous: None,
                        removing: false,
                        created_at: now,
                    }),
                })
                .await;
            }
            Step::Update(s, n) => {
                self.change(s, |service| {
                    let mut spec = service.spec.clone();
                    spec.task.force_update = n;
                    Some(spec)
                })
                .await;
            }
            Step::Rollback(s) => self.change(s, |service| service.previous.clone()).await,
            Step::Remove(s) => {
                self.update(|tx| {
                    if let Some(s) = tx.service_by_name(&format!("s{s}")).cloned() {
                        tx.put_service(Service { removing: true, ..s });
                    }
                })
                .await;
            }
            Step::Work(nth, progress) => {
                let known: Vec<_> = self.store.view().tasks().filter(|t| at_work(t)).map(|t| t.id).collect();
                if let Some(id) = known.get(nth % known.len().max(1)) {
                    self.work(*id, progress).await;
                }
            }
            Step::Node(up) => {
                let state = if up { NodeState::Ready } else { NodeState::Down };
                self.update(|tx| {
                    let node = tx.node(NodeId::from_random(1)).unwrap().clone();
                    tx.put_node(Node { state, ..node });
                })
                .await;
            }
            Step::Wait(ms) => self.now.0 += ms,
            Step::Pass => self.pass().await,
        }
    }

    /// As the API does it.
    async fn change(&self, service: u8, spec: impl Fn(&Service) -> Option<ServiceSpec>) {
        self.update(|tx| {
            let Some(mut s) = tx.service_by_name(&format!("s{service}")).cloned() else { return };
            let Some(spec) = spec(&s).filter(|spec| *spec != s.spec && !s.removing) else { return };
            s.previous = Some(std::mem::replace(&mut s.spec, spec));
            s.spec_version += 1;
            tx.put_service(s);
        })
        .await;
    }

    async fn work(&self, id: TaskId, progress: Progress) {
        let now = self.now;
        self.update(|tx| {
            let mut task = tx.task(id).unwrap().clone();
            let to = match progress {
                _ if task.desired > TaskState::Running => TaskState::Shutdown,
                Progress::End(e) => e,
                Progress::On if now < task.start_at => return,
                Progress::On => {
                    let next = TaskState::ALL.into_iter().find(|s| *s > task.status.state).unwrap();
                    if next > TaskState::Running {
                        return;
                    }
                    next
                }
            };
            assert!(task.status.state.may_move(to, Writer::Worker));
            task.status.state = to;
            task.status.at = now;
            tx.put_task(task);
        })
        .await;
    }

    /// Nothing more goes wrong: workers do what they are told, the manager looks after each change.
    async fn settle(&mut self) {
        self.step(&Step::Node(true)).await;
        for _ in 0..200 {
            let before = self.store.view().version();
            self.pass().await;
            check(&self.store.view()).unwrap();
            for id in self.store.view().tasks().filter(|t| at_work(t)).map(|t| t.id).collect::<Vec<_>>() {
                self.work(id, Progress::On).await;
            }
            self.now.0 += 5000;
            let view = self.store.view();
            let unlike =
                |t: &Task| view.service(t.service).is_some_and(|s| !s.spec.task.same_container(&t.spec));
            let waits =
                view.tasks().any(|t| at_work(t) && (t.status.state != TaskState::Running || unlike(t)));
            if self.store.view().version() == before && !waits {
                return;
            }
        }
        panic!("it never came to rest");
    }
}

/// A node knows of it and it has not ended.
fn at_work(t: &Task) -> bool {
    t.status.state >= TaskState::Assigned && !t.status.state.is_final()
}

/// What an update may do in one pass: end one running task, and that only while all others run.
fn check_update(before: &View, after: &View) -> Result<(), TestCaseError> {
    for s in after.services() {
        let running = |t: &&Task| t.status.state == TaskState::Running;
        let ended: Vec<_> = after
            .tasks_of_service(s.id)
            .filter(running)
            .filter(|t| t.desired == TaskState::Shutdown)
            .collect();
        prop_assert!(ended.len() <= 1, "{} running tasks are away at a time", ended.len());
        let asked_now = ended.iter().any(|t| before.task(t.id).is_some_and(|b| b.is_live()));
        if asked_now {
            let left = after.tasks_of_service(s.id).filter(|t| t.is_live()).filter(running).count();
            prop_assert_eq!(left + 1, s.spec.replicas as usize, "one was ended while others did not run");
        }
    }
    Ok(())
}

/// What holds at every moment after the manager has looked.
fn check(view: &View) -> Result<(), TestCaseError> {
    for s in view.services() {
        let live: Vec<_> = view.tasks_of_service(s.id).filter(|t| t.is_live()).collect();
        let wanted = if s.removing { 0 } else { s.spec.replicas as usize };
        prop_assert!(live.len() <= wanted, "{} live tasks of {wanted}", live.len());
        let slots: BTreeSet<_> = live.iter().map(|t| t.slot).collect();
        prop_assert_eq!(slots.len(), live.len(), "two live tasks in one slot");
        for slot in slots {
            let ended =
                view.tasks_of_service(s.id).filter(|t| t.slot == slot && t.status.state.is_final()).count();
            prop_assert!(ended <= 5, "{} ended tasks of a slot are kept", ended);
        }
    }
    let mut rows = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for t in view.tasks().filter(|t| at_work(t)) {
        let a = t.attachment.unwrap();
        prop_assert!(rows.insert(a.backend, t.id).is_none(), "one row for two tasks");
        prop_assert!(addresses.insert(a.address, t.id).is_none(), "one address for two tasks");
        prop_assert!(a.generation != 0);
        prop_assert!(view.service(t.service).is_some(), "a task outlived its service");
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn it_converges_and_never_runs_too_many(steps in vec(step(), 1..120)) {
        runtime().block_on(async {
            let mut world = World::new().await;
            for s in &steps {
                let before = world.store.view();
                world.step(s).await;
                if matches!(s, Step::Pass) {
                    check(&world.store.view())?;
                    check_update(&before, &world.store.view())?;
                    // A pass leaves nothing for another one.
                    let version = world.store.view().version();
                    world.pass().await;
                    prop_assert_eq!(world.store.view().version(), version, "a second pass found work");
                }
            }
            world.settle().await;
            let view = world.store.view();
            for s in view.services() {
                prop_assert!(!s.removing, "a removed service is still there");
                let running = view
                    .tasks_of_service(s.id)
                    .filter(|t| t.is_live() && t.status.state == TaskState::Running)
                    .count();
                prop_assert_eq!(running, s.spec.replicas as usize);
                let mut live = view.tasks_of_service(s.id).filter(|t| t.is_live());
                prop_assert!(live.all(|t| s.spec.task.same_container(&t.spec)), "an update was not finished");
            }
            for s in 0..3 {
                world.step(&Step::Remove(s)).await;
            }
            world.settle().await;
            prop_assert_eq!(world.store.view().tasks().count(), 0, "records are left");
            prop_assert_eq!(world.store.view().services().count(), 0);
            Ok(())
        })?;
    }
}

/// The real loop and a node that reports: what a user waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_reaches_the_node_and_comes_back_running_and_goes() {
    let mut world = World::new().await;
    let store = world.store.clone();
    let (lead, leadership) = watch::channel(false);
    let cancel = CancellationToken::new();
    let manager = super::start(store.clone(), leadership, super::system_clock(), [5; 32], cancel.clone());
    lead.send_replace(true);
    let mut node = FakeNode::open(&manager.dispatcher, NodeId::from_random(1)).await;
    world.step(&Step::Scale(0, 3)).await;
    let assigned = node.wait(|a| a.tasks.len() == 3).await;
    assert!(assigned.subnet.is_some());
    for t in &assigned.tasks {
        node.report(t.id, TaskState::Running).await.unwrap();
    }
    world.step(&Step::Scale(0, 1)).await;
    let leaving = |t: &&Task| t.desired > TaskState::Running;
    let stopping = node.wait(|a| a.tasks.iter().filter(leaving).count() == 2).await;
    for t in stopping.tasks.iter().filter(leaving) {
        assert!(t.slot > 1);
        node.report(t.id, TaskState::Shutdown).await.unwrap();
    }
    let left = node.wait(|a| a.tasks.len() == 1).await;
    node.report(left.tasks[0].id, TaskState::Failed).await.unwrap();
    let next = node.wait(|a| a.tasks.len() == 1 && a.tasks[0].id != left.tasks[0].id).await;
    let t = &next.tasks[0];
    assert_eq!((t.slot, t.start_at.since(t.created_at)), (1, Duration::from_secs(1)));
    world.step(&Step::Remove(0)).await;
    let last = node.wait(|a| a.tasks.iter().all(|t| t.desired == TaskState::Remove)).await;
    node.report(last.tasks[0].id, TaskState::Shutdown).await.unwrap();
    node.wait(|a| a.tasks.is_empty()).await;
    // The node is told when the task's end is stored; the records go with the manager's next pass.
    let mut watch = store.watch();
    let gone = watch.wait_for(|_| store.view().services().count() == 0);
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap().unwrap();
    cancel.cancel();
    manager.running.await.unwrap();
}

/// Without leadership nothing is decided; with it, what is there is looked at whole.
#[tokio::test]
async fn a_manager_works_only_in_its_terms() {
    let mut world = World::new().await;
    let (lead, leadership) = watch::channel(false);
    let cancel = CancellationToken::new();
    let manager =
        super::start(world.store.clone(), leadership, super::system_clock(), [5; 32], cancel.clone());
    world.step(&Step::Scale(0, 1)).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(world.store.view().tasks().count(), 0);
    let mut watch = world.store.watch();
    for count in [1, 2] {
        lead.send_replace(true);
        let wait = watch.wait_for(|_| world.store.view().tasks().count() == count);
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap().unwrap();
        lead.send_replace(false);
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.step(&Step::Scale(0, 2)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(world.store.view().tasks().count(), count);
    }
    cancel.cancel();
    manager.running.await.unwrap();
}

/// From the API's commit to the node: `cargo test … measure -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn measure() {
    let dir = tempfile::TempDir::new_in("/var/tmp").unwrap();
    let id = NodeId::from_random(1);
    let raft = crate::raft::start(crate::raft::RaftConfig::new(dir.path(), id)).await.unwrap();
    let mut world = World { store: raft.store(), ..World::new().await };
    let cluster = World::new().await.store.view().cluster().unwrap().clone();
    world.update(|tx| tx.put_cluster(cluster.clone())).await;
    let cancel = CancellationToken::new();
    let manager =
        super::start(raft.store(), raft.leadership(), super::system_clock(), [5; 32], cancel.clone());
    let mut node = FakeNode::open(&manager.dispatcher, id).await;
    node.wait(|a| a.subnet.is_some()).await;
    let mut took = Vec::new();
    for n in 1..=50u32 {
        let at = std::time::Instant::now();
        world.step(&Step::Scale(0, n)).await;
        node.wait(|a| a.tasks.len() == n as usize).await;
        took.push(at.elapsed());
    }
    took.sort();
    println!("scale to assignment at the node: p50 {:?}, p98 {:?}", took[25], took[49]);
    cancel.cancel();
    manager.running.await.unwrap();
    raft.shutdown().await;
}
