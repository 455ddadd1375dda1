//! A service changes while it is used: one task at a time, back again, and no further than it works.

use std::{collections::BTreeSet, process::Stdio, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use warren_tests::{Node, eventually, load::Load, scenario::OneNode};

const SOON: Duration = Duration::from_secs(20);

/// The tasks of `web` as `service ps` shows them.
fn tasks(node: &Node) -> Result<Vec<Value>> {
    let all = node.json(&["service", "ps", "web"])?;
    Ok(all.as_array().context("service ps prints an array")?.clone())
}

/// How many run and are to go on, and how many run and are to stop.
fn running(tasks: &[Value]) -> (usize, usize) {
    let of = |desired: bool| {
        let runs = |t: &&Value| t["state"] == "running" && (t["desired"] == "running") == desired;
        tasks.iter().filter(runs).count()
    };
    (of(true), of(false))
}

/// Runs `warren` beside a look at the tasks every few milliseconds: the least that ran, and the
/// most that were being stopped at a time.
fn watched(node: &Node, words: &[&str]) -> Result<(usize, usize)> {
    let mut command = node.command()?;
    let mut child = command.args(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let (mut least, mut most) = (usize::MAX, 0);
    let status = loop {
        let (run, stop) = running(&tasks(node)?);
        (least, most) = (least.min(run), most.max(stop));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let said = std::io::read_to_string(child.stderr.take().context("it has a standard error")?)?;
    ensure!(status.success(), "{words:?}: {said}");
    Ok((least, most))
}

/// What `/env` says in each of `n` tasks that answer.
fn environments(site: &OneNode, n: usize) -> Result<Vec<String>> {
    let mut hosts = BTreeSet::new();
    let mut found = Vec::new();
    for _ in 0..100 {
        let answer = site.ask(8080, "/env")?;
        let host = answer.lines().find(|l| l.starts_with("HOSTNAME=")).unwrap_or_default().to_owned();
        if hosts.insert(host) {
            found.push(answer);
        }
        if hosts.len() == n {
            return Ok(found);
        }
    }
    bail!("{hosts:?} answered, not {n}")
}

#[test]
#[ignore = "needs root"]
fn an_update_takes_one_task_at_a_time_and_a_rollback_brings_back_what_was() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "3", "-p", "8080:80"], &[])?;
    let load = Load::connections(&site.client, &format!("{}:8080", site.node.host.v4), 100, 20)?;

    let (least, most) = watched(&site.node, &["service", "update", "--env-add", "COLOUR=blue", "web"])?;
    ensure!(least >= 2 && most <= 1, "{least} of 3 ran and {most} were being stopped at a time");
    for env in environments(&site, 3)? {
        ensure!(env.contains("COLOUR=blue"), "{env}");
    }
    let old: Vec<_> = tasks(&site.node)?.into_iter().filter(|t| t["state"] == "shutdown").collect();
    ensure!(old.len() == 3 && old.iter().all(|t| t["desired"] == "shutdown"), "{old:?}");

    let (least, most) = watched(&site.node, &["service", "rollback", "web"])?;
    ensure!(least >= 2 && most <= 1, "{least} of 3 ran and {most} were being stopped at a time");
    for env in environments(&site, 3)? {
        ensure!(!env.contains("COLOUR="), "{env}");
    }

    let result = load.finish()?;
    println!("under an update and a rollback of three replicas: {result}");
    let failed = result["failed"].as_u64().context("no number of failures")?;
    // A program that is told to stop stops at once: what it was answering at that moment is lost.
    ensure!(failed <= 6, "more than one connection for each of six tasks: {result}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_update_that_cannot_run_stops_at_the_first_task() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    site.create("web", &["--replicas", "3", "-p", "8080:80"], &[])?;
    let before: BTreeSet<_> = node.running("web")?.into_iter().collect();

    let said = node.cli(&["service", "update", "--entrypoint", "/no/such/program", "web"])?;
    ensure!(!said.good(), "the update should fail: {}", said.stdout);
    for word in ["did not stay up", "/no/such/program", "2 tasks of the spec before go on", "rollback"] {
        ensure!(said.stderr.contains(word), "no {word:?} in: {}", said.stderr);
    }
    thread::sleep(Duration::from_secs(4));
    let after: BTreeSet<_> = node.running("web")?.into_iter().collect();
    ensure!(after.len() == 2 && after.is_subset(&before), "{after:?} of {before:?} run");
    site.ask(8080, "/")?;

    // The way back takes down nothing of what still runs.
    node.ok(&["service", "rollback", "web"])?;
    let back: BTreeSet<_> = node.running("web")?.into_iter().collect();
    ensure!(back.len() == 3 && back.is_superset(&after), "{back:?} after {after:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_needs_no_other_container_changes_without_one() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    let before = node.running("web")?;
    node.ok(&["service", "update", "-d", "--publish-add", "8081:80", "--label-add", "a=b", "web"])?;
    eventually("the added port answers", SOON, || site.ask(8081, "/").map(drop))?;
    site.ask(8080, "/")?;
    node.ok(&["service", "update", "--publish-rm", "8080:80", "--restart-max-attempts", "3", "web"])?;
    eventually("the removed port is closed", SOON, || match site.ask(8080, "/") {
        Ok(answer) => bail!("it answers: {answer}"),
        Err(_) => Ok(()),
    })?;
    site.ask(8081, "/")?;
    ensure!(node.running("web")? == before, "tasks were replaced: {before:?}, {:?}", node.running("web")?);
    let shown = node.json(&["service", "inspect", "web"])?;
    ensure!(shown["labels"]["a"] == "b" && shown["restart"]["max_attempts"] == 3, "{shown}");

    node.ok(&["service", "update", "--force", "web"])?;
    let forced = node.running("web")?;
    ensure!(forced.len() == 2 && forced.iter().all(|t| !before.contains(t)), "{forced:?} after {before:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_task_that_keeps_ending_is_given_up_and_says_so() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    let limits = ["-d", "--restart-max-attempts", "2", "--restart-delay", "100ms", "--restart-window", "2m"];
    site.create("web", &limits, &["exit", "3"])?;
    eventually("the task is given up", SOON, || {
        let all = tasks(node)?;
        let newest = all.first().context("no task")?;
        let message = newest["message"].as_str().unwrap_or_default();
        ensure!(message.ends_with("not restarted: 2 restarts within 2m0s"), "{all:?}");
        Ok(())
    })?;
    thread::sleep(Duration::from_secs(2));
    ensure!(tasks(node)?.len() == 3, "{:?}", tasks(node)?);
    // Another spec begins anew.
    node.ok(&["service", "update", "--args", "http 80", "web"])?;
    ensure!(node.running("web")?.len() == 1);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn events_tell_what_happened() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    site.create("web", &[], &[])?;
    node.ok(&["service", "scale", "web=2"])?;
    node.ok(&["service", "update", "--env-add", "A=1", "web"])?;
    node.ok(&["service", "rollback", "web"])?;
    node.ok(&["service", "rm", "web"])?;
    let seen = |filter: &str| -> Result<Vec<String>> {
        let text =
            node.ok(&["events", "--since", "10m", "--until", "0s", "--filter", filter, "--format", "json"])?;
        let events = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        Ok(events.iter().map(|e| e["event"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let services = seen("type=service")?;
    ensure!(services == ["create", "scale", "update", "rollback", "remove"], "{services:?}");
    let ran = seen("event=running")?.len();
    ensure!(ran == 6, "{ran} tasks ran: one, another, and both anew, twice");
    ensure!(seen("task=web.1")?.iter().filter(|e| *e == "shutdown").count() >= 2);
    let lines = node.ok(&["events", "--since", "10m", "--until", "0s"])?;
    ensure!(lines.lines().any(|l| l.contains(" service create ") && l.contains("image=")), "{lines}");
    ensure!(node.refused(&["events", "--filter", "colour=red"])?.contains("colour"));
    Ok(())
}
