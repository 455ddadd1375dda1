//! Damaged, missing and full: a sentence that names the file, never an empty cluster.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{begin, me, put, put_sized};
use crate::{
    model::NodeId,
    raft::{RaftConfig, start},
};

/// A directory with a snapshot, a purged log and entries after them.
async fn used() -> TempDir {
    let dir = TempDir::new().unwrap();
    let raft = begin(dir.path()).await.unwrap();
    for n in 0..300 {
        put(&raft.store(), n).await.unwrap();
    }
    raft.shutdown().await;
    dir
}

fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for f in fs::read_dir(from).unwrap() {
        let f = f.unwrap();
        fs::copy(f.path(), to.path().join(f.file_name())).unwrap();
    }
    to
}

async fn refusal(dir: &Path) -> String {
    match begin(dir).await {
        Ok(raft) => {
            let nodes = raft.store().view().nodes().count();
            raft.shutdown().await;
            panic!("it started with {nodes} of 300 nodes");
        }
        Err(e) => e.to_string(),
    }
}

/// What happens, to which file, how.
type Damage = (&'static str, &'static str, &'static dyn Fn(&Path));

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_refused_by_name() {
    let good = used().await;
    let damages: [Damage; 8] = [
        ("the log is gone", "log.redb", &|d| fs::remove_file(d.join("log.redb")).unwrap()),
        ("the log is empty", "log.redb", &|d| fs::write(d.join("log.redb"), "").unwrap()),
        ("the log is cut", "log.redb", &|d| {
            let f = fs::OpenOptions::new().write(true).open(d.join("log.redb")).unwrap();
            f.set_len(f.metadata().unwrap().len() / 2).unwrap();
        }),
        ("the log is something else", "log.redb", &|d| {
            fs::write(d.join("log.redb"), vec![7; 8192]).unwrap();
        }),
        ("the snapshot is gone", "snapshot", &|d| fs::remove_file(d.join("snapshot")).unwrap()),
        ("the snapshot is cut", "snapshot", &|d| {
            let bytes = fs::read(d.join("snapshot")).unwrap();
            fs::write(d.join("snapshot"), &bytes[..bytes.len() - 10]).unwrap();
        }),
        ("a bit of the snapshot flipped", "snapshot", &|d| {
            let mut bytes = fs::read(d.join("snapshot")).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 4;
            fs::write(d.join("snapshot"), bytes).unwrap();
        }),
        ("the snapshot is empty", "snapshot", &|d| fs::write(d.join("snapshot"), "").unwrap()),
    ];
    for (what, file, damage) in damages {
        let dir = copy(good.path());
        damage(dir.path());
        let said = refusal(dir.path()).await;
        let path = dir.path().join(file).display().to_string();
        assert!(said.starts_with(&path) && said.contains("restore"), "{what}: {said}");
        assert!(!said.contains('\n'), "{what}: {said}");
    }
}

/// Whatever redb makes of flipped bytes: either it starts with everything that was acknowledged, or
/// it says which file is bad. Returns whether it started.
async fn survives(good: &Path, rotten: &[u8]) -> bool {
    let dir = copy(good);
    fs::write(dir.path().join("log.redb"), rotten).unwrap();
    match begin(dir.path()).await {
        Ok(raft) => {
            assert_eq!(raft.store().view().nodes().count(), 300, "something was lost silently");
            raft.shutdown().await;
            true
        }
        Err(e) => {
            assert!(e.to_string().contains("log.redb"), "{e}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_in_the_log_is_never_silent_loss() {
    let good = used().await;
    let bytes = fs::read(good.path().join("log.redb")).unwrap();
    for i in 0..40 {
        let mut rotten = bytes.clone();
        for b in rotten.iter_mut().skip(i * bytes.len() / 40).take(64) {
            *b ^= 0x55;
        }
        survives(good.path(), &rotten).await;
    }
    // One bit in the last entry, wherever redb keeps copies of it.
    let id = NodeId::from_random(299).to_string();
    let mut rotten = bytes.clone();
    let at: Vec<_> = (0..bytes.len() - id.len()).filter(|i| bytes[*i..].starts_with(id.as_bytes())).collect();
    assert!(!at.is_empty());
    for i in at {
        rotten[i] ^= 1;
    }
    assert!(!survives(good.path(), &rotten).await, "a flipped bit was taken for what was written");
}

#[tokio::test]
async fn what_a_crash_left_of_a_new_snapshot_is_dropped() {
    let dir = used().await;
    fs::write(dir.path().join("snapshot.new"), b"WRNSNAP1 torn").unwrap();
    let raft = begin(dir.path()).await.unwrap();
    assert_eq!(raft.store().view().nodes().count(), 300);
    assert!(!dir.path().join("snapshot.new").exists());
    raft.shutdown().await;
}

#[tokio::test]
async fn another_nodes_directory_and_one_in_use_are_refused() {
    let dir = used().await;
    let other = NodeId::from_random(8);
    let said = start(RaftConfig::new(dir.path(), other)).await.map(drop).unwrap_err().to_string();
    assert!(said.contains("log.redb") && said.contains(me().as_str()), "{said}");
    let raft = begin(dir.path()).await.unwrap();
    let said = begin(dir.path()).await.map(drop).unwrap_err().to_string();
    assert!(said.contains("log.redb") && said.contains("in use"), "{said}");
    raft.shutdown().await;
}

const CHILD: &str = "WARREN_TEST_FULL_DISK";

/// The kernel refuses every byte past a limit, as a full disk would. A process of its own has the
/// limit.
#[test]
fn a_disk_that_takes_no_more_stops_with_its_name() {
    let dir = TempDir::new().unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["raft::tests::damage::child_with_a_full_disk", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let acknowledged: usize = said
        .lines()
        .find_map(|l| l.split_once("acknowledged=").and_then(|(_, n)| n.trim().parse().ok()))
        .expect("the child says how many writes were acknowledged");
    assert!(acknowledged > 0, "nothing was written at all");
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(async {
        let raft = begin(dir.path()).await.unwrap();
        let there = raft.store().view().nodes().count();
        assert!(there >= acknowledged, "{acknowledged} were acknowledged and {there} are there");
        raft.shutdown().await;
    });
}

#[tokio::test]
#[ignore = "started by a_disk_that_takes_no_more_stops_with_its_name"]
async fn child_with_a_full_disk() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let raft = begin(Path::new(&dir)).await.unwrap();
    let limit = fs::metadata(Path::new(&dir).join("log.redb")).unwrap().len() + (4 << 20);
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the limit is a valid struct for the whole call; ignoring a signal runs no code of
    // ours (a write past the limit then returns EFBIG).
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    let store = raft.store();
    for n in 0..1000 {
        if let Err(e) = put_sized(&store, n, 32 << 10).await {
            let said = e.to_string();
            assert!(said.contains(dir.to_str().unwrap()) && said.contains("free space"), "{said}");
            let failed = raft.failed().await.to_string();
            assert!(failed.contains(dir.to_str().unwrap()), "{failed}");
            assert!(!*raft.leadership().borrow(), "a store that stopped does not lead");
            println!("acknowledged={n}");
            return;
        }
    }
    panic!("the disk never filled");
}
