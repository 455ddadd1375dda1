use std::collections::BTreeSet;

use tokio::io::AsyncReadExt;

use super::fixture::{TestNode, reference, test_image};
use crate::worker::runtime::{
    ImageError,
    testing::{TestFile, TestImage, gzip, oci_archive, tar_of},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn every_kind_of_archive_gives_the_same_image() {
    let node = TestNode::start().await;
    let images = node.containerd.images();
    let mut packed = test_image();
    packed.gzip = true;
    let archives = [
        ("oci", test_image().oci()),
        ("oci, gzipped layers", packed.oci()),
        ("docker", test_image().docker()),
        ("docker, gzipped layers", packed.docker()),
        ("docker with layout", test_image().docker_with_layout()),
        ("oci, gzipped whole", gzip(&test_image().oci())),
    ];
    let mut first = None;
    for (kind, archive) in archives {
        let done = images.import(&archive[..], None).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(done.len(), 1, "{kind}");
        assert_eq!(done[0].reference, reference(), "{kind}");
        let again = images.import(&archive[..], None).await.unwrap();
        assert!(!again[0].new, "{kind} is imported twice");
        let resolved = images.resolve(&reference()).await.unwrap().unwrap();
        assert_eq!(resolved.config.entrypoint.as_deref(), Some(&["/bin/probe".to_owned()][..]));
        let chain = first.get_or_insert_with(|| resolved.chain_id.clone());
        assert_eq!(*chain, resolved.chain_id, "{kind}");
        let list = images.list().await.unwrap();
        assert_eq!(list.len(), 1, "{kind}");
        assert_eq!(list[0].digest, resolved.digest, "{kind}");
        assert!(list[0].size > 100_000 && list[0].created_at.0 > 0, "{kind}: {list:?}");
    }
    // A removal takes layers and content along, unless a task needs the image.
    let used = BTreeSet::from([reference()]);
    let e = images.remove(&reference(), || used).await.unwrap_err();
    assert!(e.to_string().starts_with("image probe:1 is in use by a task"), "{e}");
    images.remove(&reference(), BTreeSet::new).await.unwrap();
    assert_eq!(images.list().await.unwrap(), []);
    assert_eq!((node.snapshots(), node.blobs()), (0, 0));
    let e = images.remove(&reference(), BTreeSet::new).await.unwrap_err();
    assert_eq!(e.to_string(), "no such image: probe:1; `warren image ls` shows those there are");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn names_and_platforms_are_chosen() {
    let node = TestNode::start().await;
    let images = node.containerd.images();
    let mut bare = test_image();
    bare.name = Some("v1".to_owned());
    let e = images.import(&bare.oci()[..], None).await.unwrap_err();
    assert!(matches!(e, ImageError::Unnamed), "{e}");
    let name = "mine/app:v1".parse().unwrap();
    assert_eq!(images.import(&bare.oci()[..], Some(&name)).await.unwrap()[0].reference, name);

    let mut foreign = TestImage::new("multi:1").layer(&[TestFile::new("a", "b")]);
    foreign.architecture = "s390x".to_owned();
    let e = images.import(&foreign.oci()[..], None).await.unwrap_err();
    assert!(e.to_string().starts_with("the image is for linux/s390x; this node is linux/"), "{e}");
    let mut ours = test_image();
    ours.name = Some("multi:1".to_owned());
    let many = oci_archive(&[foreign, ours]);
    images.import(&many[..], None).await.unwrap();
    let multi = images.resolve(&"multi:1".parse().unwrap()).await.unwrap().unwrap();
    assert!(multi.config.entrypoint.is_some(), "the one for this machine was taken");

    let two = oci_archive(&[TestImage::new("a:1"), TestImage::new("b:1")]);
    let e = images.import(&two[..], Some(&name)).await.unwrap_err();
    assert!(matches!(e, ImageError::Several(2)), "{e}");
    assert_eq!(images.import(&two[..], None).await.unwrap().len(), 2);
    // One image may have two names; each goes by itself.
    images.import(&bare.oci()[..], Some(&"other:1".parse().unwrap())).await.unwrap();
    images.remove(&name, BTreeSet::new).await.unwrap();
    assert!(images.resolve(&"other:1".parse().unwrap()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_bad_archive_is_one_sentence_and_leaves_nothing() {
    let node = TestNode::start().await;
    let images = node.containerd.images();
    let good = test_image().oci();
    let at = |needle: &[u8]| good.windows(needle.len()).position(|w| w == needle).unwrap();
    let mut damaged = good.clone();
    damaged[at(b"not a program")] ^= 1;
    let mut wrong_layer = test_image().docker();
    let plain = wrong_layer.windows(13).position(|w| w == b"not a program").unwrap();
    wrong_layer[plain] ^= 1;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "this is not an image archive (it is empty)"),
        ("text", b"hello, world\n".repeat(100), "this is not an image archive (it is not a tar file)"),
        ("zstd", b"\x28\xb5\x2f\xfd rest".to_vec(), "this is not an image archive (it is packed with zstd"),
        ("other tar", tar_of([("a", 0o644, &b"b"[..])].into_iter()), "this is not an image archive (neither"),
        ("cut in a member", good[..at(b"not a program")].to_vec(), "the archive is incomplete: "),
        ("cut gzip", gzip(&good)[..good.len() / 8].to_vec(), "the archive is incomplete: "),
        ("a bit flipped", damaged, "the archive is damaged: sha256:"),
        ("a bit flipped, docker", wrong_layer, "the archive is damaged: "),
    ];
    for (what, archive, sentence) in cases {
        let e = images.import(&archive[..], None).await.expect_err(what).to_string();
        assert!(e.starts_with(sentence), "{what}: {e}");
        assert_eq!((images.list().await.unwrap().len(), node.snapshots(), node.blobs()), (0, 0, 0), "{what}");
    }
    // A layer that is no tar is only found when it is unpacked; by then parts are stored.
    let e = images.import(&test_image().raw_layer(b"no tar".repeat(500)).oci()[..], None).await;
    let e = e.unwrap_err().to_string();
    assert!(e.starts_with("layer 3 of the image can not be unpacked: "), "{e}");
    assert_eq!((images.list().await.unwrap().len(), node.snapshots(), node.blobs()), (0, 0, 0));
    // The sender goes away in the middle.
    let half = (&good[..good.len() / 2]).chain(Broken);
    let e = images.import(half, None).await.unwrap_err().to_string();
    assert_eq!(e, "the archive could not be read: the sender left");
    assert_eq!(std::fs::read_dir(node.dir.join("data/import")).unwrap().count(), 0);
    // After all of it, the good one works.
    images.import(&good[..], None).await.unwrap();
}

/// Cut off while it stores, swept by the next agent.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn an_import_cut_off_leaves_only_what_a_sweep_takes() {
    let node = TestNode::start().await;
    let images = node.containerd.images();
    let good = test_image().oci();
    for millis in (0..200).step_by(20) {
        let cut = std::time::Duration::from_millis(millis);
        let done = tokio::time::timeout(cut, images.import(&good[..], None)).await;
        if done.is_ok() || images.resolve(&reference()).await.unwrap().is_some() {
            images.remove(&reference(), BTreeSet::new).await.unwrap();
        }
        images.sweep().await.unwrap();
        super::fixture::eventually("nothing is left", async || {
            images.sweep().await.unwrap();
            node.snapshots() == 0 && node.blobs() == 0
        })
        .await;
    }
    // What was stored for a lease that had ended meanwhile: a file of which containerd has no
    // record.
    std::fs::write(node.blob("lost"), "lost").unwrap();
    assert_eq!(node.blobs(), 1);
    images.sweep().await.unwrap();
    assert_eq!((node.snapshots(), node.blobs()), (0, 0));
    images.import(&good[..], None).await.unwrap();
}

/// A reader that fails.
struct Broken;

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::Error::other("the sender left")))
    }
}
