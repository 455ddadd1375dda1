//! kill -9 under load: what was acknowledged is there afterwards.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{begin, put};

const CHILD: &str = "WARREN_TEST_CRASH";
const FIRST: &str = "WARREN_TEST_CRASH_FIRST";

#[test]
fn every_acknowledged_write_outlives_kill_9() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["raft::tests::crash::child_that_writes", "--exact", "--ignored", "--nocapture"])
            .env(CHILD, dir.path())
            .env(FIRST, (round * 1_000_000).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Different moments in different rounds: in a run of appends, around snapshots and purges.
        let enough = 40 + 37 * round;
        let mut seen = 0;
        for line in lines {
            let Ok(line) = line else { break };
            let Some((_, n)) = line.split_once("ack=") else { continue };
            acknowledged.push(n.parse::<u64>().unwrap());
            seen += 1;
            if seen == enough {
                std::thread::sleep(Duration::from_micros(150 * round));
                kill(pid, Signal::SIGKILL).unwrap();
                // What it still said before it died was acknowledged too: read on to the end.
            }
        }
        child.wait().unwrap();
        assert!(seen >= enough, "the child ended by itself after {seen} writes in round {round}");

        let rt = tokio::runtime::Runtime::new().unwrap();
        rt.block_on(async {
            let raft = begin(dir.path()).await.unwrap();
            let view = raft.store().read().await.unwrap();
            for n in &acknowledged {
                let node = view.node(crate::model::NodeId::from_random((*n).into()));
                assert_eq!(node.map(|x| x.description.memory), Some(*n), "round {round}: write {n} is lost");
            }
            raft.shutdown().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by every_acknowledged_write_outlives_kill_9"]
async fn child_that_writes() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let raft = begin(Path::new(&dir)).await.unwrap();
    let writers = (0..4u64).map(|w| {
        let store = raft.store();
        tokio::spawn(async move {
            for n in 0..20_000 {
                let n = first + n * 4 + w;
                put(&store, n).await.unwrap();
                println!("ack={n}");
            }
        })
    });
    for w in writers.collect::<Vec<_>>() {
        w.await.unwrap();
    }
}
