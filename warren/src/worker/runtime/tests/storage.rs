//! What is mounted, seen from inside and from outside.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{
    fixture::{TestNode, binary, removed},
    look::{look, looking, refusal, run},
};
use crate::{
    model::{Mount, MountSource, Propagation, TaskSpec},
    worker::runtime::testing::{TestFile, TestImage},
};

fn mount(target: &str, source: MountSource, read_only: bool) -> Mount {
    Mount { source, target: target.into(), read_only }
}

fn bind(path: &Path, create: bool) -> MountSource {
    MountSource::Bind {
        path: path.to_owned(),
        propagation: Propagation::RPrivate,
        non_recursive: false,
        create,
    }
}

fn volume(name: Option<&str>, no_copy: bool) -> MountSource {
    MountSource::Volume { name: name.map(str::to_owned), no_copy, labels: [("k".into(), "v".into())].into() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn binds_and_memory_are_mounted_as_asked() {
    let node = TestNode::with_image().await;
    let source = node.dir.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "from the node").unwrap();
    let made = node.dir.join("made/deep");
    let mounts = [
        mount("/rw", bind(&source, false), false),
        mount("/ro", bind(&source, false), true),
        mount("/made", bind(&made, true), false),
        mount("/mem", MountSource::Tmpfs { size: Some(1 << 20), mode: Some(0o700) }, false),
        mount("/memro", MountSource::Tmpfs { size: None, mode: None }, true),
    ];
    let seen = look(
        &node,
        1,
        |s| s.mounts.extend(mounts),
        &[
            "cat:/ro/file",
            "write:/ro/new=x",
            "write:/rw/new=x",
            "write:/made/x=y",
            "write:/mem/x=y",
            "write:/memro/x=y",
            "stat:/mem",
            "cat:/proc/self/mounts",
        ],
    )
    .await;
    let rofs = libc::EROFS.to_string();
    assert_eq!(seen.at("cat:/ro/file"), "from the node");
    assert_eq!(seen.at("write:/ro/new=x"), rofs);
    assert_eq!(seen.at("write:/rw/new=x"), "ok");
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "x");
    assert_eq!(seen.at("write:/made/x=y"), "ok");
    assert_eq!(fs::read_to_string(made.join("x")).unwrap(), "y");
    assert_eq!((seen.at("write:/mem/x=y"), seen.at("write:/memro/x=y")), ("ok", rofs.as_str()));
    assert!(seen.at("stat:/mem").starts_with("40700 0:0"), "{}", seen.at("stat:/mem"));
    let line = seen.line("cat:/proc/self/mounts", "tmpfs /mem ");
    for option in ["nosuid", "nodev", "noexec", "size=1024k"] {
        assert!(line.contains(option), "{line}");
    }

    let missing = node.dir.join("missing");
    let why = refusal(&node, 2, |s| s.mounts.push(mount("/m", bind(&missing, false), false))).await;
    assert!(why.contains(missing.to_str().unwrap()), "{why}");
    let same = |s: &mut TaskSpec| s.mounts.push(mount("/out/", bind(&source, false), false));
    assert!(refusal(&node, 3, same).await.contains("target /out"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_root_to_be_read_only_leaves_memory_writable() {
    let node = TestNode::with_image().await;
    let looks = ["write:/file=x", "write:/etc/hosts=x", "write:/dev/shm/x=y", "cat:/proc/self/mounts", "cwd"];
    let seen = look(
        &node,
        1,
        |s| {
            s.read_only = true;
            s.shm_size = Some(3 << 20);
        },
        &looks,
    )
    .await;
    let rofs = libc::EROFS.to_string();
    assert_eq!((seen.at("write:/file=x"), seen.at("write:/etc/hosts=x")), (rofs.as_str(), rofs.as_str()));
    assert_eq!(seen.at("write:/dev/shm/x=y"), "ok");
    assert!(seen.line("cat:/proc/self/mounts", "shm /dev/shm").contains("size=3072k"));
    assert_eq!(seen.at("cwd"), "/made/by/runc", "made although nothing can be written later");
    let plain = look(&node, 2, |_| (), &looks).await;
    assert_eq!((plain.at("write:/file=x"), plain.at("write:/etc/hosts=x")), ("ok", "ok"));
    assert!(plain.line("cat:/proc/self/mounts", "shm /dev/shm").contains("size=65536k"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn volumes_are_filled_kept_and_removed_with_their_owner() {
    let node = TestNode::start().await;
    let image = TestImage::new("docker.io/library/probe:1")
        .layer(&[TestFile::program("bin/probe", binary()), TestFile::new("data/below", "lower")])
        .layer(&[TestFile::program("data/tool", "upper"), TestFile::new("state/db", "image's")])
        .config(serde_json::json!({
            "Entrypoint": ["/bin/probe"], "Volumes": { "/state": {}, "/data/": {} },
        }));
    node.containerd.images().import(&image.oci()[..], None).await.unwrap();
    let volumes = node.containerd.volumes();
    let named = |s: &mut TaskSpec| s.mounts.push(mount("/data", volume(Some("kept"), false), false));

    let looks = ["ls:/data", "stat:/data/tool", "write:/data/new=1", "cat:/state/db", "write:/state/db=mine"];
    let first = run(&node, 1, looking(&node, 1, named, &looks)).await;
    assert_eq!(first.at("ls:/data"), "below tool", "both layers");
    assert!(first.at("stat:/data/tool").starts_with("100755 0:0"));
    assert_eq!(first.at("cat:/state/db"), "image's");
    let kept = volumes.get("kept").unwrap();
    assert_eq!(kept.labels, [("k".to_owned(), "v".to_owned())].into());
    assert_eq!(fs::read_to_string(kept.data.join("new")).unwrap(), "1");
    let own = node.config.task_dir(first.task.id).join("volumes");
    assert_eq!(fs::read_dir(&own).unwrap().count(), 1, "/state; /data is the named one");
    let mounted = fs::metadata(format!("/proc/{}/root/data", first.pid)).unwrap();
    assert_eq!(mounted.ino(), fs::metadata(&kept.data).unwrap().ino());
    removed(&node, &first.task).await;
    assert!(!own.exists(), "its own volumes went with it");

    fs::remove_file(kept.data.join("below")).unwrap();
    let second = look(&node, 2, named, &["ls:/data", "cat:/state/db"]).await;
    assert_eq!(second.at("ls:/data"), "new tool", "kept as it was left, not filled again");
    assert_eq!(second.at("cat:/state/db"), "image's", "another task's own is new");

    let empty = |s: &mut TaskSpec| {
        s.mounts.push(mount("/data", volume(Some("empty"), true), false));
        s.mounts.push(mount("/state", volume(None, true), true));
    };
    let third = look(&node, 3, empty, &["ls:/data", "ls:/state", "write:/state/x=y"]).await;
    assert_eq!((third.at("ls:/data"), third.at("ls:/state")), ("", ""));
    assert_eq!(third.at("write:/state/x=y"), libc::EROFS.to_string());
    let names: Vec<_> = volumes.list().unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["empty", "kept"]);
    let why = refusal(&node, 4, |s| s.mounts.push(mount("/d", volume(Some("../x"), false), false))).await;
    assert!(why.contains("../x"), "{why}");
}
