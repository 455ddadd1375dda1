use super::*;
use crate::{
    model::{TaskSpec, TaskState},
    worker::runtime::testing::task,
};

fn nginx() -> (Task, ImageConfig) {
    let mut t = task(7, TaskSpec::new("nginx".parse().unwrap()));
    t.desired = TaskState::Running;
    let image = ImageConfig {
        env: Some(vec!["PATH=/opt/bin:/bin".to_owned(), "NGINX=1.27".to_owned(), "EMPTY".to_owned()]),
        entrypoint: Some(vec!["/entry.sh".to_owned()]),
        cmd: Some(vec!["nginx".to_owned(), "-g".to_owned(), "daemon off;".to_owned()]),
        ..ImageConfig::default()
    };
    (t, image)
}

fn spec(task: &Task, image: &ImageConfig, user: &User) -> Result<oci::Spec, SpecError> {
    runtime_spec(&SpecInput {
        task,
        image,
        user,
        network: Path::new("/run/warren/n/netns/t"),
        cgroup: "/warren/n/t",
        files: &TaskFiles::below(Path::new("/var/lib/warren/tasks/t")),
        host: HostLimits { open_files: 524_288, oom_score_adj: 0, unified_cgroup: false },
    })
}

fn root() -> User {
    User { uid: 0, gid: 0, groups: vec![0] }
}

/// The whole of what runc is given. `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn golden() {
    let (mut t, image) = nginx();
    t.spec.env = vec![("NGINX".to_owned(), "mine".to_owned()), ("A".to_owned(), "b=c".to_owned())];
    let mut got = serde_json::to_value(spec(&t, &image, &root()).unwrap()).unwrap();
    // Sets come in any order.
    for set in ["bounding", "effective", "permitted"] {
        let list = got["process"]["capabilities"][set].as_array_mut().unwrap();
        list.sort_by_key(|v| v.as_str().unwrap().to_owned());
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/worker/runtime/spec/golden.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, serde_json::to_string_pretty(&got).unwrap() + "\n").unwrap();
    }
    let want: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(got, want);
}

#[test]
fn entrypoint_and_arguments_follow_docker() {
    let words = |s: &str| s.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let some = |s: &str| Some(words(s));
    // image entrypoint, image cmd, --entrypoint, arguments, what runs
    for (entrypoint, cmd, own, args, runs) in [
        (some("e"), some("c d"), None, "", "e c d"),
        (some("e"), some("c"), None, "x y", "e x y"),
        (None, some("c"), None, "", "c"),
        (None, some("c"), None, "x", "x"),
        (some("e"), some("c"), some("o"), "", "o"),
        (some("e"), some("c"), some("o p"), "x", "o p x"),
        (some("e"), some("c"), some(""), "x", "x"),
        (some("e"), some("c"), Some(vec![String::new()]), "x", "x"),
        (some("e"), None, None, "", "e"),
    ] {
        let (mut t, mut image) = nginx();
        (image.entrypoint, image.cmd) = (entrypoint, cmd);
        (t.spec.entrypoint, t.spec.args) = (own, words(args));
        let s = spec(&t, &image, &root()).unwrap();
        assert_eq!(s.process().as_ref().unwrap().args(), &Some(words(runs)));
    }
    let (mut t, image) = nginx();
    t.spec.entrypoint = Some(Vec::new());
    assert_eq!(spec(&t, &image, &root()), Err(SpecError::NoCommand("nginx:latest".to_owned())));
}

#[test]
fn only_root_holds_capabilities() {
    let (t, image) = nginx();
    let s = spec(&t, &image, &User { uid: 5, gid: 6, groups: vec![6] }).unwrap();
    let p = s.process().as_ref().unwrap();
    let c = p.capabilities().as_ref().unwrap();
    assert_eq!(c.effective().as_ref().unwrap().len(), 0);
    assert_eq!(c.bounding().as_ref().unwrap().len(), 14);
    assert_eq!((p.user().uid(), p.user().gid()), (5, 6));
}

#[test]
fn host_names_fit_the_kernel() {
    let (mut t, _) = nginx();
    t.slot = 1234;
    t.service_name = "a".repeat(63);
    assert_eq!(host_name(&t).len(), 63);
    assert!(host_name(&t).ends_with("a-1234"));
}
