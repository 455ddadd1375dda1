//! The life of containers.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use containerd_client::{
    services::v1::{
        Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, DeleteTaskRequest,
        GetRequest, KillRequest, ListContainersRequest, ListTasksRequest, StartRequest, container,
        snapshots::{
            ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
            StatSnapshotRequest,
        },
    },
    types::{Mount, v1::Process, v1::Status as ProcessStatus},
};
use prost::Message as _;
use prost_types::Any;
use tokio::sync::watch;

use super::{
    RuntimeConfig, SNAPSHOTTER,
    bundle::{self, Bundle},
    client::{CallError, Client, LONG, SHORT, already, call, found},
    ends,
    failure::start_error,
    files::{STARTED, STARTING, STOP_SIGNAL, TERMINAL},
    health,
    image::{ImageStore, Registries, ResolvedImage, When},
    remains,
};
use crate::{
    model::{HealthCheck, PullPolicy, RegistryAuth, Task, TaskId},
    seal::Sealer,
    worker::{
        executor::{ContainerState, Exit, NetworkNamespace, RunOutput, Runtime, RuntimeError},
        volumes::Volumes,
    },
};

const RUNTIME: &str = "io.containerd.runc.v2";
/// How long a killed process may take to vanish.
const DEATH: Duration = Duration::from_secs(10);
/// How long containerd may take to undo a creation that was cut off.
const UNDOING: Duration = Duration::from_secs(3);

/// Options of the runc shim. Only these two are ours to set; the numbers are those of
/// `containerd.runc.v1.Options`.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    #[prost(string, tag = "7")]
    root: String,
    #[prost(bool, tag = "9")]
    systemd_cgroup: bool,
}

/// A node's containers in a containerd.
#[derive(Debug, Clone)]
pub struct Containerd {
    pub(super) config: RuntimeConfig,
    pub(super) client: Client,
    images: ImageStore,
    volumes: Volumes,
    sealer: Option<Sealer>,
}

impl Containerd {
    /// Connects when first used, and again whenever containerd came back. Must be called within a
    /// tokio runtime.
    #[must_use]
    pub fn new(config: RuntimeConfig) -> Self {
        let client = Client::new(&config.socket, &config.namespace);
        let images = ImageStore::new(client.clone(), config.import_dir());
        let volumes = Volumes::new(config.volumes_dir.clone());
        Self { config, client, images, volumes, sealer: None }
    }

    /// Tells it of registries; before it is used.
    #[must_use]
    pub fn with_registries(mut self, registries: Registries) -> Self {
        self.images = self.images.with_registries(registries);
        self
    }

    /// Lets it open the credentials of tasks.
    #[must_use]
    pub fn with_sealer(mut self, sealer: Sealer) -> Self {
        self.sealer = Some(sealer);
        self
    }

    /// The node's volumes.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// The node's images.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// containerd's version; fails when it does not answer.
    pub async fn version(&self) -> Result<String, RuntimeError> {
        Ok(call(SHORT, self.client.version().version(self.client.request(()))).await?.version)
    }

    /// What the task's registry is told of who asks.
    fn credentials(&self, task: &Task) -> Result<Option<RegistryAuth>, RuntimeError> {
        let (Some(sealed), Some(sealer)) = (&task.spec.registry_auth, &self.sealer) else { return Ok(None) };
        sealer.open(sealed).map(Some).map_err(|e| RuntimeError::Fatal(e.to_string()))
    }

    pub(super) async fn process(&self, task: TaskId) -> Result<Option<Process>, CallError> {
        let r = GetRequest { container_id: task.to_string(), exec_id: String::new() };
        let r = call(SHORT, self.client.tasks().get(self.client.request(r))).await;
        Ok(found(r)?.and_then(|g| g.process))
    }

    fn options(&self) -> Any {
        let options =
            RuncOptions { root: self.config.runc_root().display().to_string(), systemd_cgroup: false };
        Any { type_url: "containerd.runc.v1.Options".to_owned(), value: options.encode_to_vec() }
    }

    /// Makes the task's own layer above its image, or finds it.
    async fn snapshot(&self, task: TaskId, image: &ResolvedImage) -> Result<Vec<Mount>, CallError> {
        let key = task.to_string();
        let r = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.clone() };
        let stat = call(SHORT, self.client.snapshots().stat(self.client.request(r))).await;
        if let Some(info) = found(stat)?.and_then(|s| s.info) {
            if info.parent == image.chain_id {
                return self.mounts(task).await;
            }
            // The image of this name is another one by now; the task never ran.
            self.remove_snapshot(task).await?;
        }
        // Nothing else refers to it before the container's record is made; a root of the
        // collection by itself, it is only ever removed with its task.
        let root = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let r = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key,
            parent: image.chain_id.clone(),
            labels: [("containerd.io/gc.root".to_owned(), root)].into(),
        };
        match self.client.prepare_snapshot(r, None).await {
            // A request of a call that was cut off a moment ago came through only now.
            Err(CallError::Exists(_)) => self.mounts(task).await,
            other => other,
        }
    }

    async fn mounts(&self, task: TaskId) -> Result<Vec<Mount>, CallError> {
        let r = MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: task.to_string() };
        Ok(call(SHORT, self.client.snapshots().mounts(self.client.request(r))).await?.mounts)
    }

    async fn remove_snapshot(&self, task: TaskId) -> Result<(), CallError> {
        let r = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: task.to_string() };
        already(call(SHORT, self.client.snapshots().remove(self.client.request(r))).await)
    }

    async fn remove_record(&self, task: TaskId) -> Result<(), CallError> {
        let r = DeleteContainerRequest { id: task.to_string() };
        already(call(SHORT, self.client.containers().delete(self.client.request(r))).await)
    }

    async fn write_record(&self, task: &Task, image: &ResolvedImage, spec: Vec<u8>) -> Result<(), CallError> {
        self.remove_record(task.id).await?;
        let container = Container {
            id: task.id.to_string(),
            labels: bundle::labels(task, &image.digest),
            image: task.spec.image.to_string(),
            runtime: Some(container::Runtime { name: RUNTIME.to_owned(), options: Some(self.options()) }),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
                value: spec,
            }),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: task.id.to_string(),
            ..Container::default()
        };
        let r = CreateContainerRequest { container: Some(container) };
        call(SHORT, self.client.containers().create(self.client.request(r))).await?;
        Ok(())
    }

    /// Makes shim and runc container, with the process waiting to be let go.
    async fn create_process(&self, task: TaskId, rootfs: Vec<Mount>) -> Result<(), RuntimeError> {
        // containerd knows of no process here; what an earlier one left would be in the way.
        let config = self.config.clone();
        let output = blocking(move || {
            remains::sweep_if_any(&config, task)?;
            config.logs.address(task)
        })
        .await?;
        let r = CreateTaskRequest {
            container_id: task.to_string(),
            rootfs,
            terminal: self.marked(task, TERMINAL),
            options: Some(self.options()),
            stdout: output.clone(),
            stderr: output,
            ..CreateTaskRequest::default()
        };
        let deadline = Instant::now() + UNDOING;
        loop {
            match call(LONG, self.client.tasks().create(self.client.request(r.clone()))).await {
                Ok(_) | Err(CallError::Exists(_)) => return Ok(()),
                // An earlier creation was cut off. containerd undoes it by itself, except what
                // was cut off together with containerd. It removes the bundle twice while it does
                // so: the second time that of this creation.
                Err(CallError::Refused(why))
                    if why.contains("file exists") || why.contains("failed to write bundle spec") =>
                {
                    let config = self.config.clone();
                    let stale = Instant::now() > deadline;
                    if !blocking(move || remains::sweep_bundle(&config, task, &why, stale)).await? && stale {
                        return Err(RuntimeError::Temporary(format!(
                            "containerd is still busy with an earlier start of task {task}"
                        )));
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(e) => return Err(start_error(e)),
            }
        }
    }

    pub(super) fn marked(&self, task: TaskId, mark: &str) -> bool {
        self.config.task_dir(task).join(mark).exists()
    }

    async fn mark(&self, task: TaskId, mark: &'static str) -> Result<(), RuntimeError> {
        let dir = self.config.task_dir(task);
        blocking(move || {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(mark), b"")
        })
        .await
    }

    /// Whether it ended without ever having been let go: its creation was cut off together with
    /// containerd. Such a one is made anew.
    fn was_botched(&self, task: TaskId, process: Option<&Process>) -> bool {
        process.is_some_and(|p| p.status() == ProcessStatus::Stopped) && !self.marked(task, STARTING)
    }

    async fn delete_process(&self, task: TaskId) -> Result<(), CallError> {
        let r = DeleteTaskRequest { container_id: task.to_string() };
        already(call(LONG, self.client.tasks().delete(self.client.request(r))).await)
    }

    async fn state(&self, task: TaskId, process: Option<&Process>) -> Result<ContainerState, CallError> {
        if self.was_botched(task, process) {
            return Ok(ContainerState::Created);
        }
        if let Some(p) = process {
            return Ok(self.completed(task, state_of(p)).await);
        }
        if !self.was_started(task) {
            return Ok(ContainerState::Created);
        }
        // A list leaves out a process whose shim was slow to answer: ask for this one before
        // it is called dead.
        match self.process(task).await? {
            Some(p) => Ok(self.completed(task, state_of(&p)).await),
            None => Ok(ContainerState::Stopped(self.kept(task))),
        }
    }

    /// Says of an end whether memory had run out: known as long as the cgroup is there, which goes
    /// with the process's remains. And of a container whose shim did not answer in time, which
    /// process it is.
    async fn completed(&self, task: TaskId, state: ContainerState) -> ContainerState {
        match state {
            ContainerState::Running { pid: 0 } => {
                let pid = remains::first_process(&self.config, task).unwrap_or_default();
                ContainerState::Running { pid }
            }
            ContainerState::Stopped(exit) => ContainerState::Stopped(self.exit(task, exit.code).await),
            other => other,
        }
    }

    pub(super) async fn exit(&self, task: TaskId, code: i32) -> Exit {
        let config = self.config.clone();
        let exit = tokio::task::spawn_blocking(move || ends::exit(&config, task, code)).await;
        exit.unwrap_or(Exit::with(code))
    }
}

pub(super) fn state_of(p: &Process) -> ContainerState {
    match p.status() {
        ProcessStatus::Created => ContainerState::Created,
        ProcessStatus::Stopped => {
            ContainerState::Stopped(Exit::with(i32::try_from(p.exit_status).unwrap_or(255)))
        }
        // Unknown: its shim does not answer. It was running when it last did.
        ProcessStatus::Running | ProcessStatus::Paused | ProcessStatus::Pausing | ProcessStatus::Unknown => {
            ContainerState::Running { pid: p.pid }
        }
    }
}

/// Runs file-system work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    let result = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|r| r);
    result.map_err(|e| RuntimeError::Temporary(format!("the container's files: {e}")))
}

#[async_trait]
impl Runtime for Containerd {
    async fn list(&self) -> Result<Vec<(TaskId, ContainerState)>, RuntimeError> {
        let c = &self.client;
        let r =
            call(SHORT, c.containers().list(c.request(ListContainersRequest { filters: vec![] }))).await?;
        let mut all: BTreeMap<TaskId, Option<Process>> = BTreeMap::new();
        for container in r.containers {
            all.extend(container.id.parse().map(|id| (id, None)));
        }
        let r = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters: vec![] };
        let mut stream = call(SHORT, c.snapshots().list(c.request(r))).await?;
        while let Some(batch) = stream.message().await.map_err(CallError::from)? {
            for info in batch.info {
                all.extend(info.name.parse().map(|id| (id, None)));
            }
        }
        let r = ListTasksRequest { filter: String::new() };
        for process in call(SHORT, c.tasks().list(c.request(r))).await?.tasks {
            let id = if process.container_id.is_empty() { &process.id } else { &process.container_id };
            if let Ok(id) = id.parse() {
                all.insert(id, Some(process));
            }
        }
        let mut states = Vec::with_capacity(all.len());
        for (id, process) in all {
            states.push((id, self.state(id, process.as_ref()).await?));
        }
        Ok(states)
    }

    async fn fetch(&self, task: &Task, tell: watch::Sender<String>) -> Result<(), RuntimeError> {
        let (image, spec) = (&task.spec.image, &task.spec);
        // A container that is made has its image.
        if self.process(task.id).await?.is_some() || self.was_started(task.id) {
            return Ok(());
        }
        let when = match spec.pull {
            PullPolicy::Never => return Ok(()),
            PullPolicy::Missing if self.images.resolve(image).await?.is_some() => return Ok(()),
            PullPolicy::Missing => When::Missing,
            PullPolicy::Always => When::Always,
        };
        let credentials = self.credentials(task)?;
        let mut pull = self.images.pull(image, when, credentials.as_ref());
        let name = image.familiar();
        let done = pull.clone();
        let done = done.done();
        tokio::pin!(done);
        loop {
            tell.send_replace(pull.progress.borrow_and_update().summary(&name));
            tokio::select! {
                ended = &mut done => return Ok(ended.map(drop)?),
                Ok(()) = pull.progress.changed() => {}
            }
        }
    }

    async fn prepare(&self, task: &Task, network: &NetworkNamespace) -> Result<(), RuntimeError> {
        let process = self.process(task.id).await?;
        if self.was_botched(task.id, process.as_ref()) {
            self.delete_process(task.id).await?;
        } else if process.is_some() || self.was_started(task.id) {
            return Ok(());
        }
        let image = self.images.resolve(&task.spec.image).await.map_err(RuntimeError::from)?;
        let image = image.ok_or_else(|| {
            let name = task.spec.image.familiar();
            match task.spec.pull {
                PullPolicy::Never => RuntimeError::Fatal(format!(
                    "image {name} is not on this node; bring it with `warren image pull` or `warren image import`, or let it be pulled (--pull missing)"
                )),
                _ => RuntimeError::Temporary(format!("image {name} was removed again")),
            }
        })?;
        let mounts = self.snapshot(task.id, &image).await?;
        let bundle = Bundle {
            config: self.config.clone(),
            volumes: self.volumes.clone(),
            task: task.clone(),
            image: image.config.clone(),
            snapshot: mounts.clone(),
            network: network.path.clone(),
        };
        let (dir, check) = (self.config.task_dir(task.id), image.config.healthcheck.clone());
        let (logs, id, limits) = (self.config.logs.clone(), task.id, task.spec.log);
        let spec = blocking(move || {
            logs.prepare(id, limits)?;
            health::keep(&dir, check.as_ref())?;
            Ok(bundle.make())
        })
        .await??;
        self.write_record(task, &image, spec).await?;
        self.create_process(task.id, mounts).await
    }

    async fn start(&self, task: TaskId) -> Result<u32, RuntimeError> {
        let mut process = self.process(task).await?;
        if self.was_botched(task, process.as_ref()) {
            self.delete_process(task).await?;
            process = None;
        }
        if process.is_none() && !self.was_started(task) {
            // Prepared before the machine was restarted, or cut off before its last step.
            let mounts = found(self.mounts(task).await)?
                .ok_or_else(|| RuntimeError::Fatal(format!("task {task} was not prepared")))?;
            self.create_process(task, mounts).await?;
            process = self.process(task).await?;
            if process.is_none() {
                // Killed in between, containerd forgets what it had just made. Nothing has started,
                // so this is no end.
                return Err(RuntimeError::Temporary(
                    "containerd lost the container while it was made".into(),
                ));
            }
        }
        let ended = || {
            let why = if process.is_some() { "has ended" } else { "was lost" };
            RuntimeError::Fatal(format!("the container {why} and is not started again"))
        };
        match process.as_ref().map(state_of) {
            Some(ContainerState::Running { pid }) => {
                self.mark(task, STARTED).await?;
                return Ok(pid);
            }
            Some(ContainerState::Stopped(_)) | None => return Err(ended()),
            Some(ContainerState::Created) => {}
        }
        self.mark(task, STARTING).await?;
        let r = StartRequest { container_id: task.to_string(), exec_id: String::new() };
        let started = call(LONG, self.client.tasks().start(self.client.request(r))).await;
        let pid = match started {
            Ok(r) => r.pid,
            Err(e) => {
                if matches!(e, CallError::Away(_)) {
                    // It may have gone through, and be over before containerd is back.
                    let config = self.config.clone();
                    tokio::spawn(async move { ends::witness(&config, task).await });
                }
                // A start that was cut off before may have gone through meanwhile: then it is no error.
                match self.process(task).await?.as_ref().map(state_of) {
                    Some(ContainerState::Running { pid }) => pid,
                    _ => return Err(start_error(e)),
                }
            }
        };
        self.mark(task, STARTED).await?;
        Ok(pid)
    }

    async fn wait(&self, task: TaskId) -> Result<Exit, RuntimeError> {
        self.wait_for_end(task).await
    }

    async fn stop(&self, task: TaskId) -> Result<(), RuntimeError> {
        let noted = self.config.task_dir(task).join(STOP_SIGNAL);
        let signal = blocking(move || match std::fs::read_to_string(noted) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            text => text.map(|t| t.trim().parse().ok()),
        })
        .await?;
        self.kill(task, signal.unwrap_or(libc::SIGTERM)).await
    }

    async fn kill(&self, task: TaskId, signal: i32) -> Result<(), RuntimeError> {
        match self.process(task).await?.as_ref().map(state_of) {
            Some(ContainerState::Stopped(_)) | None => return Ok(()),
            Some(ContainerState::Created | ContainerState::Running { .. }) => {}
        }
        let r = KillRequest {
            container_id: task.to_string(),
            exec_id: String::new(),
            signal: u32::try_from(signal).map_err(|_| RuntimeError::Fatal(format!("no signal {signal}")))?,
            all: false,
        };
        match call(SHORT, self.client.tasks().kill(self.client.request(r))).await {
            Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
            Err(CallError::Refused(why)) if why.contains("finished") || why.contains("not running") => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    async fn remove(&self, task: TaskId) -> Result<(), RuntimeError> {
        if let Some(process) = self.process(task).await? {
            if !matches!(state_of(&process), ContainerState::Stopped(_)) {
                self.kill(task, libc::SIGKILL).await?;
                match tokio::time::timeout(DEATH, self.wait_exit(task)).await {
                    Ok(Ok(_) | Err(CallError::NotFound(_))) => {}
                    Ok(Err(e)) => return Err(e.into()),
                    Err(_) => {
                        return Err(RuntimeError::Temporary(format!(
                            "process {} of task {task} does not die; it is probably stuck in the kernel",
                            process.pid
                        )));
                    }
                }
            }
            self.delete_process(task).await?;
        }
        let config = self.config.clone();
        blocking(move || {
            remains::sweep(&config, task)?;
            remains::remove_dir(&config.task_dir(task))
        })
        .await?;
        self.remove_snapshot(task).await?;
        Ok(self.remove_record(task).await?)
    }

    async fn image_health(&self, task: TaskId) -> Result<Option<HealthCheck>, RuntimeError> {
        let dir = self.config.task_dir(task);
        blocking(move || health::kept(&dir)).await
    }

    async fn run_in(
        &self,
        task: TaskId,
        words: &[String],
        limit: Duration,
        max_output: usize,
    ) -> Result<RunOutput, RuntimeError> {
        // The method of the same name that this type has itself.
        Self::run_in(self, task, words, limit, max_output).await
    }
}
