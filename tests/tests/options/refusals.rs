//! Bad values: each is refused with one sentence that names it, and nothing is stored.

use std::fs;

use anyhow::{Result, ensure};

use super::rows::{node, row};

/// Flags, and what the sentence must name.
const BAD: &[(&str, &[&str])] = &[
    ("--env =x", &["=x"]),
    ("--env-file {dir}/absent", &["absent"]),
    ("--env-file {dir}/bad-env", &["bad-env", "2"]),
    ("--entrypoint|'open", &["quote"]),
    ("--workdir tmp", &["tmp"]),
    ("--user|a b", &["a b"]),
    ("--user :", &[":"]),
    ("--group|a b", &["a b"]),
    ("--hostname|a b", &["a b"]),
    ("--hostname=-x-", &["-x-"]),
    ("--host db", &["db"]),
    ("--host db:999.1.1.1", &["999.1.1.1"]),
    ("--dns here", &["here"]),
    ("--dns-search|a b", &["a b"]),
    ("--dns-option|a b", &["a b"]),
    ("--label =x", &["=x"]),
    ("--container-label =x", &["=x"]),
    ("--mount type=floppy,target=/x", &["floppy"]),
    ("--mount type=bind,target=/x", &["source"]),
    ("--mount type=bind,source=rel,target=/x", &["rel"]),
    ("--mount type=bind,source=/tmp,target=x", &["x"]),
    ("--mount type=bind,source=/tmp", &["target"]),
    ("--mount type=bind,source=/tmp,target=/", &["/"]),
    ("--mount type=bind,source=/tmp,target=/x,colour=red", &["colour"]),
    ("--mount type=bind,source=/tmp,target=/x,tmpfs-size=1m", &["tmpfs-size"]),
    ("--mount type=bind,source=/tmp,target=/x,bind-propagation=odd", &["odd"]),
    ("--mount type=tmpfs,source=/tmp,target=/x", &["source"]),
    ("--mount type=tmpfs,target=/x,tmpfs-size=many", &["many"]),
    ("--mount type=tmpfs,target=/x,tmpfs-mode=9", &["9"]),
    ("--mount type=volume,source=a/b,target=/x", &["a/b"]),
    ("--mount type=tmpfs,target=/x --mount type=volume,source=v,target=/x", &["/x"]),
    ("--cap-add FLYING", &["FLYING"]),
    ("--cap-drop FLYING", &["FLYING"]),
    ("--device null", &["null"]),
    ("--device /dev/null:/dev/x:z", &["z"]),
    ("--sysctl net.core.somaxconn", &["net.core.somaxconn"]),
    ("--sysctl kernel.panic=1", &["kernel.panic"]),
    ("--sysctl vm.swappiness=1", &["vm.swappiness"]),
    ("--network host --sysctl net.core.somaxconn=1", &["net.core.somaxconn", "host"]),
    ("--ulimit wings=1", &["wings"]),
    ("--ulimit nofile=x", &["nofile"]),
    ("--ulimit nofile=5:1", &["nofile"]),
    ("--shm-size many", &["many"]),
    ("--shm-size=-1", &["shm-size"]),
    ("--security-opt colour=red", &["colour"]),
    ("--security-opt seccomp={dir}/absent", &["absent"]),
    ("--security-opt seccomp={dir}/no-json", &["seccomp", "JSON"]),
    ("--stop-signal SIGFOO", &["SIGFOO"]),
    ("--stop-signal 99", &["99"]),
    ("--stop-timeout soon", &["soon"]),
    ("--network bridge-to-nowhere", &["bridge-to-nowhere"]),
    ("--publish 80:80:80:80", &["80:80:80:80"]),
    ("--publish 80:65536", &["65536", "65535"]),
    ("--publish 8000-8002:80-81", &["3", "2", "same length"]),
    ("--publish 8002-8000:80-82", &["8002-8000"]),
    ("--publish ::1:80:80", &["[::1]"]),
    ("--publish [::1:80:80", &["brackets"]),
    ("--publish 224.0.0.1:80:80", &["multicast"]),
    ("--publish [fe80::1]:80:80", &["link-local"]),
    ("--publish 8080:80 --publish 8079-8080:79-80", &["8080:80", "already"]),
    ("--publish 8080:80/sctp", &["sctp", "udp"]),
    ("--publish published=8080", &["target"]),
    ("--publish target=80,colour=red", &["colour", "published"]),
    ("--publish target=80,mode=vip", &["vip", "ingress"]),
    ("--publish target=80,from=lan", &["lan", "from=CIDR"]),
    ("--publish target=80,from=10.0.0.1/8", &["10.0.0.1/8", "10.0.0.0/8"]),
    ("--publish target=80,ip=127.0.0.1,from=fd00::/8", &["fd00::/8", "127.0.0.1"]),
    ("--publish target=80,target=81", &["target", "twice"]),
    ("--network host -p 8080:80", &["host", "8080"]),
    ("--network none -p 8080:80", &["none", "8080"]),
    ("--restart-condition sometimes", &["sometimes"]),
    ("--restart-delay soon", &["soon"]),
    ("--restart-max-attempts some", &["some"]),
    ("--restart-window wide", &["wide"]),
    ("--cpus none", &["none"]),
    ("--cpus=-1", &["-1"]),
    ("--memory lots", &["lots"]),
    ("--memory 1m", &["--memory", "6m"]),
    ("--memory 64m --memory-swap 32m", &["swap"]),
    ("--memory-swap 64m", &["--memory"]),
    ("--memory 64m --memory-reservation 128m", &["reservation"]),
    ("--pids-limit some", &["some"]),
    ("--oom-score-adj 1001", &["--oom-score-adj", "1000"]),
    ("--pull sometimes", &["sometimes"]),
    ("--health-interval soon", &["soon"]),
    ("--health-retries=-1", &["-1"]),
    ("--health-http ftp://x", &["ftp"]),
    ("--health-tcp 0", &["--health-tcp"]),
    ("--health-cmd true --no-healthcheck", &["no-healthcheck"]),
    ("--log-max-size many", &["many"]),
    ("--log-max-file 0", &["0"]),
];

#[test]
#[ignore = "needs root"]
fn every_bad_value_is_refused_by_name() -> Result<()> {
    let (_cluster, node) = node()?;
    fs::write(node.dir().join("bad-env"), "GOOD=1\n=nothing\n")?;
    fs::write(node.dir().join("no-json"), "this is no profile")?;
    let mut wrong = Vec::new();
    for (flags, names) in BAD {
        let words = row("refused", flags).words(&node);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match node.refused(&words) {
            Err(e) => wrong.push(format!("{flags}: {e:#}")),
            Ok(said) if said.contains("unexpected argument") => wrong.push(format!("{flags}: {said}")),
            Ok(said) => wrong.extend(
                names.iter().filter(|n| !said.contains(**n)).map(|n| format!("{flags}: no {n:?} in: {said}")),
            ),
        }
        // A service that was made all the same must not stand in the way of the next row.
        let _ = node.cli(&["service", "rm", "refused"]);
    }
    ensure!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), BAD.len(), wrong.join("\n"));
    let stored = node.json(&["service", "ls"])?;
    ensure!(stored.as_array().is_some_and(Vec::is_empty), "stored: {stored}");
    Ok(())
}

/// Flags that only the node can find wrong, and what the task's message must name.
const IMPOSSIBLE: &[(&str, &[&str])] = &[
    ("--mount type=bind,source=/no/such/place,target=/x", &["/no/such/place"]),
    ("--device /dev/no-such-device", &["/dev/no-such-device"]),
    ("--user nobody-knows", &["nobody-knows"]),
    ("--group nobody-knows", &["nobody-knows"]),
    ("--security-opt apparmor=no-such-profile", &["apparmor"]),
    ("--sysctl net.ipv4.no_such_thing=1", &["no_such_thing"]),
    ("--ulimit nofile=99999999999", &["nofile"]),
    ("--entrypoint /no/such/program", &["/no/such/program"]),
    ("--workdir /testbox", &["/testbox"]),
];

#[test]
#[ignore = "needs root"]
fn what_the_node_cannot_do_is_said_by_name() -> Result<()> {
    let (_cluster, node) = node()?;
    let mut wrong = Vec::new();
    for (n, (flags, names)) in IMPOSSIBLE.iter().enumerate() {
        let name = format!("impossible-{n}");
        let words = row(&name, flags).words(&node);
        let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| *w != "--detach").collect();
        let ended = node.cli(&words)?;
        if ended.good() {
            wrong.push(format!("{flags}: went well"));
        }
        let tasks = node.json(&["service", "ps", &name])?.to_string();
        wrong.extend(names.iter().flat_map(|n| {
            let lacks = |what: &str, text: &str| {
                (!text.to_lowercase().contains(&n.to_lowercase()))
                    .then(|| format!("{flags}: {what} does not name {n:?}: {}", text.trim()))
            };
            [lacks("the command", &ended.stderr), lacks("service ps", &tasks)].into_iter().flatten()
        }));
        node.ok(&["service", "rm", &name])?;
    }
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
