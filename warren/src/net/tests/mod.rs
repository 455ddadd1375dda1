//! The network as the kernel runs it: a node and a client in network namespaces of their own,
//! joined by a veth pair; containers are namespaces with sockets in them. What is asserted is what
//! sockets, `ip` and `bpftool` say.

mod live;
mod live6;
mod places;
mod trace;
mod traffic;
mod upgrade;

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Config, Gate, Handle,
    attach::namespace,
    datapath::{
        links::Hook,
        loader::has_object,
        shape::{Shape, shapes},
    },
    reset,
};
use crate::model::{
    Assignment, Attachment, NodeId, NodeSubnet, PortSpec, PublishDefault, ServiceEndpoint, ServiceId, Task,
    TaskId, TaskSpec, TaskState, TaskStatus, Timestamp,
};

const NODE: &str = "198.18.0.1";
const CLIENT: &str = "198.18.0.2";
const NODE6: &str = "fd18::1";
const CLIENT6: &str = "fd18::2";

/// A node and a client; removed with everything in it when dropped.
struct World {
    name: String,
    config: Config,
}

impl World {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            has_object(),
            "this test needs the BPF programs: run `cargo xtask build-ebpf` and test again"
        );
        let id = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let node = NodeId::from_random(u128::from(id.0) << 64 | u128::from(id.1) << 32 | 0x6e65_7421);
        let name = format!("net-{}-{}", id.0, id.1);
        let config = Config {
            node,
            pin_root: super::pin_root(node),
            netns_dir: PathBuf::from(format!("/run/{name}")),
            deny_file: PathBuf::from(format!("/run/{name}/deny")),
            interfaces: Vec::new(),
            publish_default: PublishDefault::Any,
            guard: super::Guard::Tc,
            pools: vec!["10.86.0.0/16".parse().unwrap(), "fd00:86::/48".parse().unwrap()],
        };
        let world = Self { name, config };
        let (n, c) = (world.ns("n"), world.ns("c"));
        for line in [
            format!("netns add {n}"),
            format!("netns add {c}"),
            format!("link add eth0 netns {n} type veth peer name eth0 netns {c}"),
            format!("-n {n} address add {NODE}/24 dev eth0"),
            format!("-n {c} address add {CLIENT}/24 dev eth0"),
            format!("-n {n} link set lo up"),
            format!("-n {c} link set lo up"),
            format!("-n {n} link set eth0 up"),
            format!("-n {c} link set eth0 up"),
            format!("-n {n} route add default via {CLIENT}"),
            format!("-n {n} address add {NODE6}/64 dev eth0 nodad"),
            format!("-n {c} address add {CLIENT6}/64 dev eth0 nodad"),
            format!("-n {n} route add default via {CLIENT6}"),
        ] {
            ip(&line);
        }
        world
    }

    fn ns(&self, which: &str) -> String {
        format!("{}-{which}", self.name)
    }

    fn path(&self, which: &str) -> PathBuf {
        Path::new("/run/netns").join(self.ns(which))
    }

    /// `ip` inside the node.
    fn node_ip(&self, line: &str) -> String {
        ip(&format!("-n {} {line}", self.ns("n")))
    }

    /// Runs the agent's side of a test inside the node, on a thread of its own.
    fn node<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Config) -> F + Send + 'static,
    ) -> T {
        let config = self.config.clone();
        namespace::inside(&self.path("n"), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(work(config)))
        })
        .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let config = self.config.clone();
        let done = namespace::inside(&self.path("n"), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(reset(&config)).map_err(io::Error::other)
        });
        for which in ["n", "c"] {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(which)]).status();
        }
        if let (Err(e), false) = (done, std::thread::panicking()) {
            panic!("cleaning up: {e}");
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {}: {error}", arguments.join(" "));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn ip(line: &str) -> String {
    run("ip", &line.split(' ').collect::<Vec<_>>())
}

fn task(n: u8) -> TaskId {
    TaskId::from_random(0x1234_5678_9abc << 8 | u128::from(n))
}

fn attachment(n: u8) -> Attachment {
    Attachment {
        address: Ipv4Addr::new(10, 86, 0, n),
        address6: Ipv6Addr::new(0xfd00, 0x86, 0, 0, 0, 0, 0, n.into()),
        backend: n.into(),
        generation: 1000 + u32::from(n),
    }
}

/// An assignment with one service "web" with these ports and the tasks 1 to `n` behind it.
fn web(config: &Config, generation: u64, n: u8, ports: &[&str]) -> Arc<Assignment> {
    let ports: Vec<PortSpec> = ports.iter().map(|p| p.parse().unwrap()).collect();
    Arc::new(Assignment {
        generation,
        node: config.node,
        subnet: Some(NodeSubnet { v4: "10.86.0.0/24".parse().unwrap(), v6: "fd00:86::/64".parse().unwrap() }),
        tasks: (1..=n).map(|i| running(config, i)).collect(),
        ended: vec![],
        services: vec![ServiceEndpoint {
            id: ServiceId::from_random(5),
            name: "web".into(),
            datapath_id: 3,
            ports,
            limits: Default::default(),
            backends: (1..=n).map(|i| (task(i), config.node, attachment(i))).collect(),
        }],
    })
}

fn running(config: &Config, n: u8) -> Task {
    Task {
        id: task(n),
        version: 1,
        service: ServiceId::from_random(5),
        service_name: "web".into(),
        slot: n.into(),
        spec: TaskSpec::new("registry.example/web:1".parse().unwrap()),
        spec_version: 1,
        node: Some(config.node),
        attachment: Some(attachment(n)),
        desired: TaskState::Running,
        status: TaskStatus {
            state: TaskState::Running,
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

/// A running agent.
struct Agent {
    handle: Handle,
    assignment: watch::Sender<Option<Arc<Assignment>>>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    async fn start(config: &Config, assignment: Option<Arc<Assignment>>) -> Self {
        Self::of_build(config, assignment, build(), Hook::of_this_kernel()).await
    }

    /// An agent of a build with these maps, on a kernel with this hook.
    async fn of_build(
        config: &Config,
        assignment: Option<Arc<Assignment>>,
        shapes: Vec<Shape>,
        hook: Hook,
    ) -> Self {
        let (sender, receiver) = watch::channel(assignment);
        let cancel = CancellationToken::new();
        let (handle, task) =
            super::start_with(config.clone(), receiver, cancel.clone(), shapes, hook).await.unwrap();
        Self { handle, assignment: sender, cancel, task }
    }

    /// Gives an assignment and waits until it is reached.
    async fn assign(&self, assignment: Arc<Assignment>) {
        let generation = assignment.generation;
        self.assignment.send_replace(Some(assignment));
        tokio::time::timeout(Duration::from_secs(5), self.handle.wait_generation(generation))
            .await
            .expect("the assignment is reached within five seconds")
            .unwrap();
    }

    /// Attaches task `n`, starts a server in it and opens it.
    async fn serve(&self, n: u8, port: u16) {
        let ns = self.handle.attach(task(n), &attachment(n)).await.unwrap();
        server(&ns, format!("0.0.0.0:{port}"), n);
        self.handle.serve(task(n), &attachment(n), Gate::Open).await.unwrap();
    }

    /// Ends the agent; containers and datapath stay.
    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

/// A TCP server in a namespace: tells its number and whom it sees, then echoes. Lives as long as
/// the process.
fn server(ns: &Path, address: String, number: u8) {
    let listener = namespace::inside(ns, move || TcpListener::bind(address)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut stream = stream;
                let peer = stream.peer_addr()?;
                stream.write_all(format!("{number} {peer}\n").as_bytes())?;
                let mut buffer = [0u8; 16 * 1024];
                loop {
                    let n = stream.read(&mut buffer)?;
                    if n == 0 {
                        return io::Result::Ok(());
                    }
                    stream.write_all(&buffer[..n])?;
                }
            });
        }
    });
}

/// What a server says to a client in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    number: u8,
    /// The client, as the server sees it.
    seen: SocketAddr,
    /// The client, as it sees itself.
    own: SocketAddr,
    /// The server, as the client sees it.
    peer: SocketAddr,
}

fn connect(ns: &Path, to: &str) -> io::Result<(TcpStream, Answer)> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    let mut stream = namespace::inside(ns, move || TcpStream::connect_timeout(&to, Duration::from_secs(3)))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.set_write_timeout(Some(Duration::from_secs(3)))?;
    let mut line = Vec::new();
    let mut byte = [0u8];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    let (number, seen) = line.split_once(' ').ok_or_else(|| io::Error::other(format!("said {line:?}")))?;
    let answer = Answer {
        number: number.parse().map_err(io::Error::other)?,
        seen: seen.parse().map_err(io::Error::other)?,
        own: stream.local_addr()?,
        peer: stream.peer_addr()?,
    };
    Ok((stream, answer))
}

/// Sends and gets back; the bytes depend on `round`.
fn echo(stream: &mut TcpStream, round: u32) -> io::Result<()> {
    let sent: Vec<u8> = (0..2000u32).flat_map(|i| (i ^ round).to_le_bytes()).collect();
    stream.write_all(&sent)?;
    let mut got = vec![0; sent.len()];
    stream.read_exact(&mut got)?;
    if got == sent { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// Connects `times` times and counts the answers by server; every one must see the client's own
/// address and port.
fn knock(ns: &Path, to: &str, times: u32) -> BTreeMap<u8, u32> {
    let mut answers = BTreeMap::new();
    for round in 0..times {
        let (mut stream, answer) = connect(ns, to).unwrap_or_else(|e| panic!("{to}, round {round}: {e}"));
        assert_eq!(answer.seen, answer.own, "the server sees who is really there");
        echo(&mut stream, round).unwrap();
        *answers.entry(answer.number).or_insert(0) += 1;
    }
    answers
}

/// The maps of this build, for a small machine.
fn build() -> Vec<Shape> {
    shapes(1 << 30, 2)
}

fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .map(|es| es.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

// The verbs can be called from any task of a runtime with several threads.
const _: fn(&Handle, &Attachment) = verbs_are_send;

fn verbs_are_send(handle: &Handle, attachment: &Attachment) {
    fn send<T: Send>(_: T) {}
    send(handle.attach(task(1), attachment));
    send(handle.serve(task(1), attachment, Gate::Open));
    send(handle.detach(task(1)));
    send(handle.list());
    send(handle.published());
    send(handle.flows(1));
    send(handle.check());
}
