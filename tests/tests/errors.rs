//! Every "no" is one sentence that says what is wrong, leaves everything as it was, and exits with
//! another status than 0.

use std::{fs, net::TcpListener, os::unix::process::CommandExt, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use warren_tests::{
    Cluster, Node, eventually, image,
    leaks::Snapshot,
    netns::Netns,
    node::{one_line, warren},
    program,
    scenario::OneNode,
};

/// Words to say, and words the answer must contain.
type Refusal<'a> = (&'a [&'a str], &'a [&'a str]);

#[test]
#[ignore = "needs root"]
fn what_cannot_be_is_refused_and_stores_nothing() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    site.create("web", &["-p", "8080:80"], &[])?;
    // A process of the host that has a port; it must be named.
    let listener = node.host.ns.enter(|| TcpListener::bind("0.0.0.0:8090"))??;
    let us = fs::read_to_string("/proc/self/comm")?;
    let us = us.trim();
    let garbage = node.dir().join("garbage.tar");
    fs::write(&garbage, "this is no archive")?;
    let garbage = garbage.display().to_string();

    let create = |rest: &'static [&'static str]| {
        let mut words = vec!["service", "create", "--image", "web:1"];
        words.extend(rest);
        words
    };
    let refusals: Vec<(Vec<&str>, Vec<&str>)> = vec![
        (create(&["web"]), vec!["web", "already"]),
        (create(&["-p", "8080:80", "other"]), vec!["8080", "web"]),
        (create(&["-p", "127.0.0.1:8080:80", "other"]), vec!["8080", "web"]),
        (create(&["-p", "8090:80", "other"]), vec!["8090", us]),
        (create(&["-p", "8080-8081:80-81", "other"]), vec!["8080", "web"]),
        (create(&["-p", "80:", "other"]), vec!["\"80:\"", "8080:80"]),
        (create(&["-p", "81:0", "other"]), vec!["81:0", "1 to 65535"]),
        (create(&["-p", "70000:80", "other"]), vec!["70000", "1 to 65535"]),
        (create(&["-p", "81:80/sctp", "other"]), vec!["sctp"]),
        (create(&["-p", "host:81:80", "other"]), vec!["host"]),
        (create(&["-p", "81:80", "-p", "81:90", "other"]), vec!["81"]),
        (create(&["--env", "=x", "other"]), vec!["=x", "NAME=VALUE"]),
        (create(&["--replicas", "many", "other"]), vec!["many"]),
        (create(&["--replicas", "-1", "other"]), vec!["-1"]),
        (create(&["--replicas", "20000", "other"]), vec!["20000", "10000"]),
        (create(&["--timeout", "soon", "other"]), vec!["soon"]),
        (create(&["--colour", "red", "other"]), vec!["--colour"]),
        (create(&["Not_A_Name"]), vec!["Not_A_Name", "lower-case"]),
        (create(&[]), vec!["NAME"]),
        (vec!["service", "create", "other"], vec!["--image"]),
        (vec!["service", "create", "--image", "Bad Image", "other"], vec!["Bad Image"]),
        (vec!["service", "rm", "nobody"], vec!["nobody"]),
        (vec!["service", "ps", "nobody"], vec!["nobody"]),
        (vec!["service", "inspect", "nobody"], vec!["nobody"]),
        (vec!["service", "scale", "nobody=2"], vec!["nobody"]),
        (vec!["service", "scale", "web"], vec!["web", "="]),
        (vec!["service", "scale", "web=x"], vec!["x"]),
        (vec!["service", "scale", "web=20000"], vec!["20000", "10000"]),
        (vec!["service", "ls", "--format", "yaml"], vec!["yaml", "json"]),
        (vec!["service", "frobnicate"], vec!["frobnicate"]),
        (vec!["node", "inspect", "nobody"], vec!["nobody"]),
        (vec!["image", "rm", "absent:9"], vec!["absent:9"]),
        (vec!["image", "import", "/no/such/file.tar"], vec!["/no/such/file.tar"]),
        (vec!["image", "import", &garbage], vec!["garbage.tar"]),
    ];
    let state = || -> Result<(Value, Value, Value)> {
        Ok((
            node.json(&["service", "ls"])?,
            node.json(&["service", "ps", "web"])?,
            node.json(&["image", "ls"])?,
        ))
    };
    let before = state()?;
    let mut wrong = Vec::new();
    for (words, expected) in &refusals {
        match node.refused(words) {
            Ok(said) => {
                wrong.extend(
                    expected
                        .iter()
                        .filter(|w| !said.contains(**w))
                        .map(|w| format!("{words:?}: no \"{w}\" in: {said}")),
                );
            }
            Err(e) => wrong.push(format!("{e:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), refusals.len(), wrong.join("\n"));
    ensure!(state()? == before, "something changed: {before:?}, {:?}", state()?);
    drop(listener);
    // What stood in the way is gone: the same command works.
    site.create("other", &["-p", "8090:80"], &[])?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_image_in_use_is_kept() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &[], &[])?;
    let said = site.node.refused(&["image", "rm", "web:1"])?;
    ensure!(said.contains("web"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_service_whose_image_is_absent_waits_for_it() -> Result<()> {
    let site = OneNode::new()?;
    // The node has no way to any registry: that may pass, so the task waits.
    let said = site.node.cli(&["service", "create", "--image", "absent:9", "--timeout", "20s", "late"])?;
    ensure!(!said.good() && said.stderr.contains("absent:9"), "{}", said.stderr);
    ensure!(said.stderr.contains("registry docker.io cannot be reached"), "{}", said.stderr);
    let tasks = site.node.json(&["service", "ps", "late"])?;
    let tasks = tasks.as_array().context("no list")?;
    ensure!(tasks.iter().any(|t| t["state"] == "preparing"), "{tasks:?}");
    site.node.import(&image::Image::web("absent:9"))?;
    eventually("the service runs", Duration::from_secs(40), || {
        if site.node.running("late")?.len() == 1 { Ok(()) } else { bail!("not yet") }
    })
}

#[test]
#[ignore = "needs root"]
fn what_fails_while_running_says_why_in_ps() -> Result<()> {
    let site = OneNode::new()?;
    let ended = site.node.cli(&[
        "service",
        "create",
        "--image",
        "web:1",
        "--entrypoint",
        "/no/such/program",
        "--timeout",
        "10s",
        "bad",
    ])?;
    ensure!(!ended.good(), "it was a success: {}", ended.stdout);
    ensure!(ended.stderr.contains("/no/such/program"), "{}", ended.stderr);
    let tasks = site.node.json(&["service", "ps", "bad"])?;
    let because = |t: &Value| t["message"].as_str().is_some_and(|m| m.contains("/no/such/program"));
    ensure!(tasks.as_array().is_some_and(|t| t.iter().any(because)), "{tasks}");
    site.node.ok(&["service", "rm", "bad"])?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_node_that_is_away_is_named() -> Result<()> {
    let mut site = OneNode::new()?;
    site.node.stop_agent()?;
    let socket = site.node.socket().display().to_string();
    let said = site.node.refused(&["service", "ls"])?;
    ensure!(said.contains(&socket) && said.contains("node start"), "{said}");
    Ok(())
}

/// Runs `node start` with these flags in a host that is otherwise fit; what it said. It must end by
/// itself, and leave no trace.
fn start_refused(ns: &Netns, dir: &Path, flags: &[&str]) -> Result<String> {
    let mut c = ns.command(warren()?)?;
    let (data, socket) = (dir.join("data"), dir.join("s"));
    c.args(["node", "start", "--data-dir"]).arg(&data).arg("--socket").arg(&socket).args(flags);
    let links = ns.ip(&["-o", "link"])?;
    let ended = program::run(&mut c, Duration::from_secs(30))?;
    let said = one_line(&ended)?;
    ensure!(!data.exists(), "{flags:?} left {}", data.display());
    ensure!(!socket.exists(), "{flags:?} left {}", socket.display());
    ensure!(ns.ip(&["-o", "link"])? == links, "{flags:?} left links");
    Ok(said)
}

#[test]
#[ignore = "needs root"]
fn a_node_that_cannot_run_does_not_start_and_says_why() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let host = cluster.host("node")?;
    let dir = tempfile::Builder::new().prefix("wtx-").tempdir()?;
    let cases: &[Refusal<'_>] = &[
        (&["--pool", "198.18.0.0/16"], &["198.18.0.0/16", "eth0", "--pool"]),
        (&["--pool", "nonsense"], &["nonsense", "--pool"]),
        (&["--pool6", "10.0.0.0/8"], &["10.0.0.0/8", "--pool6"]),
        (&["--interface", "nope0"], &["nope0"]),
        (&["--containerd", "/no/such.sock"], &["/no/such.sock"]),
        (&["--label", "novalue"], &["novalue"]),
        (&["--log-level", "loud"], &["loud"]),
        (&["--log-format", "xml"], &["xml"]),
        (&["--publish-default", "world"], &["world", "any", "lan", "none"]),
    ];
    for (flags, expected) in cases {
        let said = start_refused(&host.ns, dir.path(), flags)?;
        for word in *expected {
            ensure!(said.contains(word), "{flags:?}: no \"{word}\" in: {said}");
        }
    }
    // No containerd to be found: hidden, in a mount namespace of the command's own.
    let mut c = host.ns.command("unshare")?;
    let hide = "mount --bind /dev/null /usr/bin/containerd && exec \"$@\"";
    c.args(["--mount", "sh", "-c", hide, "sh"]).arg(warren()?);
    c.args(["node", "start", "--containerd", "embedded", "--data-dir"]).arg(dir.path().join("data"));
    c.arg("--socket").arg(dir.path().join("s"));
    let said = one_line(&program::run(&mut c, Duration::from_secs(30))?)?;
    ensure!(said.contains("containerd") && said.contains("install"), "{said}");
    ensure!(!dir.path().join("data").exists(), "a refused start made a data directory");
    // Not root. The binary may lie where only root can read.
    let binary = dir.path().join("warren");
    fs::copy(warren()?, &binary)?;
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut c = host.ns.command("setpriv")?;
    c.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
    c.args(["node", "start", "--data-dir"]).arg(dir.path().join("data")).current_dir("/");
    let said = one_line(&program::run(&mut c, Duration::from_secs(30))?)?;
    ensure!(said.contains("root"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_data_directory_has_one_agent() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let mut node = Node::start(cluster.host("node")?)?;
    let before = Snapshot::take(&node)?;
    let mut second = node.start_command()?;
    second.arg0("warren");
    let said = one_line(&program::run(&mut second, Duration::from_secs(30))?)?;
    let data = node.data_dir().display().to_string();
    ensure!(said.contains("stop it"), "{said}");
    // The first one did not notice.
    node.agent().context("the first agent")?;
    before.no_more_than(&Snapshot::take(&node)?)?;
    let said = node.refused(&["node", "reset", "--data-dir", &data])?;
    ensure!(said.contains("stop it"), "a reset under a running agent: {said}");
    node.ok(&["service", "ls"])?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_pre_flight_alone_says_the_same() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let host = cluster.host("node")?;
    let check = |flags: &[&str]| -> Result<program::Ended> {
        let mut c = host.ns.command(warren()?)?;
        program::run(
            c.args(["node", "check", "--containerd", "embedded"]).args(flags),
            Duration::from_secs(30),
        )
    };
    check(&["--pool", "10.88.0.0/16"])?.ok()?;
    let ended = check(&["--pool", "198.18.0.0/16"])?;
    ensure!(!ended.good() && (ended.stderr + &ended.stdout).contains("eth0"));
    Ok(())
}
