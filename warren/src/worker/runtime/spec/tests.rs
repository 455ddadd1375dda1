use super::*;
use crate::{
    model::{Mount, MountSource, Names, NetworkMode, Propagation, Seccomp, TaskSpec, TaskState, Ulimit},
    worker::runtime::testing::task,
};

/// A node that can give everything.
pub(super) fn host() -> Host {
    Host {
        name: "node".to_owned(),
        open_files: 524_288,
        hard_limits: [("nofile".to_owned(), 1_000_000)].into(),
        oom_score_adj: 0,
        capabilities: (1 << 41) - 1,
        kernel: (6, 1),
        seccomp: true,
        apparmor: false,
        cgroups: Cgroups {
            unified: false,
            controllers: ["cpu", "memory", "pids", "devices"].map(str::to_owned).into(),
            swap: true,
        },
        init: Some("/usr/bin/tini-static".into()),
    }
}

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

fn root() -> User {
    User { uid: 0, gid: 0, groups: vec![0] }
}

struct Case {
    task: Task,
    image: ImageConfig,
    user: User,
    mounts: Vec<HostMount>,
    devices: Vec<HostDevice>,
    host: Host,
}

impl Case {
    fn new(change: impl FnOnce(&mut TaskSpec)) -> Self {
        let (mut task, image) = nginx();
        change(&mut task.spec);
        Self { task, image, user: root(), mounts: Vec::new(), devices: Vec::new(), host: host() }
    }

    fn spec(&self) -> Result<oci::Spec, SpecError> {
        runtime_spec(&SpecInput {
            task: &self.task,
            image: &self.image,
            user: &self.user,
            network: Path::new("/run/warren/n/netns/t"),
            cgroup: "/warren/n/t",
            files: &TaskFiles::below(Path::new("/var/lib/warren/tasks/t")),
            mounts: &self.mounts,
            devices: &self.devices,
            host: &self.host,
        })
    }

    fn json(&self) -> serde_json::Value {
        serde_json::to_value(self.spec().unwrap()).unwrap()
    }

    fn refusal(&self) -> String {
        self.spec().unwrap_err().to_string()
    }
}

/// What a change of the service makes of this part of the specification.
fn part(pointer: &str, change: impl FnOnce(&mut TaskSpec)) -> serde_json::Value {
    Case::new(change).json().pointer(pointer).cloned().unwrap_or_default()
}

fn refusal(change: impl FnOnce(&mut TaskSpec)) -> String {
    Case::new(change).refusal()
}

/// The whole of what runc is given. `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn golden() {
    let mut got = Case::new(|s| {
        s.env = vec![("NGINX".to_owned(), "mine".to_owned()), ("A".to_owned(), "b=c".to_owned())];
    })
    .json();
    // Sets come in any order.
    for set in ["bounding", "effective", "permitted"] {
        let list = got["process"]["capabilities"][set].as_array_mut().unwrap();
        list.sort_by_key(|v| v.as_str().unwrap().to_owned());
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/worker/runtime/spec/golden.json");
    // It is long, of the machine the test runs on, and tested by itself.
    assert_eq!(got["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    got["linux"]["seccomp"] = "see the default list".into();
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
        (some("e"), None, None, "", "e"),
    ] {
        let mut case = Case::new(|s| (s.entrypoint, s.args) = (own, words(args)));
        (case.image.entrypoint, case.image.cmd) = (entrypoint, cmd);
        assert_eq!(case.json()["process"]["args"], serde_json::json!(words(runs)));
    }
    let case = Case::new(|s| s.entrypoint = Some(Vec::new()));
    assert_eq!(case.spec(), Err(SpecError::NoCommand("nginx:latest".to_owned())));
}

#[test]
fn only_root_holds_capabilities() {
    let mut case = Case::new(|_| ());
    case.user = User { uid: 5, gid: 6, groups: vec![6, 44] };
    let s = case.json();
    let process = &s["process"];
    assert_eq!(process["capabilities"]["effective"], serde_json::json!([]));
    assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(process["user"], serde_json::json!({"uid": 5, "gid": 6, "additionalGids": [6, 44]}));
}

#[test]
fn host_names_fit_the_kernel() {
    let (mut t, _) = nginx();
    t.slot = 1234;
    t.service_name = "a".repeat(63);
    assert_eq!(host_name(&t, "node").len(), 63);
    assert!(host_name(&t, "node").ends_with("a-1234"));
    t.spec.network = NetworkMode::Host;
    assert_eq!(host_name(&t, "node"), "node");
    t.spec.hostname = Some("own".to_owned());
    assert_eq!(host_name(&t, "node"), "own");
}

#[test]
fn the_process_is_as_the_service_says() {
    let env = |change: fn(&mut TaskSpec)| part("/process/env", change);
    assert!(env(|s| s.tty = true).as_array().unwrap().contains(&"TERM=xterm".into()));
    assert!(!env(|_| ()).as_array().unwrap().contains(&"TERM=xterm".into()));
    assert!(env(|s| s.hostname = Some("h".into())).as_array().unwrap().contains(&"HOSTNAME=h".into()));
    assert_eq!(part("/process/terminal", |s| s.tty = true), true);
    assert_eq!(part("/process/cwd", |s| s.workdir = Some("/srv/x".into())), "/srv/x");
    assert_eq!(part("/process/cwd", |_| ()), "/");
    assert_eq!(part("/hostname", |s| s.hostname = Some("box".into())), "box");
    assert_eq!(part("/process/noNewPrivileges", |s| s.security.no_new_privileges = true), true);
    assert_eq!(part("/process/oomScoreAdj", |s| s.resources.oom_score_adj = Some(-7)), -7);
    assert_eq!(part("/root/readonly", |s| s.read_only = true), true);
    let init = Case::new(|s| s.init = true).json();
    assert_eq!(
        init["process"]["args"],
        serde_json::json!(["/sbin/docker-init", "--", "/entry.sh", "nginx", "-g", "daemon off;"])
    );
    let mut without = Case::new(|s| s.init = true);
    without.host.init = None;
    assert!(without.refusal().contains("install the package \"tini\""));
}

#[test]
fn ulimits_are_set_or_refused() {
    let ulimit = |name: &str, soft, hard| vec![Ulimit { name: name.to_owned(), soft, hard }];
    let limits = |u| part("/process/rlimits", |s| s.ulimits = u);
    let nofile = serde_json::json!({"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 524_288});
    assert_eq!(
        limits(ulimit("nproc", 5, u64::MAX)),
        serde_json::json!([nofile, {"type": "RLIMIT_NPROC", "soft": 5, "hard": u64::MAX}])
    );
    assert_eq!(
        limits(ulimit("nofile", 10, 20)),
        serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}])
    );
    assert!(refusal(|s| s.ulimits = ulimit("nope", 1, 1)).contains("\"nope\" in --ulimit"));
    assert!(refusal(|s| s.ulimits = ulimit("core", 2, 1)).contains("above the hard one"));
    let mut bound = Case::new(|s| s.ulimits = ulimit("nofile", 10, 2_000_000));
    assert!(bound.spec().is_ok());
    bound.host.capabilities = 0;
    bound.task.spec.security.cap_drop = vec!["ALL".to_owned()];
    assert!(bound.refusal().contains("--ulimit nofile=2000000"), "{}", bound.refusal());
}

#[test]
fn only_parameters_of_the_containers_own_can_be_set() {
    let set = |name: &str, value: &str| {
        let (name, value) = (name.to_owned(), value.to_owned());
        move |s: &mut TaskSpec| _ = s.security.sysctls.insert(name, value)
    };
    assert_eq!(
        part("/linux/sysctl", set("net.core.somaxconn", "512")),
        serde_json::json!({"net.core.somaxconn": "512", "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647"})
    );
    assert_eq!(
        part(
            "/linux/sysctl/net.ipv4.ip_unprivileged_port_start",
            set("net.ipv4.ip_unprivileged_port_start", "1024")
        ),
        "1024"
    );
    assert_eq!(part("/linux/sysctl/kernel.shmmax", set("kernel.shmmax", "9")), "9");
    assert_eq!(part("/linux/sysctl/fs.mqueue.msg_max", set("fs.mqueue.msg_max", "9")), "9");
    for global in ["vm.swappiness", "kernel.pid_max", "fs.file-max", "kernel.hostname", "net../x"] {
        assert!(refusal(set(global, "1")).contains(&format!("--sysctl {global}")), "{global}");
    }
    let on_host = refusal(|s| {
        s.network = NetworkMode::Host;
        set("net.core.somaxconn", "512")(s);
    });
    assert!(on_host.contains("--network host"), "{on_host}");
}

#[test]
fn networks_are_joined_made_or_left_out() {
    let network = |mode| {
        let case = Case::new(|s| s.network = mode).json();
        let all = case["linux"]["namespaces"].as_array().unwrap().clone();
        (
            all.into_iter().find(|n| n["type"] == "network").map(|n| n["path"].clone()),
            case["linux"]["sysctl"].as_object().unwrap().len(),
        )
    };
    assert_eq!(network(NetworkMode::Cluster), (Some("/run/warren/n/netns/t".into()), 2));
    assert_eq!(network(NetworkMode::None), (Some(serde_json::Value::Null), 2));
    assert_eq!(network(NetworkMode::Host), (None, 0));
    let mut unified = Case::new(|_| ());
    unified.host.cgroups.unified = true;
    let namespaces = unified.json()["linux"]["namespaces"].to_string();
    assert!(namespaces.contains("\"cgroup\""), "{namespaces}");
}

#[test]
fn privileged_is_everything() {
    let s = Case::new(|s| s.security.privileged = true).json();
    assert_eq!(s["process"]["capabilities"]["effective"].as_array().unwrap().len(), 41);
    let linux = &s["linux"];
    assert!(linux["seccomp"].is_null());
    assert_eq!(
        (linux["maskedPaths"].as_array().unwrap().len(), linux["readonlyPaths"].as_array().unwrap().len()),
        (0, 0)
    );
    assert_eq!(linux["resources"]["devices"], serde_json::json!([{"allow": true, "access": "rwm"}]));
    for at in ["/sys", "/sys/fs/cgroup"] {
        let mounts = s["mounts"].as_array().unwrap();
        let mount = mounts.iter().find(|m| m["destination"] == at).unwrap();
        assert!(!mount["options"].as_array().unwrap().contains(&"ro".into()), "{mount}");
    }
    let unmasked = Case::new(|s| s.security.unmasked_paths = true).json();
    assert_eq!(unmasked["linux"]["maskedPaths"], serde_json::json!([]));
    assert_eq!(unmasked["linux"]["readonlyPaths"], serde_json::json!([]));
    assert!(part("/linux/seccomp", |s| s.security.seccomp = Seccomp::Unconfined).is_null());
}

#[test]
fn apparmor_is_refused_where_there_is_none() {
    let profile = |name: &str| {
        let name = Some(name.to_owned());
        move |s: &mut TaskSpec| s.security.apparmor = name
    };
    assert!(refusal(profile("mine")).contains("--security-opt apparmor=mine"));
    assert!(part("/process/apparmorProfile", profile("unconfined")).is_null());
    let mut with = Case::new(profile("mine"));
    with.host.apparmor = true;
    assert_eq!(with.json()["process"]["apparmorProfile"], "mine");
}

fn bind(target: &str, path: &str, read_only: bool) -> HostMount {
    HostMount {
        target: target.into(),
        source: HostSource::Bind {
            path: path.into(),
            propagation: Propagation::RPrivate,
            non_recursive: false,
        },
        read_only,
    }
}

#[test]
fn mounts_are_in_order_and_take_the_place_of_the_standard_ones() {
    let mut case = Case::new(|_| ());
    case.mounts = vec![
        bind("/data/inner", "/b", true),
        bind("/data/", "/a", false),
        bind("/etc/hosts", "/h", false),
        HostMount {
            target: "/dev/shm".into(),
            source: HostSource::Tmpfs { size: Some(1 << 20), mode: Some(0o700) },
            read_only: true,
        },
    ];
    let json = case.json();
    let mounts = json["mounts"].as_array().unwrap();
    let at: Vec<_> = mounts.iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(
        at,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/data/",
            "/data/inner",
            "/dev/shm",
            "/etc/hosts"
        ]
    );
    let find = |at: &str| mounts.iter().find(|m| m["destination"] == at).unwrap().clone();
    assert_eq!(find("/data/")["options"], serde_json::json!(["rbind", "rprivate"]));
    assert_eq!(find("/data/inner")["options"], serde_json::json!(["rbind", "rprivate", "rro"]));
    assert_eq!(
        find("/dev/shm"),
        serde_json::json!({"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs",
            "options": ["noexec", "nosuid", "nodev", "rprivate", "size=1048576", "mode=700", "ro"]})
    );
    assert_eq!(find("/etc/hosts")["source"], "/h");
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    let mut case = Case::new(|_| ());
    case.mounts = vec![bind("/data", "/a", false), bind("/data/x/..", "/b", false)];
    assert!(case.refusal().contains("target /data"), "{}", case.refusal());
    case.mounts = vec![bind("/..", "/a", false)];
    assert!(case.refusal().contains("target /"), "{}", case.refusal());
}

#[test]
fn propagation_reaches_the_root() {
    for (propagation, root) in [
        (Propagation::Shared, Some("shared")),
        (Propagation::RShared, Some("shared")),
        (Propagation::RSlave, Some("rslave")),
        (Propagation::Private, None),
    ] {
        let mut case = Case::new(|_| ());
        case.mounts = vec![HostMount {
            target: "/m".into(),
            source: HostSource::Bind { path: "/a".into(), propagation, non_recursive: true },
            read_only: true,
        }];
        let json = case.json();
        assert_eq!(json["linux"]["rootfsPropagation"].as_str(), root);
        let last = json["mounts"].as_array().unwrap().last().unwrap()["options"].clone();
        assert_eq!(last, serde_json::json!(["bind", propagation.name(), "ro"]));
    }
}

#[test]
fn a_root_to_be_read_only_leaves_memory_writable() {
    let json = Case::new(|s| {
        s.read_only = true;
        s.shm_size = Some(1 << 20);
    })
    .json();
    for mount in json["mounts"].as_array().unwrap() {
        let at = mount["destination"].as_str().unwrap();
        let options: Vec<_> =
            mount["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
        let ro = at.starts_with("/etc/") || at.starts_with("/sys");
        assert_eq!(options.contains(&"ro"), ro, "{mount}");
        assert_eq!(options.contains(&"size=1048576"), at == "/dev/shm", "{mount}");
    }
}

/// Everything at once still makes one document.
#[test]
fn options_do_not_get_in_each_others_way() {
    let mut case = Case::new(|s| {
        s.names = Names::default();
        s.init = true;
        s.read_only = true;
        s.network = NetworkMode::None;
        s.resources.memory = Some(64 << 20);
        s.mounts = vec![Mount {
            source: MountSource::Tmpfs { size: None, mode: None },
            target: "/t".into(),
            read_only: false,
        }];
    });
    case.mounts = vec![bind("/a", "/b", false)];
    let json = case.json();
    assert_eq!(json["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert_eq!(json["mounts"].as_array().unwrap().len(), 12);
}
