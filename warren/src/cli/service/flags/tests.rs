//! Every flag and the field it sets; every list and how it changes.

use clap::Parser as _;

use super::{Changes, Lists, Options};
use crate::{
    cli::service::show,
    model::{ServiceSpec, TaskSpec, validate},
};

#[derive(clap::Parser)]
struct Create {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    lists: Lists,
}

#[derive(clap::Parser)]
struct Update {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    changes: Changes,
}

fn words(line: &str) -> impl Iterator<Item = String> {
    std::iter::once("warren".to_owned()).chain(shlex::split(line).unwrap())
}

fn here(name: &str) -> Option<String> {
    (name == "HERE").then(|| "yes".to_owned())
}

fn plain() -> ServiceSpec {
    ServiceSpec {
        name: "web".into(),
        labels: Default::default(),
        replicas: 1,
        task: TaskSpec::new("web".parse().unwrap()),
        publish: vec![],
        limits: Default::default(),
    }
}

fn created(line: &str) -> Result<ServiceSpec, String> {
    let line = Create::try_parse_from(words(line)).map_err(|e| e.to_string())?;
    let mut spec = plain();
    line.options.apply(&mut spec).map_err(|e| format!("{e:#}"))?;
    line.lists.apply(&mut spec, &here).map_err(|e| format!("{e:#}"))?;
    validate::service(&spec).map_err(|e| e.to_string())?;
    Ok(spec)
}

#[track_caller]
fn updated(before: &str, line: &str) -> ServiceSpec {
    let mut spec = created(before).unwrap();
    let line = Update::try_parse_from(words(line)).unwrap();
    line.options.apply(&mut spec).unwrap();
    line.changes.apply(&mut spec, &here).unwrap();
    spec
}

/// The fields of `now` that differ from `before`, as `pointer = value`.
fn difference(before: &serde_json::Value, now: &serde_json::Value, at: &str, out: &mut Vec<String>) {
    match (before, now) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) if a.keys().eq(b.keys()) => {
            for (key, value) in b {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                difference(&a[key], value, &at, out);
            }
        }
        (a, b) if a != b => out.push(format!("{at} = {b}")),
        _ => {}
    }
}

/// What a line changes of a spec at its defaults.
#[track_caller]
fn sets(line: &str, expected: &[&str]) {
    let mut found = Vec::new();
    difference(&show::spec(&plain()), &show::spec(&created(line).unwrap()), "", &mut found);
    assert_eq!(found, expected, "{line}");
}

#[test]
fn each_flag_sets_its_field_and_nothing_else() {
    for (line, expected) in [
        ("--pull always", r#"pull = "always""#),
        ("--entrypoint '/bin/sh -c'", r#"entrypoint = ["/bin/sh","-c"]"#),
        ("--entrypoint ''", "entrypoint = []"),
        ("--arg -v --arg 'a b'", r#"args = ["-v","a b"]"#),
        ("--workdir /srv", r#"workdir = "/srv""#),
        ("-w /srv", r#"workdir = "/srv""#),
        ("--user 1000:www", r#"user = "1000:www""#),
        ("-u nobody", r#"user = "nobody""#),
        ("--hostname db-1.example", r#"hostname = "db-1.example""#),
        ("--network host", r#"network = "host""#),
        ("--network none", r#"network = "none""#),
        ("--init", "init = true"),
        ("--tty", "tty = true"),
        ("-t", "tty = true"),
        ("--init=true", "init = true"),
        ("--stop-signal QUIT", r#"stop_signal = "SIGQUIT""#),
        ("--stop-signal RTMIN+3", r#"stop_signal = "SIGRTMIN+3""#),
        ("--stop-timeout 3", "stop_grace_ms = 3000"),
        ("--stop-grace-period 1m30s", "stop_grace_ms = 90000"),
        ("--restart-condition on-failure", r#"restart.condition = "on-failure""#),
        ("--restart-delay 250ms", "restart.delay_ms = 250"),
        ("--restart-max-attempts 3", "restart.max_attempts = 3"),
        ("--restart-window 2m", "restart.window_ms = 120000"),
        ("--cpus 1.5", "resources.nano_cpus = 1500000000"),
        ("--limit-cpu .5", "resources.nano_cpus = 500000000"),
        ("--memory 512m", "resources.memory = 536870912"),
        ("-m 1.5g", "resources.memory = 1610612736"),
        ("--limit-memory 64MiB", "resources.memory = 67108864"),
        ("--memory-reservation 32m", "resources.memory_reservation = 33554432"),
        ("--reserve-memory 32m", "resources.memory_reservation = 33554432"),
        ("--pids-limit 100", "resources.pids = 100"),
        ("--limit-pids 100", "resources.pids = 100"),
        ("--oom-score-adj -500", "resources.oom_score_adj = -500"),
        ("--shm-size 128m", "shm_size = 134217728"),
        ("--log-max-size 1m", "log.max_size = 1048576"),
        ("--log-max-file 7", "log.max_files = 7"),
        ("--read-only", "read_only = true"),
        ("--privileged", "security.privileged = true"),
        ("--security-opt no-new-privileges", "security.no_new_privileges = true"),
        ("--security-opt no-new-privileges:true", "security.no_new_privileges = true"),
        ("--security-opt seccomp=unconfined", r#"security.seccomp = "unconfined""#),
        ("--security-opt apparmor=mine", r#"security.apparmor = "mine""#),
        ("--security-opt systempaths=unconfined", r#"security.systempaths = "unconfined""#),
        ("--cap-add net_admin --cap-add CAP_SYS_TIME", r#"security.cap_add = ["NET_ADMIN","SYS_TIME"]"#),
        ("--cap-drop ALL", r#"security.cap_drop = ["ALL"]"#),
        (
            "--device /dev/fuse --device /dev/null:/dev/void:r",
            r#"security.devices = [{"access":"rwm","container":"/dev/fuse","host":"/dev/fuse"},{"access":"r","container":"/dev/void","host":"/dev/null"}]"#,
        ),
        ("--sysctl net.core.somaxconn=99", r#"security.sysctls = {"net.core.somaxconn":"99"}"#),
        (
            "--ulimit nofile=10:20 --ulimit core=-1",
            r#"ulimits = [{"hard":20,"name":"nofile","soft":10},{"hard":-1,"name":"core","soft":-1}]"#,
        ),
        ("--publish 8080:80", r#"ports = ["8080:80/tcp"]"#),
        ("-p 8000-8001:80-81/udp -p 80", r#"ports = ["8000:80/udp","8001:81/udp","0:80/tcp"]"#),
        (
            "--publish published=8080,target=80,ip=10.0.0.1,from=10.0.0.0/8,from=192.0.2.1,mode=host",
            r#"ports = ["published=8080,target=80,protocol=tcp,ip=10.0.0.1,from=10.0.0.0/8,192.0.2.1/32,mode=host"]"#,
        ),
        ("-e A=1 -e B=x=y -e HERE -e GONE -e A=2", r#"env = ["A=2","B=x=y","HERE=yes"]"#),
        ("--label a=b -l c", r#"labels = {"a":"b","c":""}"#),
        ("--container-label a=b", r#"container_labels = {"a":"b"}"#),
        ("--group audio --group 1000", r#"groups = ["audio","1000"]"#),
        ("--host db:192.0.2.7 --add-host six:fd00::1", r#"hosts = ["db:192.0.2.7","six:fd00::1"]"#),
        ("--dns 192.0.2.53", r#"dns = ["192.0.2.53"]"#),
        ("--dns-search example.org", r#"dns_search = ["example.org"]"#),
        ("--dns-option ndots:2", r#"dns_options = ["ndots:2"]"#),
        (
            "--mount type=bind,src=/srv,dst=/data,ro,bind-propagation=rslave,bind-create",
            r#"mounts = [{"create":true,"non_recursive":false,"propagation":"rslave","read_only":true,"source":"/srv","target":"/data","type":"bind"}]"#,
        ),
        (
            "--mount source=data,target=/data,volume-nocopy,volume-label=a=b",
            r#"mounts = [{"labels":{"a":"b"},"no_copy":true,"read_only":false,"source":"data","target":"/data","type":"volume"}]"#,
        ),
        (
            "--mount type=tmpfs,target=/tmp,tmpfs-size=1m,tmpfs-mode=0700",
            r#"mounts = [{"mode":"700","read_only":false,"size":1048576,"target":"/tmp","type":"tmpfs"}]"#,
        ),
        ("--health-cmd 'curl -f :80 || exit 1'", r#"health.probe = {"shell":"curl -f :80 || exit 1"}"#),
        (r#"--health-cmd '["/ok", "-v"]'"#, r#"health.probe = {"command":["/ok","-v"]}"#),
        ("--health-tcp 5432", r#"health.probe = {"tcp":5432}"#),
        (
            "--health-http https://:8443/ok?deep=1 --health-header 'Host: a.example' --health-method HEAD --health-status 200,300-399",
            r#"health.probe = {"http":{"headers":["Host: a.example"],"method":"HEAD","statuses":["200","300-399"],"url":"https://:8443/ok?deep=1"}}"#,
        ),
        ("--health-interval 5s", "health.interval_ms = 5000"),
        ("--health-timeout 1500ms", "health.timeout_ms = 1500"),
        ("--health-retries 5", "health.retries = 5"),
        ("--health-start-period 1m", "health.start_period_ms = 60000"),
        ("--health-start-interval 1s", "health.start_interval_ms = 1000"),
        ("--no-healthcheck", r#"health.probe = "none""#),
    ] {
        sets(line, &[expected]);
    }
    let published = r#"ports = ["8080:80/tcp"]"#;
    sets(
        "-p 8080:80 --limit-conn-rate 100",
        &[r#"limits.conn_rate = {"burst":100,"per_second":100}"#, published],
    );
    sets(
        "-p 8080:80 --limit-pps 1000/50",
        &[r#"limits.packet_rate = {"burst":50,"per_second":1000}"#, published],
    );
    sets("-p 8080:80 --limit-conns 20", &["limits.conns = 20", published]);
    sets("--limit-pps none --limit-conn-rate 0 --limit-conns none", &[]);
    sets("--memory 64m --memory-swap -1", &["resources.memory = 67108864", "resources.memory_swap = -1"]);
    sets("", &[]);
}

/// A flag that is in no row above would be one that nobody has seen arrive.
#[test]
fn no_flag_is_left_out_of_the_table() {
    use clap::CommandFactory as _;
    let table = include_str!("tests.rs");
    for arg in Create::command().get_arguments().filter(|a| a.get_id() != "help" && a.get_id() != "version") {
        let flag = format!("--{} ", arg.get_long().unwrap_or_default());
        let bare = format!("--{}\"", arg.get_long().unwrap_or_default());
        let short = arg.get_short().map(|s| format!("\"-{s} "));
        let shown = [Some(flag.clone()), Some(bare), short].into_iter().flatten().any(|f| table.contains(&f));
        assert!(shown || flag == "--env-file ", "{flag}");
    }
}

#[test]
fn files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let env = at("env", "\u{feff}# a comment\n\n A=1\r\nB= x # not one\nHERE\nGONE\nC=\"quoted\"\n");
    let spec = created(&format!("--env-file {env} -e A=2")).unwrap();
    let all: Vec<_> = spec.task.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(all, ["A=2", "B= x # not one", "HERE=yes", "C=\"quoted\""]);
    for (text, why) in [("A=1\nb c=1\n", "line 2"), ("=1", "line 1"), ("A=1\n\nA=\0", "line 3")] {
        let bad = at("bad", text);
        let e = created(&format!("--env-file {bad}")).unwrap_err();
        assert!(e.contains(why) && e.contains(&bad), "{e}");
    }
    let profile = at("seccomp.json", r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    let spec = created(&format!("--security-opt seccomp={profile}")).unwrap();
    assert!(matches!(spec.task.security.seccomp, crate::model::Seccomp::Profile(_)));
    for absent in ["--env-file /no/such", "--security-opt seccomp=/no/such"] {
        assert!(created(absent).unwrap_err().contains("/no/such"));
    }
}

#[test]
fn an_update_replaces_what_is_named_and_takes_back_what_is_empty() {
    let all = "-w /srv -u me --hostname h --init --tty --stop-signal INT --cpus 1 --memory 64m --memory-swap -1 --memory-reservation 32m --pids-limit 5 --shm-size 1m --entrypoint x --read-only --privileged --security-opt no-new-privileges --security-opt apparmor=x --security-opt seccomp=unconfined --security-opt systempaths=unconfined --health-retries 9 --health-interval 3s --network host";
    let cleared = updated(
        all,
        "-w '' -u '' --hostname '' --init=false --tty=false --stop-signal '' --cpus 0 --memory 0 --memory-swap 0 --memory-reservation 0 --pids-limit -1 --shm-size 0 --read-only=false --privileged=false --security-opt no-new-privileges=false --security-opt apparmor= --security-opt seccomp=builtin --security-opt systempaths=confined --health-retries 0 --health-interval 0s --network cluster",
    );
    assert_eq!(
        cleared,
        ServiceSpec { task: TaskSpec { entrypoint: Some(vec!["x".into()]), ..plain().task }, ..plain() }
    );
    assert_eq!(updated(all, ""), created(all).unwrap());
    let http = "--health-http http://:80/a --health-header 'A: b' --health-status 200";
    let moved = updated(http, "--health-http http://:81/b --health-method HEAD");
    assert_eq!(
        show::spec(&moved)["health"]["probe"]["http"],
        serde_json::json!({"url": "http://:81/b", "method": "HEAD", "headers": ["A: b"], "statuses": ["200"]})
    );
    assert_eq!(updated("--no-healthcheck", "--no-healthcheck=false"), plain());
    let limited = "-p 8080:80 --limit-conn-rate 5 --limit-pps 7 --limit-conns 3";
    assert_eq!(
        updated(limited, "--limit-pps 9/1").limits.conn_rate,
        created(limited).unwrap().limits.conn_rate
    );
    assert_eq!(
        updated(limited, "--limit-conns 4").limits,
        created("-p 8080:80 --limit-conn-rate 5 --limit-pps 7 --limit-conns 4").unwrap().limits
    );
    assert_eq!(
        updated(limited, "--limit-pps none --limit-conns 0 --limit-conn-rate ''"),
        created("-p 8080:80").unwrap(),
        "none and nothing lift a limit"
    );
    assert_eq!(updated("--no-healthcheck", "--health-tcp 1"), created("--health-tcp 1").unwrap());
    assert_eq!(updated(http, "--no-healthcheck"), created("--no-healthcheck").unwrap());
}

#[test]
fn lists_are_added_to_and_taken_from() {
    for (before, line, after) in [
        ("-e A=1 -e B=2", "--env-add A=3 --env-add C=4 --env-rm B --env-rm D", "-e A=3 -e C=4"),
        ("-e A=1", "--env-rm A --env-add A=2", "-e A=2"),
        ("-l a=1 -l b=2", "--label-rm a --label-add b=3 --label-add c=4", "-l b=3 -l c=4"),
        (
            "--container-label a=1",
            "--container-label-rm a --container-label-add b=2",
            "--container-label b=2",
        ),
        (
            "--mount source=a,target=/a --mount source=b,target=/b",
            "--mount-rm /a/ --mount-add type=tmpfs,target=/b --mount-add source=c,target=/c",
            "--mount type=tmpfs,target=/b --mount source=c,target=/c",
        ),
        ("--group a --group b", "--group-rm a --group-add c --group-add b", "--group b --group c"),
        (
            "--host a:10.0.0.1 --host a:10.0.0.2 --host b:10.0.0.3 --host b:10.0.0.4",
            "--host-rm a --host-rm b:10.0.0.3 --host-add c:10.0.0.5",
            "--host b:10.0.0.4 --host c:10.0.0.5",
        ),
        (
            "--dns 10.0.0.1 --dns 10.0.0.2",
            "--dns-rm 10.0.0.1 --dns-add 10.0.0.3",
            "--dns 10.0.0.2 --dns 10.0.0.3",
        ),
        ("--dns-search a", "--dns-search-rm a --dns-search-add b", "--dns-search b"),
        ("--dns-option a", "--dns-option-rm a --dns-option-add b", "--dns-option b"),
        (
            "-p 80:80 -p 81:81 -p 82:82",
            "--publish-rm 80 --publish-rm 81:81 --publish-add 83:83",
            "-p 82:82 -p 83:83",
        ),
        ("-p 80:80", "--publish-rm 80 --publish-add 8080:80", "-p 8080:80"),
        // Without a place on the node all that lead to the container's port are meant.
        (
            "-p 80:80 -p 8080:80 -p 81:80/udp -p 10.0.0.1:82:80 -p 83:83",
            "--publish-rm 80",
            "-p 81:80/udp -p 83:83",
        ),
        ("-p 81:80 -p 81:80/udp", "--publish-rm 80/udp", "-p 81:80"),
        ("-p 80-85:80-85", "--publish-rm 81-83", "-p 80:80 -p 84-85:84-85"),
        ("-p 80:80 -p 10.0.0.1:81:80", "--publish-rm 10.0.0.1:81:80", "-p 80:80"),
        ("-p 10.0.0.1:81:80", "--publish-rm 81:80", "-p 10.0.0.1:81:80"),
        ("--publish published=80,target=80,from=10.0.0.0/8", "--publish-rm 80:80", ""),
        // What is said of a published port takes the place of what was said.
        (
            "-p 80:80 -p 81:81",
            "--publish-add published=80,target=80,from=10.0.0.0/8",
            "-p published=80,target=80,from=10.0.0.0/8 -p 81:81",
        ),
        ("-p 80:80", "--publish-add 80:8080", "-p 80:8080"),
        ("-p 80:80", "--publish-add 80:80/udp", "-p 80:80 -p 80:80/udp"),
        // One that was chosen stays what it is; one that was named is another one.
        ("-p 30001:80", "--publish-add 80", "-p 30001:80"),
        ("-p 30001:80", "--publish-add target=80,mode=host", "-p published=30001,target=80,mode=host"),
        ("-p 8080:80", "--publish-add 80", "-p 8080:80 -p 80"),
        ("--ulimit core=1 --ulimit nproc=2", "--ulimit-rm core --ulimit-add nproc=3", "--ulimit nproc=3"),
        ("--sysctl net.a=1 --sysctl net.b=2", "--sysctl-rm net.a --sysctl-add net.b=3", "--sysctl net.b=3"),
        (
            "--device /dev/a --device /dev/b:/dev/c",
            "--device-rm /dev/a --device-add /dev/d:/dev/c:r",
            "--device /dev/d:/dev/c:r",
        ),
        ("--cap-drop CHOWN", "--cap-add CHOWN", "--cap-add CHOWN"),
        ("--cap-add SYS_TIME --cap-add KILL", "--cap-drop SYS_TIME", "--cap-add KILL --cap-drop SYS_TIME"),
        ("--cap-add KILL --cap-drop CHOWN", "--cap-add RESET --cap-drop RESET", ""),
        ("", "--cap-add KILL --cap-drop KILL", "--cap-add KILL"),
        // The flags of `create` mean an addition.
        (
            "-e A=1",
            "--env B=2 --label x=y --mount type=tmpfs,target=/t",
            "-e A=1 -e B=2 -l x=y --mount type=tmpfs,target=/t",
        ),
    ] {
        assert_eq!(updated(before, line), created(after).unwrap(), "{before} + {line}");
    }
}
