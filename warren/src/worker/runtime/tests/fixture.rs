//! A node of a test: own directories, own containerd, and a look at what it left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use sha2::{Digest as _, Sha256};

use crate::{
    model::{ImageReference, NodeId, Task, TaskSpec},
    worker::{
        executor::{ContainerState, Exit, NetworkNamespace, Runtime, RuntimeError},
        runtime::{
            Containerd, RuntimeConfig, Supervisor, SupervisorConfig, remains, reset,
            testing::{TestFile, TestImage, task},
        },
    },
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(super) struct TestNode {
    pub(super) dir: PathBuf,
    pub(super) own: SupervisorConfig,
    pub(super) config: RuntimeConfig,
    pub(super) containerd: Containerd,
    pub(super) supervisor: Option<Supervisor>,
    pub(super) network: NetworkNamespace,
}

impl TestNode {
    pub(super) async fn start() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let dir = PathBuf::from(format!("/tmp/warren-runtime-{pid}-{number}"));
        fs::create_dir_all(&dir).unwrap();
        let own = SupervisorConfig { data_dir: dir.join("data"), state_dir: dir.join("run") };
        let node = NodeId::from_random(u128::from(pid) << 32 | u128::from(number));
        let config = RuntimeConfig::new(node, own.socket(), dir.join("run"), dir.join("data"));
        let network = NetworkNamespace { path: network_namespace(&dir) };
        let mut own_node =
            Self { containerd: Containerd::new(config.clone()), supervisor: None, dir, own, config, network };
        let at = Instant::now();
        own_node.supervisor = Some(Supervisor::start(own_node.own.clone()).await.unwrap());
        println!("containerd: ready after {:?}", at.elapsed());
        own_node
    }

    /// With the test image imported.
    pub(super) async fn with_image() -> Self {
        let node = Self::start().await;
        node.containerd.images().import(&test_image().oci()[..], None).await.unwrap();
        node
    }

    pub(super) fn containerd_pid(&self) -> i32 {
        self.own.running().first().expect("containerd runs").pid
    }

    /// What is left of containers outside containerd's images; empty when nothing is.
    pub(super) async fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (task, state) in self.containerd.list().await.unwrap() {
            left.push(format!("listed: {task} {state:?}"));
        }
        left.extend(self.kernel_leftovers(false));
        for dir in [
            self.config.tasks_dir(),
            self.config.exec_dir(),
            self.config.runc_root().join(&self.config.namespace),
        ] {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                left.push(entry.path().display().to_string());
            }
        }
        left
    }

    /// What the kernel still has; with `all`, containerd and its parent cgroup count too.
    pub(super) fn kernel_leftovers(&self, all: bool) -> Vec<String> {
        let mut left = Vec::new();
        let run = self.dir.join("run").display().to_string();
        let data = self.dir.join("data").display().to_string();
        for mount in remains::mount_points(|p| p.starts_with(&run) || p.starts_with(&data)) {
            left.push(format!("mount {}", mount.display()));
        }
        for dir in remains::cgroup_dirs(&self.config.cgroup_parent) {
            if all {
                left.push(dir.display().to_string());
            }
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    left.push(entry.path().display().to_string());
                }
            }
        }
        for number in 0..32 {
            let socket = remains::shim_socket(&self.config, program(number, &[]).id.as_str());
            if socket.exists() {
                left.push(socket.display().to_string());
            }
        }
        let named = self.dir.display().to_string();
        let ours = remains::processes(|argv| argv.iter().any(|a| a.contains(&named)));
        let containerd = self.own.running();
        for process in ours.into_iter().filter(|p| all || !containerd.contains(p)) {
            left.push(format!("process {}", process.pid));
        }
        left
    }

    /// Directories in the snapshotter.
    pub(super) fn snapshots(&self) -> usize {
        let dir = self.own.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
        fs::read_dir(dir).map_or(0, Iterator::count)
    }

    /// Where the content store keeps something.
    pub(super) fn blob(&self, content: &str) -> PathBuf {
        let dir = self.own.root().join("io.containerd.content.v1.content/blobs/sha256");
        dir.join(hex::encode(Sha256::digest(content)))
    }

    /// Blobs in the content store.
    pub(super) fn blobs(&self) -> usize {
        let dir = self.blob("");
        fs::read_dir(dir.parent().unwrap()).map_or(0, Iterator::count)
    }

    /// A running container of `args`.
    pub(super) async fn run(&self, number: u128, args: &[&str]) -> (Task, u32) {
        let task = program(number, args);
        self.containerd.prepare(&task, &self.network).await.unwrap();
        let pid = self.containerd.start(task.id).await.unwrap();
        if args == ["trap"] {
            trapping(pid).await;
        }
        (task, pid)
    }

    pub(super) async fn state(&self, task: &Task) -> Option<ContainerState> {
        let all = self.containerd.list().await.unwrap();
        all.into_iter().find(|(id, _)| *id == task.id).map(|(_, s)| s)
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        drop(self.supervisor.take());
        let (config, own) = (self.config.clone(), self.own.clone());
        // A test that failed must clean up too, and it may have been within a runtime.
        let cleaned = std::thread::spawn(move || {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            rt.block_on(reset(&config, Some(&own))).map_err(|e| e.to_string())
        })
        .join();
        let _ = umount2(&self.network.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            cleaned.unwrap().unwrap();
        }
    }
}

fn network_namespace(dir: &Path) -> PathBuf {
    let path = dir.join("netns");
    fs::write(&path, "").unwrap();
    let at = path.clone();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        mount(Some("/proc/thread-self/ns/net"), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    })
    .join()
    .unwrap();
    path
}

/// The statically linked test program.
pub(super) fn binary() -> &'static [u8] {
    static BINARY: OnceLock<Vec<u8>> = OnceLock::new();
    BINARY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/worker/runtime/tests/program.rs");
        let out = dir.path().join("program");
        let done = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols"])
            .arg("-o")
            .arg(&out)
            .arg(source)
            .output()
            .expect("rustc runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::read(out).unwrap()
    })
}

/// Two layers: the program, and files of an ordinary image.
pub(super) fn test_image() -> TestImage {
    TestImage::new("docker.io/library/probe:1")
        .layer(&[
            TestFile::program("bin/probe", binary()),
            TestFile::new("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:/bin/sh\n"),
        ])
        .layer(&[
            TestFile::new("etc/group", "root:x:0:\nweb:x:102:\nlog:x:200:web\n"),
            TestFile::new("etc/plain", "not a program\n"),
        ])
        .config(serde_json::json!({
            "Entrypoint": ["/bin/probe"],
            "Cmd": ["sleep"],
            "Env": ["PATH=/bin", "FROM=image", "KEPT=yes"],
            "WorkingDir": "/made/by/runc",
        }))
}

pub(super) fn reference() -> ImageReference {
    "probe:1".parse().unwrap()
}

pub(super) fn program(number: u128, args: &[&str]) -> Task {
    let mut spec = TaskSpec::new(reference());
    spec.args = args.iter().map(|&a| a.to_owned()).collect();
    task(number, spec)
}

/// Removes a task, and as the agent would, everything else that is listed: requests of a call that
/// was cut off may come through late.
pub(super) async fn removed(node: &TestNode, task: &Task) {
    let mut left = Vec::new();
    for _ in 0..100 {
        again("remove", async || node.containerd.remove(task.id).await).await;
        for (listed, _) in again("list", async || node.containerd.list().await).await {
            again("remove", async || node.containerd.remove(listed).await).await;
        }
        left = node.leftovers().await;
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{left:?}");
}

/// Waits until the program catches SIGTERM: before, as the first process of its namespace, it
/// would not even see it.
pub(super) async fn trapping(pid: u32) {
    eventually("the program catches SIGTERM", async || {
        let process = procfs::process::Process::new(i32::try_from(pid).unwrap()).unwrap();
        // Before, it is runc, which catches it too.
        process.cmdline().unwrap() == ["/bin/probe", "trap"]
            && process.status().unwrap().sigcgt & (1 << 14) != 0
    })
    .await;
}

/// The end of a container, which must come soon.
pub(super) async fn exit(containerd: &Containerd, task: &Task) -> Exit {
    let wait = tokio::time::timeout(Duration::from_secs(30), containerd.wait(task.id));
    wait.await.expect("it ends within 30 s").unwrap()
}

/// Repeats a call that says "later".
pub(super) async fn again<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T, RuntimeError>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match call().await {
            Ok(t) => return t,
            Err(RuntimeError::Temporary(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) => panic!("{what}: {e}"),
        }
    }
}

/// Waits until `seen` says yes.
pub(super) async fn eventually(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !seen().await {
        assert!(Instant::now() < deadline, "not in 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
