//! Each rule with a spec that breaks it and what is said.

use std::time::Duration;

use super::*;
use crate::model::*;

fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "web".into(),
        labels: Default::default(),
        replicas: 1,
        task: TaskSpec::new("web".parse().unwrap()),
        publish: vec![],
        limits: Default::default(),
    }
}

#[test]
fn names_are_dns_labels() {
    for good in ["a", "web", "web-1", "1st", &"a".repeat(63)] {
        assert!(service_name(good).is_ok(), "{good}");
    }
    for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a b", &"a".repeat(64), "ü"] {
        assert!(service_name(bad).is_err(), "{bad}");
    }
}

type Change = fn(&mut ServiceSpec);

fn ports(all: &[&str]) -> Vec<PortSpec> {
    all.iter().flat_map(|p| p.parse::<parse::Ports>().unwrap().0).collect()
}

fn port(text: &str) -> PortSpec {
    text.parse().unwrap()
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

#[test]
fn ports_that_can_be_beside_each_other() {
    let mut spec = spec();
    for beside in [
        &["80:80", "81:80"][..],
        &["80:80/tcp", "80:80/udp"],
        &["10.0.0.1:80:80", "10.0.0.2:80:80"],
        &["0.0.0.0:80:80", "[::]:80:80", "[::]:80:80/udp"],
        &["80", "80", "10.0.0.1::80"],
    ] {
        spec.publish = ports(beside);
        assert_eq!(service(&spec), Ok(()), "{beside:?}");
    }
    for (a, b) in
        [("80:1", "80:2"), ("80:1", "10.0.0.1:80:2"), ("[::]:80:1", "[::1]:80:2"), ("80:1", "[::1]:80:2")]
    {
        assert!(port(a).conflicts(&port(b)) && port(b).conflicts(&port(a)), "{a} {b}");
    }
}

#[test]
fn every_rule_has_its_sentence() {
    let rules: &[(Change, &str)] = &[
        (|s| s.replicas = MAX_REPLICAS + 1, "too many"),
        (|s| s.labels = [("a b".into(), String::new())].into(), "--label"),
        (|s| s.task.labels = [(String::new(), "x".into())].into(), "--container-label"),
        (
            |s| s.publish = vec!["80:80".parse().unwrap(), "127.0.0.1:80:81".parse().unwrap()],
            "already published",
        ),
        (|s| s.publish = ports(&["80:80", "81:80", "80:80"]), "80:80/tcp is already published as 80:80/tcp"),
        (|s| s.publish = ports(&["0.0.0.0:80:80", "10.0.0.1:80:81"]), "already published"),
        (|s| s.publish = vec![PortSpec { target: 0, ..port("80:80") }], "the target is 0"),
        (|s| s.publish = ports(&["1-16385:1-16385"]), "16385 published ports are too many"),
        (|s| s.publish = ports(&["224.0.0.1:80:80"]), "multicast"),
        (|s| s.publish = ports(&["255.255.255.255:80:80"]), "broadcast"),
        (|s| s.publish = ports(&["[ff02::1]:80:80"]), "multicast"),
        (|s| s.publish = ports(&["[fe80::1]:80:80"]), "link-local"),
        (|s| s.publish = ports(&["[::ffff:10.0.0.1]:80:80"]), "in disguise"),
        (|s| s.publish = ports(&["target=80,from=10.0.0.1/8"]), "write 10.0.0.0/8 (or 10.0.0.1"),
        (|s| s.publish = ports(&["target=80,ip=10.0.0.1,from=fd00::/8"]), "nobody from fd00::/8"),
        (
            |s| {
                s.publish =
                    vec![PortSpec { from: vec![net("10.0.0.0/8"); MAX_SOURCES + 1], ..port("80:80") }];
            },
            "up to 256 networks",
        ),
        (
            |s| {
                s.publish = vec!["80:80".parse().unwrap()];
                s.task.network = NetworkMode::Host;
            },
            "--publish 80:80/tcp is not possible with --network host",
        ),
        (
            |s| {
                s.publish = vec!["80:80".parse().unwrap()];
                s.task.network = NetworkMode::None;
            },
            "with --network none",
        ),
        (|s| s.task.env = vec![("A=".into(), "x".into())], "environment variable"),
        (|s| s.task.args = vec!["\0".into()], "NUL"),
        (|s| s.task.entrypoint = Some(vec![String::new()]), "--entrypoint"),
        (|s| s.task.workdir = Some("srv".into()), "--workdir"),
        (|s| s.task.workdir = Some("/srv/../x".into()), ".. away"),
        (|s| s.task.user = Some("a b".into()), "--user"),
        (|s| s.task.user = Some("1:".into()), "--user"),
        (|s| s.task.user = Some("4294967295".into()), "--user"),
        (|s| s.task.groups = vec!["a:b".into()], "--group"),
        (|s| s.task.groups = vec!["a".into(), "a".into()], "--group a is given twice"),
        (|s| s.task.hostname = Some("-x".into()), "--hostname"),
        (|s| s.task.hostname = Some("a".repeat(64)), "--hostname"),
        (|s| s.task.stop_signal = Some(0), "--stop-signal"),
        (|s| s.task.stop_grace = Duration::from_secs(90_000), "--stop-timeout"),
        (|s| s.task.restart.max_attempts = 1001, "--restart-max-attempts"),
        (|s| s.task.names.hosts = vec![("a/b".into(), "10.0.0.1".parse().unwrap())], "--host"),
        (|s| s.task.names.dns = vec!["10.0.0.1".parse().unwrap(); 4], "--dns"),
        (|s| s.task.names.dns_search = vec!["a b".into()], "--dns-search"),
        (|s| s.task.names.dns_search = vec![".".into(), "a".into()], "--dns-search"),
        (|s| s.task.names.dns_options = vec![String::new()], "--dns-option"),
        (|s| s.task.mounts = vec!["source=a,target=data".parse().unwrap()], "--mount target"),
        (|s| s.task.mounts = vec!["source=a,target=/".parse().unwrap()], "root cannot"),
        (|s| s.task.mounts = vec!["source=a,target=/proc/x".parse().unwrap()], "in /proc"),
        (
            |s| {
                s.task.mounts =
                    vec!["source=a,target=/a".parse().unwrap(), "type=tmpfs,target=/a/".parse().unwrap()];
            },
            "given twice",
        ),
        (|s| s.task.mounts = vec!["type=bind,source=a,target=/a".parse().unwrap()], "--mount source"),
        (|s| s.task.mounts = vec!["source=/a,target=/a".parse().unwrap()], "needs type=bind"),
        (|s| s.task.mounts = vec!["type=tmpfs,target=/a,tmpfs-size=0".parse().unwrap()], "tmpfs-size"),
        (|s| s.task.mounts = vec!["type=tmpfs,target=/a,tmpfs-mode=17777".parse().unwrap()], "tmpfs-mode"),
        (|s| s.task.security.cap_add = vec!["NET_ADMN".into()], "\"NET_ADMN\" in --cap-add"),
        (|s| s.task.security.cap_drop = vec!["KILL".into(), "KILL".into()], "--cap-drop KILL"),
        (
            |s| {
                s.task.security.cap_drop = vec!["KILL".into()];
                s.task.security.cap_add = vec!["KILL".into()];
            },
            "--cap-add and in --cap-drop",
        ),
        (
            |s| {
                s.task.security.privileged = true;
                s.task.security.cap_drop = vec!["KILL".into()];
            },
            "--privileged allows everything and --cap-drop KILL",
        ),
        (
            |s| {
                s.task.security.privileged = true;
                s.task.security.seccomp = Seccomp::Profile(r#"{"defaultAction":"x"}"#.into());
            },
            "--privileged",
        ),
        (|s| s.task.security.seccomp = Seccomp::Profile("{".into()), "no JSON"),
        (|s| s.task.security.seccomp = Seccomp::Profile("{}".into()), "defaultAction"),
        (|s| s.task.security.apparmor = Some(String::new()), "apparmor"),
        (|s| s.task.security.devices = vec!["dev:/dev/x".parse().unwrap()], "--device"),
        (
            |s| s.task.security.devices = vec!["/dev/a:/x".parse().unwrap(), "/dev/b:/x".parse().unwrap()],
            "--device /x is given twice",
        ),
        (
            |s| {
                let d = Device { host: "/a".into(), container: "/a".into(), access: "x".into() };
                s.task.security.devices = vec![d];
            },
            "access \"x\"",
        ),
        (
            |s| s.task.security.sysctls = [("vm.swappiness".into(), "1".into())].into(),
            "--sysctl vm.swappiness",
        ),
        (|s| s.task.security.sysctls = [("kernel.hostname".into(), "x".into())].into(), "--hostname"),
        (|s| s.task.security.sysctls = [("net.x".into(), "1\n".into())].into(), "one line"),
        (
            |s| {
                s.task.network = NetworkMode::Host;
                s.task.security.sysctls = [("net.core.x".into(), "1".into())].into();
            },
            "--network host",
        ),
        (|s| s.task.ulimits = vec!["files=1".parse().unwrap()], "nofile"),
        (|s| s.task.ulimits = vec!["nofile=2:1".parse().unwrap()], "above the hard one"),
        (|s| s.task.ulimits = vec!["nofile=2".parse().unwrap(); 2], "given twice"),
        (|s| s.task.shm_size = Some(0), "--shm-size"),
        (|s| s.task.resources.nano_cpus = Some(1), "--cpus"),
        (|s| s.task.resources.memory = Some(6 << 19), "--memory: a container needs at least 6m"),
        (|s| s.task.resources.memory_reservation = Some(1), "--memory-reservation"),
        (
            |s| {
                s.task.resources.memory = Some(16 << 20);
                s.task.resources.memory_reservation = Some(17 << 20);
            },
            "--memory-reservation is more than --memory",
        ),
        (|s| s.task.resources.memory_swap = Some(1 << 30), "needs --memory"),
        (
            |s| {
                s.task.resources.memory = Some(16 << 20);
                s.task.resources.memory_swap = Some(15 << 20);
            },
            "must not be less than --memory",
        ),
        (
            |s| {
                s.task.resources.memory = Some(16 << 20);
                s.task.resources.memory_swap = Some(-2);
            },
            "--memory-swap",
        ),
        (|s| s.task.resources.pids = Some(0), "--pids-limit"),
        (|s| s.task.resources.oom_score_adj = Some(1001), "--oom-score-adj"),
        (|s| s.task.log.max_size = 4095, "--log-max-size"),
        (|s| s.task.log.max_files = 0, "--log-max-file"),
        (|s| s.task.health.interval = Some(Duration::ZERO), "--health-interval"),
        (|s| s.task.health.retries = Some(0), "--health-retries"),
        (
            |s| {
                s.task.health.probe = Some(Probe::Disabled);
                s.task.health.start_period = Some(Duration::ZERO);
            },
            "--no-healthcheck tries nothing and --health-start-period",
        ),
        (|s| s.task.health.probe = Some(Probe::Command(vec![])), "--health-cmd"),
        (
            |s| s.limits.conn_rate = Some(Rate { per_second: 1, burst: 1 }),
            "--limit-conn-rate 1/1 limits clients of",
        ),
        (|s| s.limits.conns = Some(1), "--limit-conns 1 limits clients of"),
        (|s| seated(s, 0), "bad number 0 in --limit-conns"),
        (|s| seated(s, 4097), "from 1 to 4096"),
        (|s| limited(s, 0, 1), "bad rate 0/1 in --limit-pps"),
        (|s| limited(s, 1, 0), "bad rate 1/0 in --limit-pps"),
        (|s| limited(s, 1_000_001, 1), "from 1 to 1000000"),
        (|s| limited(s, 1, 1_000_001), "from 1 to 1000000"),
        (|s| s.task.health.probe = Some(Probe::Shell(" ".into())), "--health-cmd"),
        (|s| s.task.health.probe = Some(Probe::Tcp(0)), "--health-tcp"),
        (|s| probe(s, |p| p.port = 0), "--health-http"),
        (|s| probe(s, |p| p.path = "x".into()), "--health-http"),
        (|s| probe(s, |p| p.path = "/a b".into()), "%20"),
        (|s| probe(s, |p| p.method = "get".into()), "--health-method"),
        (|s| probe(s, |p| p.headers = vec![("A B".into(), "x".into())]), "--health-header"),
        (|s| probe(s, |p| p.headers = vec![("A".into(), "x\r\ny".into())]), "--health-header"),
        (|s| probe(s, |p| p.statuses = vec![(300, 200)]), "--health-status"),
        (|s| probe(s, |p| p.statuses = vec![(99, 200)]), "--health-status"),
    ];
    for (change, needle) in rules {
        let mut s = spec();
        assert_eq!(service(&s), Ok(()));
        change(&mut s);
        let said = service(&s).expect_err(needle).to_string();
        assert!(said.contains(needle) && !said.contains('\n'), "{needle}: {said}");
    }
}

fn limited(s: &mut ServiceSpec, per_second: u32, burst: u32) {
    s.publish = vec!["80:80".parse().unwrap()];
    s.limits.packet_rate = Some(Rate { per_second, burst });
}

fn seated(s: &mut ServiceSpec, conns: u32) {
    s.publish = vec!["80:80".parse().unwrap()];
    s.limits.conns = Some(conns);
}

fn probe(s: &mut ServiceSpec, change: fn(&mut HttpProbe)) {
    let mut probe: HttpProbe = "http://:80/".parse().unwrap();
    change(&mut probe);
    s.task.health.probe = Some(Probe::Http(probe));
}
