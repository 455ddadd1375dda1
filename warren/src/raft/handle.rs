//! Starting, leading, stopping.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use openraft::{Config, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    error::{Fault, RaftError},
    log::Log,
    machine::Machine,
    network::NoPeers,
    proposer::Consensus,
    snapshot::{Snapshots, sync_directory},
    types::{Peer, Types, voter_number},
};
use crate::{
    model::NodeId,
    store::{Replica, Store},
};

/// How long a cluster of one may take to lead. It takes milliseconds; a disk that stalls, longer.
const LEAD_WITHIN: Duration = Duration::from_secs(60);

/// What the consensus needs to know.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// Its own directory; made (0700) when it is missing. Nobody else may use it meanwhile.
    pub dir: PathBuf,
    /// Who we are. A directory belongs to one node for ever.
    pub node: NodeId,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
}

impl RaftConfig {
    /// The usual settings.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, node: NodeId) -> Self {
        Self { dir: dir.into(), node, snapshot_every: 4096 }
    }
}

/// The running consensus. Dropping it does not stop it; [`RaftHandle::shutdown`] does.
pub struct RaftHandle {
    raft: Raft<Types>,
    store: Store,
    leadership: watch::Receiver<bool>,
    stopped: watch::Receiver<Option<String>>,
    follower: JoinHandle<()>,
    /// Alive as long as anyone has the log open.
    log: Weak<dyn Send + Sync>,
}

impl RaftHandle {
    /// The replicated store.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Whether this node leads, now and after each change.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<bool> {
        self.leadership.clone()
    }

    /// Resolves when the consensus has stopped by itself (disk full, damaged file), with the
    /// reason. Never resolves after [`RaftHandle::shutdown`].
    pub async fn failed(&self) -> RaftError {
        let mut stopped = self.stopped.clone();
        loop {
            if let Some(why) = &*stopped.borrow_and_update() {
                return RaftError::Stopped(why.clone());
            }
            if stopped.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Has a snapshot made now and old entries purged after it.
    ///
    /// # Errors
    /// When the consensus has stopped.
    pub async fn snapshot(&self) -> Result<(), RaftError> {
        self.raft.trigger().snapshot().await.map_err(|e| RaftError::Stopped(e.to_string()))
    }

    /// Stops and returns once the files are closed. Nothing acknowledged is lost.
    pub async fn shutdown(&self) {
        self.follower.abort();
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "the consensus ended in a panic");
        }
        // openraft's state machine and snapshot tasks end on their own shortly after.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.log.strong_count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Starts the consensus: resumes what is in the directory, or begins a cluster of one when nothing
/// is. Returns when a cluster of one leads and has applied its whole log; with more voters, when it
/// takes part.
///
/// # Errors
/// Names the file that cannot be used and what to do.
pub async fn start(config: RaftConfig) -> Result<RaftHandle, RaftError> {
    let fault = Fault::default();
    let replica = Arc::new(Replica::default());
    let opened = {
        let (config, replica, fault) = (config.clone(), replica.clone(), fault.clone());
        tokio::task::spawn_blocking(move || open(&config, replica, fault)).await
    };
    let (log, machine, probe) =
        opened.map_err(|e| RaftError::Stopped(format!("opening its files was cut off ({e})")))??;
    let weak = log.downgrade();
    let me = voter_number(config.node);
    let stopped = |e: &dyn ToString| RaftError::Stopped(fault.get().unwrap_or_else(|| e.to_string()));

    let settings = settings(&config, probe).validate().map_err(|e| stopped(&e))?;
    let raft = Raft::new(me, Arc::new(settings), NoPeers, log, machine).await.map_err(|e| stopped(&e))?;
    if !raft.is_initialized().await.map_err(|e| stopped(&e))? {
        let peer = Peer { node: config.node.to_string(), address: String::new() };
        raft.initialize(BTreeMap::from([(me, peer)])).await.map_err(|e| stopped(&e))?;
    }
    mark_begun(&config.dir)?;

    // Asked of the core itself: its metrics are empty until it first publishes them.
    let alone = raft.with_raft_state(move |s| s.membership_state.effective().voter_ids().eq([me]));
    if alone.await.map_err(|e| stopped(&e))? {
        // Nobody else can win: there is no time-out to wait for. A no-op when it leads already.
        raft.trigger().elect().await.map_err(|e| stopped(&e))?;
        raft.wait(Some(LEAD_WITHIN)).metrics(leads, "leader").await.map_err(|e| stopped(&e))?;
        raft.ensure_linearizable().await.map_err(|e| stopped(&e))?;
    }

    let store = Store::new(replica, Arc::new(Consensus::new(raft.clone(), fault.clone())));
    let metrics = raft.metrics();
    let (lead, leadership) = watch::channel(leads(&metrics.borrow()));
    let (stop, stopped) = watch::channel(None);
    let follower = tokio::spawn(follow(metrics, lead, stop, fault.clone()));
    Ok(RaftHandle { raft, store, leadership, stopped, follower, log: weak })
}

fn leads(m: &RaftMetrics<u64, Peer>) -> bool {
    m.running_state.is_ok() && m.state == ServerState::Leader && m.current_leader == Some(m.id)
}

/// Turns openraft's metrics into the two things others want to know.
async fn follow(
    mut metrics: watch::Receiver<RaftMetrics<u64, Peer>>,
    lead: watch::Sender<bool>,
    stop: watch::Sender<Option<String>>,
    fault: Fault,
) {
    loop {
        let (leads, failed) = {
            let m = metrics.borrow_and_update();
            (leads(&m), m.running_state.as_ref().err().map(ToString::to_string))
        };
        lead.send_if_modified(|l| std::mem::replace(l, leads) != leads);
        if let Some(why) = failed {
            stop.send_replace(Some(fault.get().unwrap_or(why)));
            return;
        }
        if metrics.changed().await.is_err() {
            // The core is gone without having said why.
            lead.send_replace(false);
            stop.send_replace(Some(fault.get().unwrap_or_else(|| "it ended unexpectedly".into())));
            return;
        }
    }
}

fn begun(dir: &Path) -> PathBuf {
    dir.join("begun")
}

fn mark_begun(dir: &Path) -> Result<(), RaftError> {
    let path = begun(dir);
    if path.exists() {
        return Ok(());
    }
    let mark = || fs::File::create(&path)?.sync_all().and_then(|()| sync_directory(dir));
    mark().map_err(|e| RaftError::file("write", &path, e))
}

/// Opens the files and checks that they fit together. Also measures one durable commit.
fn open(
    config: &RaftConfig,
    replica: Arc<Replica>,
    fault: Fault,
) -> Result<(Log, Machine, Duration), RaftError> {
    let dir = &config.dir;
    let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make.map_err(|e| RaftError::file("make", dir, e))?;
    let path = dir.join("log.redb");
    if begun(dir).exists() && fs::metadata(&path).map_or(0, |m| m.len()) == 0 {
        return Err(RaftError::damaged(&path, "a cluster was begun here and its log is gone"));
    }
    let snapshots = Snapshots::open(dir, fault.clone())?;
    let snapshot_path = snapshots.path();
    let machine = Machine::open(replica, snapshots)?;
    let before = Instant::now();
    let log = Log::open(&path, config.node, fault)?;
    let probe = before.elapsed();
    if log.is_blank()? && (begun(dir).exists() || machine.applied().is_some()) {
        return Err(RaftError::damaged(&path, "a cluster was begun here and its log is empty"));
    }
    let purged = log.purged()?;
    if purged > machine.applied() {
        let why = format!(
            "entries up to {} are gone from the log and only the snapshot had them",
            purged.map_or(0, |p| p.index)
        );
        return Err(RaftError::damaged(&snapshot_path, why));
    }
    // The new names must outlive a power cut as well as what is in them.
    for dir in [Some(dir.as_path()), dir.parent()].into_iter().flatten() {
        let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        sync_directory(here).map_err(|e| RaftError::file("sync", here, e))?;
    }
    Ok((log, machine, probe))
}

/// Timers from how long the disk took to open and to make one commit durable: a follower must not
/// stand for election because the leader's disk is slow.
fn settings(config: &RaftConfig, probe: Duration) -> Config {
    let commit = u64::try_from(probe.as_millis()).unwrap_or(u64::MAX);
    let election = commit.saturating_mul(20).clamp(1000, 10_000);
    Config {
        cluster_name: "warren".into(),
        heartbeat_interval: election / 4,
        election_timeout_min: election,
        election_timeout_max: election * 2,
        install_snapshot_timeout: 10_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every),
        max_in_snapshot_log_to_keep: config.snapshot_every / 4,
        replication_lag_threshold: config.snapshot_every.saturating_mul(2),
        ..Config::default()
    }
}
