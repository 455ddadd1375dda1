//! The whole pipeline in one process, with real files and a real socket, over a fake container
//! runtime and network: consensus, store, orchestrator, allocator, scheduler, dispatcher, session,
//! agent. Everything dies at every step and is started again on what it left.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Handle};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use warren::{
    manager,
    model::{
        Cluster, ClusterId, ClusterNetwork, NodeDescription, RestartPolicy, Service, ServiceId, ServiceSpec,
        Task, TaskId, TaskSpec, TaskState, Timestamp,
    },
    proto::v1::dispatcher_server::DispatcherServer,
    raft::{self, RaftConfig},
    store::{Store, Tx, View},
    worker::{
        self, WorkerConfig,
        executor::RuntimeError,
        testing::{Crash, FakeOutside, FakeWorld, Fault, Op, Process, a_node, channel, quick},
    },
};

/// How long anything may take, with a crash in it.
const PATIENCE: Duration = Duration::from_secs(20);

type Inside = Arc<Mutex<Option<(Handle, Store)>>>;

/// A cluster of one whose only process is started again whenever it has died.
struct One {
    world: FakeWorld,
    dir: TempDir,
    process: Option<Process>,
    inside: Inside,
    lives: u32,
}

/// Everything there is of a node, on the current runtime.
async fn node(outside: Arc<FakeOutside>, world: FakeWorld, dir: PathBuf, seed: u32, inside: Inside) {
    let consensus = raft::start(RaftConfig::new(dir.join("raft"), a_node())).await.expect("it resumes");
    let store = consensus.store();
    let begin = store.update(|tx| {
        if tx.cluster().is_none() {
            tx.put_cluster(a_cluster());
        }
        Ok::<_, Infallible>(())
    });
    begin.await.expect("the store works");
    tokio::spawn(commits_are_steps(world, store.clone()));

    let cancel = CancellationToken::new();
    let (leadership, clock) = (consensus.leadership(), manager::system_clock());
    let manager = manager::start(
        store.clone(),
        leadership,
        clock,
        [u8::try_from(seed % 256).unwrap(); 32],
        cancel.clone(),
    );
    let socket = dir.join("socket");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("the socket can be made");
    let server = tonic::transport::Server::builder().add_service(DispatcherServer::new(manager.dispatcher));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));

    let config = WorkerConfig {
        node: a_node(),
        description: NodeDescription { name: "here".into(), ..NodeDescription::default() },
        data_dir: dir.join("worker"),
        timing: quick(),
        probes: Default::default(),
    };
    let worker = worker::start(config, channel(&socket), outside.clone(), outside, cancel);
    *inside.lock().unwrap() = Some((Handle::current(), store));
    worker.expect("its directory can be used").join.await.expect("the worker does not fail");
}

/// Lets the process die after any commit, too.
async fn commits_are_steps(world: FakeWorld, store: Store) {
    let mut versions = store.watch();
    while versions.changed().await.is_ok() {
        let version = *versions.borrow_and_update();
        world.step(&format!("commit {version}"), async {}).await;
    }
}

fn a_cluster() -> Cluster {
    Cluster {
        id: ClusterId::from_random(1),
        version: 0,
        network: ClusterNetwork {
            pool: "10.64.0.0/16".parse().unwrap(),
            pool6: "fd00:64::/48".parse().unwrap(),
        },
        created_at: Timestamp(1),
    }
}

fn web(replicas: u32) -> Service {
    let mut task = TaskSpec::new("localhost/testbox:1".parse().unwrap());
    task.stop_grace = Duration::from_millis(20);
    task.restart = RestartPolicy { delay: Duration::from_millis(1), ..RestartPolicy::default() };
    Service {
        id: ServiceId::from_random(7),
        version: 0,
        spec_version: 1,
        datapath_id: 0,
        spec: ServiceSpec {
            name: "web".into(),
            labels: BTreeMap::new(),
            replicas,
            task,
            publish: vec!["8080:80".parse().unwrap()],
            limits: Default::default(),
        },
        previous: None,
        removing: false,
        created_at: Timestamp(1),
    }
}

impl One {
    fn new() -> Self {
        Self {
            world: FakeWorld::default(),
            dir: tempfile::tempdir().unwrap(),
            process: None,
            inside: Inside::default(),
            lives: 0,
        }
    }

    fn revive(&mut self) {
        if self.process.as_ref().is_some_and(|p| !p.is_dead()) {
            return;
        }
        // First wholly gone, files closed: then the next one.
        self.process = None;
        *self.inside.lock().unwrap() = None;
        self.lives += 1;
        let (world, dir, inside) = (self.world.clone(), self.dir.path().to_owned(), self.inside.clone());
        let seed = self.lives;
        self.process =
            Some(Process::spawn(&self.world, move |outside| node(outside, world, dir, seed, inside)));
    }

    fn view(&self) -> Option<View> {
        self.inside.lock().unwrap().as_ref().map(|(_, store)| store.view())
    }

    fn until(&mut self, what: &str, so: impl Fn(&Self, &View) -> bool) {
        let began = Instant::now();
        loop {
            self.revive();
            let view = self.view();
            if view.as_ref().is_some_and(|v| so(self, v)) {
                return;
            }
            if began.elapsed() > PATIENCE {
                let tasks: Vec<_> =
                    view.iter().flat_map(View::tasks).map(|t| (t.id, t.desired, &t.status)).collect();
                let trace = self.world.trace().join("\n");
                panic!("never: {what}\n{tasks:#?}\n{:#?}\n{trace}", self.world.containers());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// What a user does: asks until it is answered. `change` may run again after it had its effect.
    fn ask(&mut self, what: &str, change: impl Fn(&mut Tx) + Clone + Send + Sync + 'static) {
        let began = Instant::now();
        loop {
            self.revive();
            let inside = self.inside.lock().unwrap().clone();
            if let Some((runtime, store)) = inside {
                let (answer, answered) = mpsc::channel();
                let change = change.clone();
                runtime.spawn(async move {
                    let done = store.update(|tx| {
                        change(tx);
                        Ok::<_, Infallible>(())
                    });
                    let _ = answer.send(done.await.is_ok());
                });
                while !self.process.as_ref().unwrap().is_dead() {
                    if answered.recv_timeout(Duration::from_millis(1)) == Ok(true) {
                        return;
                    }
                    assert!(began.elapsed() < PATIENCE, "never answered: {what}");
                }
            }
            assert!(began.elapsed() < PATIENCE, "never answered: {what}");
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    fn scale(&mut self, replicas: u32) {
        self.ask("scale", move |tx| {
            let mut service = tx.service(web(0).id).expect("it was created").clone();
            service.spec.replicas = replicas;
            tx.put_service(service);
        });
    }

    /// Waits until exactly so many tasks run, for the store, the runtime and the network alike,
    /// and returns them with their processes.
    fn until_running(&mut self, replicas: usize) -> BTreeMap<TaskId, u32> {
        self.until(&format!("{replicas} tasks run"), |one, view| {
            let live: BTreeSet<TaskId> = view.tasks().filter(|t| t.is_live()).map(|t| t.id).collect();
            let up = |t: &&Task| t.is_live() && t.status.state == TaskState::Running;
            live.len() == replicas
                && view.tasks().filter(up).count() == replicas
                && one.world.open() == live
                && one.world.containers().into_keys().collect::<BTreeSet<_>>() == live
                && one.world.attached().into_keys().collect::<BTreeSet<_>>() == live
        });
        self.world.running()
    }

    /// Tasks the worker has on disk.
    fn remembered(&self) -> usize {
        fs::read_dir(self.dir.path().join("worker/tasks")).map_or(0, Iterator::count)
    }
}

/// create, scale up, a container dies, scale down, remove.
fn a_service_comes_and_goes(one: &mut One, what: &str) {
    one.ask("create", |tx| {
        if tx.service(web(0).id).is_none() {
            tx.put_service(web(2));
        }
    });
    let two = one.until_running(2);
    one.scale(3);
    let three = one.until_running(3);
    assert!(two.iter().all(|(t, pid)| three.get(t) == Some(pid)), "{what}: {two:?} {three:?}");

    let dies = *two.keys().next().unwrap();
    one.world.exit(dies, 3);
    one.until("its end is known", |_, view| {
        view.task(dies).is_some_and(|t| t.status.message == "exited with status 3")
    });
    let replaced = one.until_running(3);
    let mut kept = three.iter().filter(|(t, _)| **t != dies);
    assert!(kept.all(|(t, pid)| replaced.get(t) == Some(pid)), "{what}: {three:?} {replaced:?}");

    one.scale(1);
    let last = one.until_running(1);
    assert!(last.iter().all(|(t, pid)| replaced.get(t) == Some(pid)), "{what}: {replaced:?} {last:?}");

    one.ask("remove", |tx| {
        if let Some(service) = tx.service(web(0).id).cloned() {
            tx.put_service(Service { removing: true, ..service });
        }
    });
    one.until("the service is gone", |_, view| view.services().next().is_none());
    let world = (one.world.containers(), one.world.attached(), one.world.open());
    assert_eq!(world, Default::default(), "{what}: left over\n{}", one.world.trace().join("\n"));
    one.until("its tasks are gone", |one, view| view.tasks().next().is_none() && one.remembered() == 0);

    let starts = one.world.starts();
    assert_eq!(starts.len(), 4, "{what}: {starts:?}\n{}", one.world.trace().join("\n"));
    assert!(starts.values().all(|n| *n == 1), "{what}: {starts:?}");
    assert_eq!(one.world.violations(), [""; 0], "{what}\n{}", one.world.trace().join("\n"));
}

#[test]
fn a_service_comes_and_goes_undisturbed() {
    let mut one = One::new();
    a_service_comes_and_goes(&mut one, "undisturbed");
    assert_eq!(one.lives, 1);
}

/// A service that no node can run costs next to nothing: its tasks come ever more slowly, although
/// each is refused at once.
#[test]
fn tasks_that_are_always_rejected_come_ever_more_slowly() {
    let mut one = One::new();
    let error = RuntimeError::Fatal("image nope:1 is not on this node".into());
    one.world.fail(Fault { op: Op::Prepare, times: usize::MAX, effect: false, error });
    one.ask("create", |tx| tx.put_service(web(1)));
    let mut seen = BTreeSet::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        one.revive();
        seen.extend(one.view().iter().flat_map(View::tasks).map(|t| t.id));
        std::thread::sleep(Duration::from_millis(2));
    }
    // After 0 and 1 ms, then with delays of 0.1, 0.2, 0.4 and 0.8 s; the next one waits 1.6 s.
    assert!((4..=7).contains(&seen.len()), "{} tasks", seen.len());
    assert_eq!(one.lives, 1);
    assert_eq!(one.world.violations(), [""; 0]);
}

/// One cluster after another, so that every step of the whole is the last one of a process once.
#[test]
fn killed_at_every_step_the_cluster_comes_back_to_what_is_wanted() {
    let next = Mutex::new(0..);
    // The first step that was never reached.
    let beyond = Mutex::new(usize::MAX);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let n = next.lock().unwrap().next().unwrap();
                    if n > *beyond.lock().unwrap() {
                        return;
                    }
                    let live_until = |crash| {
                        let mut one = One::new();
                        one.world.crash_at(crash);
                        a_service_comes_and_goes(&mut one, &format!("{crash:?}"));
                        (!one.world.crash_is_ahead(), one.world.had_effect(n))
                    };
                    let (died, had_effect) = live_until(Crash::Before(n));
                    if !died {
                        let mut beyond = beyond.lock().unwrap();
                        *beyond = (*beyond).min(n);
                    } else if had_effect {
                        live_until(Crash::After(n));
                    }
                }
            });
        }
    });
    let steps = *beyond.lock().unwrap();
    // Four tasks of eight calls or more, and a dozen commits at least.
    assert!(steps >= 45, "the whole took only {steps} steps");
}
