//! A node's life: everything is started in the order it needs each other, and stopped in the
//! reverse. Containers and the datapath are not stopped: they go on without us.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

use super::{
    LogFormat, NodeConfig, NodeError, adapters,
    config::Layout,
    describe::describe,
    housekeeping,
    identity::{DataDir, RuntimeRecord},
    local::{Containers, Images, Logs, NodeLocal, Probes, Volumes},
    preflight,
};
use crate::{
    api, manager,
    model::{Cluster, ClusterNetwork, Id, NodeId, Timestamp},
    net, observability,
    proto::v1::{
        containers_server::ContainersServer, control_server::ControlServer,
        dispatcher_server::DispatcherServer, images_server::ImagesServer, logs_server::LogsServer,
        node_local_server::NodeLocalServer, probes_server::ProbesServer, volumes_server::VolumesServer,
    },
    raft, rpc,
    seal::Sealer,
    store::{Store, UpdateError},
    worker::{self, runtime},
};

/// How long a node may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start; and when a part that it cannot do without has failed.
pub fn start(config: NodeConfig) -> Result<(), NodeError> {
    observability::log_to_stderr(&config.log_level, config.log_format == LogFormat::Json)
        .map_err(|e| NodeError::LogLevel(e.0))?;
    let begun = Instant::now();
    DataDir::wait_for(&config.data_dir);
    if let Some(first) = preflight::check(&config).into_iter().next() {
        return Err(NodeError::Preflight(first));
    }
    let data_dir = DataDir::hold(&config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The agent waits more than it works; more threads would only cost memory.
        .worker_threads(2)
        .thread_name("warren")
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(&config, &data_dir, begun));
    // A look into /proc or a sync of a slow disk must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(config: &NodeConfig, data_dir: &DataDir, begun: Instant) -> Result<(), NodeError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = rpc::listen(&config.socket)?;
    let node = data_dir.node_or_new(rand::random())?;
    let layout = Layout::new(&config.data_dir, node);
    let sealer = Sealer::of_file(&layout.key())?;
    std::fs::create_dir_all(&layout.state_dir)?;
    let stop = CancellationToken::new();

    let raft = raft::start(raft::RaftConfig::new(layout.raft_dir(), node)).await?;
    let store = raft.store();
    let store_ready = begun.elapsed();
    let clock = manager::system_clock();
    if store.view().cluster().is_none() {
        // The pre-flight looked only on an empty directory; this one may be of a start cut off.
        if let Some(conflict) = net::pool_conflict(config.pool(), config.pool6()).await? {
            return Err(NodeError::Pool(conflict.sentence));
        }
    }
    let cluster = adopt_or_make_cluster(&store, config, clock()).await?;
    // The two slow starts need nothing of each other.
    let (assign, assigned) = watch::channel(None);
    let net_config = net_config(config, &layout, node, &cluster.network.pools());
    let ((net, net_running, network_ready), (containerd, containerd_ready)) = tokio::try_join!(
        async {
            let (net, running) = net::start(net_config, assigned.clone(), stop.clone()).await?;
            Ok::<_, NodeError>((net, running, begun.elapsed()))
        },
        async {
            let containerd = start_containerd(config, data_dir, &layout, node, &sealer).await?;
            Ok::<_, NodeError>((containerd, begun.elapsed()))
        },
    )?;
    tracing::info!(%node, cluster = %cluster.id, "node is up");

    let manager =
        manager::start(store.clone(), raft.leadership(), clock.clone(), rand::random(), stop.clone());
    let images = containerd.runtime.images().clone();
    if let Err(e) = images.sweep().await {
        tracing::warn!(error = %e, "what a cut-off import left could not be removed yet");
    }
    // Before anybody can ask for new ones.
    containerd.runtime.sweep_execs().await;
    let containers = Containers { node, containerd: containerd.runtime.clone(), store: store.clone() };
    let local = NodeLocal {
        node,
        layout: layout.clone(),
        name: describe(config).name,
        containerd_socket: containerd.socket.clone(),
        containerd_pid: containerd.supervisor.as_ref().map(runtime::Supervisor::pid),
        net: net.clone(),
    };
    // Filled by the worker, which starts only once the door is open.
    let board = worker::health::Board::default();
    let logs = Logs { logs: layout.logs(), assignment: assigned.clone() };
    let images = Images { node, images, store: store.clone() };
    let room = housekeeping::keep_room(
        images.clone(),
        config.data_dir.clone(),
        config.watermarks,
        clock,
        stop.clone(),
    );
    tokio::spawn(room);
    let volumes = Volumes { node, volumes: containerd.runtime.volumes().clone(), store: store.clone() };
    let dispatcher = DispatcherServer::new(manager.dispatcher).max_encoding_message_size(rpc::MAX_MESSAGE);
    let serving = tonic::transport::Server::builder()
        .add_service(
            ControlServer::new(api::Control::new(
                store.clone(),
                Arc::new(adapters::HostListeners),
                sealer.clone(),
            ))
            .max_encoding_message_size(rpc::MAX_MESSAGE),
        )
        .add_service(ImagesServer::new(images).max_encoding_message_size(rpc::MAX_MESSAGE))
        .add_service(LogsServer::new(logs).max_encoding_message_size(rpc::MAX_MESSAGE))
        .add_service(VolumesServer::new(volumes).max_encoding_message_size(rpc::MAX_MESSAGE))
        .add_service(ContainersServer::new(containers).max_encoding_message_size(rpc::MAX_MESSAGE))
        .add_service(NodeLocalServer::new(local).max_encoding_message_size(rpc::MAX_MESSAGE))
        .add_service(ProbesServer::new(Probes { board: board.clone() }))
        .add_service(dispatcher)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.clone().cancelled_owned());
    let mut serving = tokio::spawn(serving);
    // After the door is open: its session goes through it.
    let worker = worker::start(
        worker::WorkerConfig {
            node,
            description: describe(config),
            data_dir: layout.worker_dir(),
            timing: worker::Timing::default(),
            probes: board,
        },
        rpc::dial_lazy(&config.socket),
        containerd.runtime.clone(),
        Arc::new(adapters::WorkerNetwork(net)),
        stop.clone(),
    )?;
    let forwarding = tokio::spawn(adapters::forward(worker.assignment.clone(), assign, stop.clone()));

    // Moments since the start, so that one sees what was waited for.
    tracing::info!(
        ms = ms(begun.elapsed()),
        store_ms = ms(store_ready),
        network_ms = ms(network_ready),
        containerd_ms = ms(containerd_ready),
        "ready"
    );
    eprintln!("ready: API on {}", config.socket.display());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        why = raft.failed() => Some(NodeError::from(why)),
        ended = &mut serving => match ended {
            Ok(Err(e)) => Some(NodeError::System(std::io::Error::other(e))),
            _ => None,
        },
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping; containers and their network go on");
    stop.cancel();
    let mut ending = JoinSet::new();
    ending.spawn(async move {
        let _ = worker.join.await;
        let _ = forwarding.await;
    });
    ending.spawn(async move {
        let _ = manager.running.await;
    });
    ending.spawn(async move {
        let _ = net_running.await;
    });
    // Streams (watches, sessions) end with the process; nobody waits for them.
    let all = async { while ending.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
        tracing::warn!("not everything stopped in time");
    }
    serving.abort();
    raft.shutdown().await;
    let _ = std::fs::remove_file(&config.socket);
    failed.map_or(Ok(()), Err)
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// What the network is told; also what `check` and `reset` tell it.
pub(super) fn net_config(
    config: &NodeConfig,
    layout: &Layout,
    node: NodeId,
    pools: &[ipnet::IpNet],
) -> net::Config {
    net::Config {
        node,
        pin_root: layout.pin_root.clone(),
        netns_dir: layout.netns_dir(),
        deny_file: layout.deny_file(),
        interfaces: config.interfaces.clone(),
        publish_default: config.publish_default,
        guard: config.guard,
        pools: pools.to_vec(),
    }
}

struct RunningContainerd {
    runtime: Arc<runtime::Containerd>,
    socket: std::path::PathBuf,
    supervisor: Option<runtime::Supervisor>,
}

async fn start_containerd(
    config: &NodeConfig,
    data_dir: &DataDir,
    layout: &Layout,
    node: NodeId,
    sealer: &Sealer,
) -> Result<RunningContainerd, NodeError> {
    let given = config.containerd.choose(data_dir.runtime_record()?.as_ref()).await?;
    data_dir.write_runtime_record(&RuntimeRecord { node: node.to_string(), socket: given.clone() })?;
    let socket = given.clone().unwrap_or_else(|| layout.supervisor().socket());
    let runtime = layout.runtime(node, socket.clone());
    let supervisor = match &given {
        Some(_) => None,
        None => {
            // Both may have been away, as after an upgrade.
            let ends = runtime::Ends::watch(&runtime).await;
            let supervisor = runtime::Supervisor::start(layout.supervisor())
                .await
                .map_err(|e| NodeError::Runtime(e.to_string()))?;
            ends.containerd_is_up().await;
            Some(supervisor)
        }
    };
    let runtime =
        runtime::Containerd::new(runtime).with_registries(config.registries()?).with_sealer(sealer.clone());
    Ok(RunningContainerd { runtime: Arc::new(runtime), socket, supervisor })
}

/// The cluster this node is of; made at the first start.
async fn adopt_or_make_cluster(
    store: &Store,
    config: &NodeConfig,
    now: Timestamp,
) -> Result<Cluster, NodeError> {
    let new = Cluster {
        id: Id::from_random(rand::random()),
        version: 0,
        network: ClusterNetwork { pool: config.pool(), pool6: config.pool6() },
        created_at: now,
    };
    let outcome = store
        .update(|tx| match tx.cluster() {
            Some(cluster) => {
                let has = cluster.network;
                let other = [
                    config.pool.filter(|p| *p != has.pool).map(|p| ("--pool", p.to_string(), has.pool.to_string())),
                    config.pool6.filter(|p| *p != has.pool6).map(|p| ("--pool6", p.to_string(), has.pool6.to_string())),
                ];
                match other.into_iter().flatten().next() {
                    Some((flag, asked, has)) => Err(format!(
                        "{flag} {asked} differs from the cluster's pool {has}, which is fixed once the cluster exists: leave the flag away, or start anew with `warren node reset`"
                    )),
                    None => Ok(cluster.clone()),
                }
            }
            None => {
                tx.put_cluster(new.clone());
                Ok(new.clone())
            }
        })
        .await;
    outcome.map_err(|e| match e {
        UpdateError::Refused(why) => NodeError::Pool(why),
        UpdateError::Store(e) => NodeError::Store(e),
    })
}
