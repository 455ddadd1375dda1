//! openraft's own suite, resuming, damage and kill -9.

mod crash;
mod damage;

use std::{collections::BTreeMap, convert::Infallible, path::Path, time::Instant};

use openraft::{
    CommittedLeaderId,
    entry::RaftEntry as _,
    storage::RaftLogStorageExt as _,
    testing::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::{
    RaftConfig, RaftError, RaftHandle,
    error::Fault,
    log::Log,
    machine::Machine,
    snapshot::Snapshots,
    start,
    types::{Entry, LogId, Membership, Peer, StorageError, Types, voter_number},
};
use crate::{
    model::{Node, NodeDescription, NodeId},
    store::{Replica, Store, UpdateError},
};

struct Builder;

impl StoreBuilder<Types, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError> {
        let dir = TempDir::new().unwrap();
        let log = Log::open(&dir.path().join("log.redb"), me(), Fault::default()).unwrap();
        let snapshots = Snapshots::open(dir.path(), Fault::default()).unwrap();
        let machine = Machine::open(Replica::default().into(), snapshots).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn the_storage_passes_openrafts_suite() {
    Suite::test_all(Builder).unwrap();
}

fn me() -> NodeId {
    NodeId::from_random(7)
}

async fn begin(dir: &Path) -> Result<RaftHandle, RaftError> {
    start(RaftConfig { snapshot_every: 64, ..RaftConfig::new(dir, me()) }).await
}

/// Writes a node whose numbers say `n`.
async fn put(store: &Store, n: u64) -> Result<(), UpdateError<Infallible>> {
    put_sized(store, n, 0).await
}

/// The same, with some `bytes` in it.
async fn put_sized(store: &Store, n: u64, bytes: usize) -> Result<(), UpdateError<Infallible>> {
    let name = "x".repeat(bytes);
    store
        .update(|tx| {
            tx.put_node(Node {
                id: NodeId::from_random(n.into()),
                version: 0,
                description: NodeDescription { memory: n, name: name.clone(), ..Default::default() },
                availability: Default::default(),
                state: Default::default(),
                subnet: None,
                created_at: Default::default(),
            });
            Ok(())
        })
        .await
}

#[tokio::test]
async fn it_leads_at_once_and_resumes_what_was() {
    let dir = TempDir::new().unwrap();
    for round in 0..4u64 {
        let at = Instant::now();
        let raft = begin(dir.path()).await.unwrap();
        let took = at.elapsed();
        assert!(*raft.leadership().borrow());
        // The shortest election time-out is a second: it was not waited for.
        assert!(took.as_millis() < 900, "leading took {took:?}");
        assert_eq!(raft.store().view().nodes().count() as u64, round * 100, "round {round}");
        for n in 0..100 {
            put(&raft.store(), round * 100 + n).await.unwrap();
        }
        assert_eq!(raft.store().read().await.unwrap().nodes().count() as u64, (round + 1) * 100);
        raft.shutdown().await;
    }
    assert!(dir.path().join("snapshot").exists(), "no snapshot was made");
}

#[tokio::test]
async fn a_stopped_consensus_says_so() {
    let dir = TempDir::new().unwrap();
    let raft = begin(dir.path()).await.unwrap();
    raft.shutdown().await;
    let refused = put(&raft.store(), 1).await.unwrap_err().to_string();
    assert!(refused.contains("has stopped"), "{refused}");
}

#[tokio::test]
async fn a_crash_between_opening_and_beginning_is_a_beginning() {
    let dir = TempDir::new().unwrap();
    drop(Log::open(&dir.path().join("log.redb"), me(), Fault::default()).unwrap());
    let raft = begin(dir.path()).await.unwrap();
    put(&raft.store(), 1).await.unwrap();
    raft.shutdown().await;
    // The marker is written after the first entry: without it the log still counts.
    std::fs::remove_file(dir.path().join("begun")).unwrap();
    let raft = begin(dir.path()).await.unwrap();
    assert_eq!(raft.store().view().nodes().count(), 1);
    raft.shutdown().await;
}

/// The same code with more voters: without a quorum it takes part, and refuses in words.
#[tokio::test]
async fn with_a_peer_that_is_away_it_does_not_pretend_to_lead() {
    let dir = TempDir::new().unwrap();
    let mut log = Log::open(&dir.path().join("log.redb"), me(), Fault::default()).unwrap();
    let peer = |n: u128| Peer { node: NodeId::from_random(n).to_string(), address: String::new() };
    let peers = BTreeMap::from([(voter_number(me()), peer(7)), (42, peer(8))]);
    let members = Membership::new(vec![peers.keys().copied().collect()], peers);
    let first = LogId::new(CommittedLeaderId::new(0, 0), 0);
    log.blocking_append([Entry::new_membership(first, members)]).await.unwrap();
    drop(log);
    let raft = begin(dir.path()).await.unwrap();
    assert!(!*raft.leadership().borrow());
    let said = put(&raft.store(), 1).await.unwrap_err().to_string();
    assert!(said.contains("does not lead") && !said.contains('\n'), "{said}");
    assert!(raft.store().read().await.is_err(), "a read that may be stale passed for a fresh one");
    raft.shutdown().await;
}

/// How fast this disk and build are: `cargo test … measure -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement, not a test"]
async fn measure() {
    let dir = TempDir::new_in(std::env::var("WARREN_BENCH_DIR").unwrap_or("/var/tmp".into())).unwrap();
    for what in ["empty directory", "resumed"] {
        let at = Instant::now();
        let raft = start(RaftConfig::new(dir.path(), me())).await.unwrap();
        println!("start to leader, {what}: {:?}", at.elapsed());
        let mut all = Vec::new();
        for n in 0..500 {
            let at = Instant::now();
            put(&raft.store(), n + u64::from(what == "resumed") * 1000).await.unwrap();
            all.push(at.elapsed());
        }
        all.sort();
        println!("update: p50 {:?}, p99 {:?}", all[250], all[495]);
        raft.shutdown().await;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or_default());
}
