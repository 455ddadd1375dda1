//! While containers are made, started and stopped.

use std::{thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use warren_tests::{
    Node, eventually,
    fault::Victim,
    leaks::{Snapshot, settled},
    look::Look,
    process,
    scenario::OneNode,
};

/// After faults: restarts of containerd and back-off of tasks take their time.
pub const SOON: Duration = Duration::from_secs(60);

/// Within one creation: its record, its snapshot, its shim, its process, its opening; the list is
/// finer than the steps, so that every step is hit now and then.
const MOMENTS: [u64; 6] = [5, 40, 80, 130, 200, 350];

/// So many tasks of a service run, and have looked around.
pub fn running(node: &Node, service: &str, count: usize) -> Result<Vec<(String, i64)>> {
    eventually(&format!("{count} tasks of {service} run"), SOON, || {
        let now = node.running(service)?;
        ensure!(now.len() == count, "{now:?}: {}", node.json(&["service", "ps", service])?);
        for (task, pid) in &now {
            Look::of(*pid).with_context(|| format!("task {task}"))?;
        }
        Ok(now)
    })
}

/// No service is left, and nothing of any.
pub fn empty(node: &Node, before: &Snapshot) -> Result<()> {
    eventually("no service is left", SOON, || {
        let left = node.json(&["service", "ls"])?;
        if left.as_array().is_some_and(Vec::is_empty) { Ok(()) } else { bail!("{left}") }
    })?;
    eventually("nothing is left behind", SOON, || before.no_more_than(&Snapshot::take(node)?))
}

fn create(node: &Node, name: &str) -> Result<()> {
    node.ok(&[
        "service",
        "create",
        "--detach",
        "--image",
        "web:1",
        "--replicas",
        "3",
        "--restart-delay",
        "200ms",
        name,
        "look",
    ])
    .map(drop)
}

fn during_creation(victim: Victim) -> Result<()> {
    let mut site = OneNode::new()?;
    create(&site.node, "first")?;
    running(&site.node, "first", 3)?;
    site.node.ok(&["service", "rm", "first"])?;
    let before = settled(&site.node)?;
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let name = format!("made-{round}");
        create(&site.node, &name)?;
        thread::sleep(Duration::from_millis(moment));
        site.node.strike(victim)?;
        let tasks = running(&site.node, &name, 3).with_context(|| format!("{victim:?} after {moment} ms"))?;
        // One container a task, no second one of an earlier attempt.
        let inside = process::all().into_iter().filter(|p| p.words == "/testbox look");
        let group = |p: &process::Process| tasks.iter().any(|(task, _)| p.cgroups.contains(task.as_str()));
        let ours: Vec<_> = inside.filter(group).collect();
        ensure!(ours.len() == 3, "{victim:?} after {moment} ms: {ours:?}");
        site.node.ok(&["service", "rm", "--detach", &name])?;
    }
    empty(&site.node, &before)
}

fn during_removal(victim: Victim) -> Result<()> {
    let mut site = OneNode::new()?;
    create(&site.node, "first")?;
    running(&site.node, "first", 3)?;
    site.node.ok(&["service", "rm", "first"])?;
    let before = settled(&site.node)?;
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        let name = format!("gone-{round}");
        create(&site.node, &name)?;
        running(&site.node, &name, 3)?;
        site.node.ok(&["service", "rm", "--detach", &name])?;
        thread::sleep(Duration::from_millis(moment / 2));
        site.node.strike(victim)?;
        empty(&site.node, &before).with_context(|| format!("{victim:?} after {} ms", moment / 2))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_agent_dies_while_containers_are_made() -> Result<()> {
    during_creation(Victim::Agent)
}

#[test]
#[ignore = "needs root"]
fn containerd_dies_while_containers_are_made() -> Result<()> {
    during_creation(Victim::Containerd)
}

#[test]
#[ignore = "needs root"]
fn shims_die_while_containers_are_made() -> Result<()> {
    during_creation(Victim::Shims)
}

#[test]
#[ignore = "needs root"]
fn the_agent_dies_while_containers_are_stopped() -> Result<()> {
    during_removal(Victim::Agent)
}

#[test]
#[ignore = "needs root"]
fn containerd_dies_while_containers_are_stopped() -> Result<()> {
    during_removal(Victim::Containerd)
}

#[test]
#[ignore = "needs root"]
fn shims_die_while_containers_are_stopped() -> Result<()> {
    during_removal(Victim::Shims)
}

#[test]
#[ignore = "needs root"]
fn a_shim_that_dies_takes_its_container_along_and_a_new_one_comes() -> Result<()> {
    let mut site = OneNode::new()?;
    create(&site.node, "web")?;
    let first = running(&site.node, "web", 3)?;
    site.node.strike(Victim::Shims)?;
    eventually("three others run", SOON, || {
        let now = running(&site.node, "web", 3)?;
        ensure!(now.iter().all(|t| !first.contains(t)), "{now:?}");
        Ok(())
    })?;
    for (task, pid) in first {
        ensure!(process::one(pid as i32).is_none(), "the container of {task} runs on without its shim");
    }
    Ok(())
}
