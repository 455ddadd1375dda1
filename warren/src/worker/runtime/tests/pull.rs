//! Pulls from a real registry into a real containerd: what comes, how often, and what is left of
//! what did not.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::fixture::{TestNode, eventually, test_image};
use crate::{
    model::{ImageReference, PullPolicy, RegistryAuth, Task, TaskSpec, Timestamp},
    worker::{
        executor::{ContainerState, Runtime, RuntimeError},
        runtime::{
            image::{Disk, ImageError, ImageInfo, Pull, Watermarks, When},
            testing::{TestFile, TestImage, proxy::Proxy, registry::TestRegistry, task},
        },
    },
};

impl TestNode {
    pub(super) fn pulling(&self, image: &str, credentials: Option<&RegistryAuth>) -> Pull {
        self.containerd.images().pull(&image.parse().unwrap(), When::Always, credentials)
    }

    pub(super) async fn pull(&self, image: &str) -> Result<ImageInfo, ImageError> {
        self.pulling(image, None).done().await
    }

    pub(super) async fn fetch(&self, task: &Task) -> Result<(), RuntimeError> {
        let (tell, _) = tokio::sync::watch::channel(String::new());
        self.containerd.fetch(task, tell).await
    }

    async fn nothing_is_left(&self) {
        self.containerd.images().prune(BTreeSet::new, false).await.unwrap();
        eventually("nothing is left", async || {
            let ingests = self.own.root().join("io.containerd.content.v1.content/ingest");
            let ingests = std::fs::read_dir(ingests).map_or(0, Iterator::count);
            (self.snapshots(), self.blobs(), ingests) == (0, 0, 0)
        })
        .await;
    }
}

/// A layer that does not pack, the same for the same seed.
fn noise(len: usize, seed: u64) -> TestFile {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    TestFile::new(&format!("noise{seed}"), bytes)
}

const MIB: u64 = 1 << 20;

/// Layers of 4, 8 and 2 MiB.
fn big_image() -> TestImage {
    TestImage::new("big").layer(&[noise(4 << 20, 1)]).layer(&[noise(8 << 20, 2)]).layer(&[noise(2 << 20, 3)])
}

fn spec(image: &str, pull: PullPolicy) -> TaskSpec {
    let mut spec = TaskSpec::new(image.parse().unwrap());
    spec.pull = pull;
    spec.args = vec!["sleep".to_owned()];
    spec
}

/// What makes another kind of the same image.
type Change = fn(&mut TestImage);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn every_kind_of_image_is_pulled_and_runs() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    let kinds: [(&str, Change); 5] = [
        ("plain", |_| {}),
        ("gzip", |i| i.gzip = true),
        ("zstd", |i| i.zstd = true),
        ("docker", |i| i.docker_types = true),
        ("dockergz", |i| (i.docker_types, i.gzip) = (true, true)),
    ];
    for (number, (kind, change)) in kinds.into_iter().enumerate() {
        let mut image = test_image();
        change(&mut image);
        let digest = registry.put(&format!("some/{kind}"), "1", &image);
        let name = registry.name(&format!("some/{kind}:1"));
        let info = node.pull(&name).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(info.digest, digest, "{kind}");
        let by_digest = registry.name(&format!("some/{kind}@{digest}"));
        assert_eq!(node.pull(&by_digest).await.unwrap().digest, digest, "{kind}");

        let task = task(number as u128, spec(&name, PullPolicy::Missing));
        node.containerd.prepare(&task, &node.network).await.unwrap();
        let pid = node.containerd.start(task.id).await.unwrap();
        assert_eq!(node.state(&task).await, Some(ContainerState::Running { pid }), "{kind}");
        node.containerd.remove(task.id).await.unwrap();
    }
    // All of it goes again, and is counted once.
    let pruned = node.containerd.images().prune(BTreeSet::new, false).await.unwrap();
    assert_eq!(pruned.images.len(), 2 * kinds.len());
    let all: u64 = pruned.images.iter().map(|i| i.size).sum();
    assert!(pruned.reclaimed > 0 && pruned.reclaimed < all, "{} of {all}", pruned.reclaimed);
    assert_eq!((node.snapshots(), node.blobs()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn of_several_platforms_the_own_is_taken_and_what_is_current_is_not_fetched_again() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    let own = format!("linux/{}", test_image().architecture);
    let mut foreign = TestImage::new("x").layer(&[TestFile::new("a", "b")]);
    foreign.architecture = "s390x".to_owned();
    let attestation = TestImage::new("x").layer(&[TestFile::new("attestation", "c")]);
    let index = registry.put_index(
        "multi",
        "1",
        &[("unknown/unknown", &attestation), ("linux/s390x", &foreign), (&own, &test_image())],
    );
    let name = registry.name("multi:1");
    let info = node.pull(&name).await.unwrap();
    let chosen = node.containerd.images().resolve(&name.parse().unwrap()).await.unwrap().unwrap();
    assert!(chosen.config.entrypoint.is_some(), "the one for this machine");
    assert_ne!(info.digest, index);
    let by_digest = node.pull(&registry.name(&format!("multi@{index}"))).await.unwrap();
    assert_eq!(by_digest.digest, info.digest);

    // Asked again, the registry says in one answer that nothing has changed.
    let manifests = registry.requests(&["GET", "/manifests/"]);
    assert_eq!(node.pull(&name).await.unwrap().digest, info.digest);
    assert_eq!(registry.requests(&["GET", "/manifests/"]), manifests);
    assert!(registry.requests(&["HEAD", "/manifests/1"]) > 0);
    // The name means another image by now.
    let other = test_image().layer(&[TestFile::new("etc/newer", "yes")]);
    let newer = registry.put("multi", "1", &other);
    assert_eq!(node.pull(&name).await.unwrap().digest, newer);

    registry.put_index("foreign", "1", &[("linux/s390x", &foreign), ("windows/amd64", &foreign)]);
    let e = node.pull(&registry.name("foreign:1")).await.unwrap_err().to_string();
    assert!(e.contains("the image is for linux/s390x, windows/amd64; this node is linux/"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_connection_that_breaks_is_gone_on_with_where_it_broke() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    let digest = registry.put("big", "1", &big_image());
    let proxy = Proxy::to(registry.port);
    proxy.cut(6, MIB + 12345);
    let name = format!("127.0.0.1:{}/big:1", proxy.port);
    let pull = node.pulling(&name, None);
    let info = pull.done().await.unwrap();
    assert_eq!((info.digest, proxy.cuts_left()), (digest, 0));
    // A cut costs what was on the wire, not what had been written.
    assert!(proxy.passed() < 14 * MIB + 6 * MIB, "{} bytes came", proxy.passed());
    let again = pull.progress.borrow().messages.clone();
    assert!(again.iter().any(|m| m.contains("broke off") && m.contains("trying again in")), "{again:?}");
    assert!(registry.requests(&["GET", "/blobs/", "\" 206 "]) >= 6, "{}", registry.log());
    let layers = pull.progress.borrow().layers.clone();
    assert!(layers.iter().all(|l| l.done == l.total && l.state.name() == "done"), "{layers:?}");

    // A registry without ranges is asked for all of it again.
    let proxy = Proxy::to(registry.port);
    proxy.without_ranges();
    proxy.cut(2, 3 * MIB);
    registry.put("whole", "1", &TestImage::new("x").layer(&[noise(6 << 20, 9)]));
    node.pull(&format!("127.0.0.1:{}/whole:1", proxy.port)).await.unwrap();
    assert!(proxy.passed() > 11 * MIB, "{} bytes came", proxy.passed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_pull_that_is_given_up_leaves_no_image_and_the_next_goes_on() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    registry.put("big", "1", &big_image());
    let proxy = Proxy::to(registry.port);
    let name = format!("127.0.0.1:{}/big:1", proxy.port);
    proxy.slow_down(4 * MIB);
    let mut pull = node.pulling(&name, None);
    {
        let done = pull.clone();
        let done = done.done();
        let half = pull.progress.wait_for(|p| p.layers.iter().map(|l| l.done).sum::<u64>() > 8 * MIB);
        tokio::select! {
            ended = done => panic!("too fast: {ended:?}"),
            _ = half => {}
        }
    }
    drop(pull);
    let images = node.containerd.images();
    assert_eq!(images.list().await.unwrap(), []);
    images.sweep().await.unwrap();
    let begun = proxy.passed();
    proxy.slow_down(0);
    node.pull(&name).await.unwrap();
    let rest = proxy.passed() - begun;
    assert!(rest < 8 * MIB, "{rest} bytes came again of 14 MiB, of which 8 were here");
    node.nothing_is_left().await;

    // A registry that stays away in the middle: an error that may pass, and no image.
    proxy.slow_down(4 * MIB);
    let mut pull = node.pulling(&name, None);
    let done = pull.clone();
    let (ended, ()) = tokio::join!(done.done(), async {
        let some = pull.progress.wait_for(|p| p.layers.iter().map(|l| l.done).sum::<u64>() > 4 * MIB);
        some.await.unwrap();
        drop(registry);
    });
    let e = RuntimeError::from(ended.unwrap_err());
    assert!(matches!(e, RuntimeError::Temporary(_)), "{e}");
    assert_eq!(images.list().await.unwrap(), []);
    node.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn what_is_not_what_its_digest_says_is_refused() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    let image = TestImage::new("x").layer(&[noise(1 << 20, 4)]);
    registry.put("bad", "1", &image);
    let (blobs, _) = image.blobs();
    let layer = blobs.iter().max_by_key(|(_, b)| b.len()).unwrap().0.rsplit('/').next().unwrap();
    let file = registry.blob_file(layer);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let name = registry.name("bad:1");
    let e = node.pull(&name).await.unwrap_err();
    let wanted = format!("sent something else than sha256:{layer}");
    assert!(e.to_string().contains(&wanted), "{e}");
    assert!(matches!(RuntimeError::from(e), RuntimeError::Fatal(_)));
    assert_eq!(node.containerd.images().list().await.unwrap(), []);
    bytes[1000] ^= 1;
    bytes.push(0);
    std::fs::write(&file, &bytes).unwrap();
    assert!(node.pull(&name).await.is_err(), "longer than its manifest says");
    node.nothing_is_left().await;
    bytes.pop();
    std::fs::write(&file, &bytes).unwrap();
    node.pull(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn however_many_want_it_each_layer_comes_once() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    registry.put("one", "1", &big_image());
    registry.put("two", "1", &big_image().layer(&[noise(1000, 7)]));
    let names: Vec<String> = ["one:1", "two:1"].iter().cycle().take(12).map(|n| registry.name(n)).collect();
    let all = futures::future::join_all(names.iter().map(|n| node.pull(n))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    // Three layers shared and one; two configurations.
    assert_eq!(registry.requests(&["GET", "/blobs/"]), 6, "{}", registry.log());
    assert_eq!(node.containerd.images().list().await.unwrap().len(), 2);
    node.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_task_brings_its_image_as_its_policy_says() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    registry.put("app", "1", &test_image());
    let name = registry.name("app:1");
    let number = std::cell::Cell::new(0);
    let task = |pull| {
        number.set(number.get() + 1);
        task(number.get(), spec(&name, pull))
    };

    let never = task(PullPolicy::Never);
    node.fetch(&never).await.unwrap();
    let e = node.containerd.prepare(&never, &node.network).await.unwrap_err();
    assert!(matches!(&e, RuntimeError::Fatal(why) if why.contains("is not on this node")), "{e}");

    let missing = task(PullPolicy::Missing);
    let (tell, mut told) = tokio::sync::watch::channel(String::new());
    node.containerd.fetch(&missing, tell).await.unwrap();
    assert!(told.borrow_and_update().starts_with("pulling 127.0.0.1:"), "{:?}", told.borrow());
    node.containerd.prepare(&missing, &node.network).await.unwrap();
    node.fetch(&task(PullPolicy::Always)).await.unwrap();
    node.containerd.prepare(&never, &node.network).await.unwrap();

    // A container that is made is not made of another image by asking again.
    let made = registry.requests(&["/v2/"]);
    let mut always = missing.clone();
    always.spec.pull = PullPolicy::Always;
    node.fetch(&always).await.unwrap();
    node.fetch(&task(PullPolicy::Missing)).await.unwrap();
    assert_eq!(registry.requests(&["/v2/"]), made, "nothing was asked");

    drop(registry);
    node.fetch(&task(PullPolicy::Missing)).await.unwrap();
    let at = Instant::now();
    let e = node.fetch(&task(PullPolicy::Always)).await.unwrap_err();
    assert!(matches!(&e, RuntimeError::Temporary(why) if why.contains("cannot be reached")), "{e}");
    assert!(at.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn room_is_made_of_what_nobody_needs() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    let mut names: Vec<ImageReference> = Vec::new();
    for (n, name) in ["a", "b", "c", "needed"].into_iter().enumerate() {
        registry.put(name, "1", &TestImage::new("x").layer(&[noise(1000, n as u64)]));
        let name = registry.name(&format!("{name}:1"));
        node.pull(&name).await.unwrap();
        names.push(name.parse().unwrap());
    }
    let images = node.containerd.images();
    let (needed, marks) = (names[3].clone(), Watermarks { high: 85, low: 80 });
    let count =
        || std::fs::read_dir(node.own.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots"));
    // 100 bytes, of which each snapshot takes 22.
    let disk = || Ok(Disk { used: count()?.count() as u64 * 22, total: 100 });
    let now = |hours: u64| Timestamp(u64::try_from(i64::MAX).unwrap() / 4 + hours * 3_600_000);
    let roomy = || Ok(Disk { used: 10, total: 100 });
    // "a" was in use last, "b" before it.
    for (hours, name) in [(1, 1), (2, 0)] {
        let in_use = || BTreeSet::from([names[name].clone(), needed.clone()]);
        assert_eq!(images.make_room(marks, now(hours), in_use, roomy).await.unwrap(), []);
    }
    let in_use = || BTreeSet::from([needed.clone()]);
    assert_eq!(images.make_room(marks, now(3), in_use, disk).await.unwrap(), [names[2].clone()]);
    let full = || Ok(Disk { used: 100, total: 100 });
    let order = [names[1].clone(), names[0].clone()];
    assert_eq!(images.make_room(marks, now(4), in_use, full).await.unwrap(), order);
    let left = images.list().await.unwrap();
    assert_eq!(left.iter().map(|i| &i.reference).collect::<Vec<_>>(), [&needed]);
}
