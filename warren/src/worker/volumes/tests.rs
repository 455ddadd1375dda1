use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn nobody() -> Option<String> {
    None
}

#[test]
fn names_are_dockers() {
    for good in ["a", "A1", "0", "my_data.v1-x", &"a".repeat(200)] {
        assert!(check_name(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "_a", "-a", ".new-a", "a/b", "a b", "ü", &"a".repeat(201)] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn volumes_are_made_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path().join("volumes"));
    assert_eq!(volumes.list().unwrap(), []);
    let made = volumes.create("b", &labels(&[("k", "v")]), Timestamp(7)).unwrap();
    assert_eq!((made.created_at, made.labels.clone()), (Timestamp(7), labels(&[("k", "v")])));
    assert_eq!(volumes.create("b", &labels(&[("k", "v")]), Timestamp(9)).unwrap(), made);
    assert!(matches!(volumes.create("b", &labels(&[]), Timestamp(9)), Err(VolumeError::Exists(_))));
    volumes.create("a", &labels(&[]), Timestamp(8)).unwrap();
    fs::write(made.data.join("file"), vec![1; 5000]).unwrap();
    assert!(volumes.size("b").unwrap() >= 5000);

    // Another process, later.
    let again = Volumes::new(dir.path().join("volumes"));
    let names: Vec<_> = again.list().unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(again.get("b").unwrap(), made);
    assert!(matches!(
        again.remove("b", || Some("service web".into())),
        Err(VolumeError::InUse { by, .. }) if by == "service web"
    ));
    assert!(made.data.join("file").exists());
    assert!(again.remove("b", nobody).unwrap() >= 5000);
    assert!(matches!(again.remove("b", nobody), Err(VolumeError::NotFound(_))));
    assert!(matches!(again.get("b"), Err(VolumeError::NotFound(_))));
    assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 1, "only a is left");
}

#[test]
fn what_a_crash_left_is_neither_seen_nor_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path().to_owned());
    for left in [".new-a/_data/x", ".gone-a/_data/x", "half/_data/x"] {
        fs::create_dir_all(dir.path().join(left)).unwrap();
    }
    assert_eq!(volumes.list().unwrap(), []);
    let made = volumes.create("a", &labels(&[]), Timestamp(1)).unwrap();
    assert_eq!(fs::read_dir(&made.data).unwrap().count(), 0);
    volumes.remove("a", nobody).unwrap();
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["half"]);
}

/// A tree as images have them.
fn tree(dir: &Path) -> PathBuf {
    let from = dir.join("from");
    fs::create_dir_all(from.join("sub/deep")).unwrap();
    fs::write(from.join("sub/file"), "text").unwrap();
    fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(from.join("sub/file"), from.join("twin")).unwrap();
    std::os::unix::fs::symlink("/no/where", from.join("link")).unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o1750)).unwrap();
    from
}

fn filled(volume: &Path, from: &Path) -> io::Result<()> {
    if fill::is_empty(volume)? {
        fill::copy_into(volume, from)?;
    }
    fill::finish(volume)
}

fn check(data: &Path) {
    assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "text");
    let mode = |p: PathBuf| fs::symlink_metadata(p).unwrap().mode() & 0o7777;
    assert_eq!((mode(data.join("sub/file")), mode(data.to_owned())), (0o640, 0o1750));
    assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/no/where"));
    let ino = |p| fs::metadata(data.join(p)).unwrap().ino();
    assert_eq!(ino("twin"), ino("sub/file"));
    assert!(data.join("sub/deep").is_dir());
}

#[test]
fn an_empty_volume_is_filled_once() {
    let dir = tempfile::tempdir().unwrap();
    let from = tree(dir.path());
    let volumes = Volumes::new(dir.path().join("v"));
    let mount = || volumes.mounted("a", &labels(&[]), Timestamp(1), |v| filled(v, &from)).unwrap();
    let data = mount();
    check(&data);
    fs::remove_file(data.join("twin")).unwrap();
    fs::write(data.join("sub/file"), "changed").unwrap();
    assert_eq!(mount(), data);
    assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "changed");
    assert!(!data.join("twin").exists(), "what was removed does not come back");
    assert_eq!(fs::read_dir(dir.path().join("v/a")).unwrap().count(), 2, "only _data and meta");
}

#[test]
fn a_fill_that_was_cut_off_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let from = tree(dir.path());
    let volume = dir.path().join("volume");
    fs::create_dir_all(volume.join(DATA)).unwrap();
    // While it was copied.
    fs::create_dir_all(volume.join("_filling/half")).unwrap();
    filled(&volume, &from).unwrap();
    check(&volume.join(DATA));
    // While it was moved.
    let volume = dir.path().join("moved");
    fs::create_dir_all(volume.join(DATA)).unwrap();
    fill::copy_into(&volume, &from).unwrap();
    fs::rename(volume.join("_filled/twin"), volume.join(DATA).join("twin")).unwrap();
    filled(&volume, &from).unwrap();
    check(&volume.join(DATA));
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 1, "only _data");
}
