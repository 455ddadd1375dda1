//! While a container writes numbered lines.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use warren_tests::{Node, eventually, fault::Victim, leaks::settled, look::Look, scenario::OneNode};

use super::life::{SOON, empty};

const LINES: u64 = 12_000;
const RATE: &str = "2000";

fn writer(node: &Node, name: &str) -> Result<()> {
    let lines = LINES.to_string();
    let words = ["service", "create", "--detach", "--image", "web:1", "--restart-condition", "none"];
    node.ok(&[&words[..], &[name, "lines", &lines, RATE]].concat()).map(drop)
}

/// Numbers of each stream, in the order of the log.
fn logged(node: &Node, name: &str, stream: &str) -> Result<Vec<u64>> {
    let ended = node.cli(&["service", "logs", "--stream", stream, name])?;
    ensure!(ended.good(), "{}", ended.stderr);
    // Each stream comes out where it went in.
    let (text, word) = if stream == "stdout" { (ended.stdout, "out ") } else { (ended.stderr, "err ") };
    text.lines()
        .map(|l| {
            let n = l.rsplit_once(word).with_context(|| format!("a line of {stream}: {l:?}"))?.1;
            n.parse().with_context(|| format!("a line of {stream}: {l:?}"))
        })
        .collect()
}

/// What is missing and what is there more than once, shortly.
fn judged(numbers: &[u64], last: u64) -> Result<()> {
    let mut seen = BTreeMap::<u64, u32>::new();
    for n in numbers {
        *seen.entry(*n).or_default() += 1;
    }
    let lost: Vec<u64> = (1..=last).filter(|n| !seen.contains_key(n)).collect();
    let doubled: Vec<u64> = seen.iter().filter(|(_, c)| **c > 1).map(|(n, _)| *n).collect();
    let part = |all: &[u64]| format!("{} ({:?} …)", all.len(), &all[..all.len().min(5)]);
    ensure!(lost.is_empty() && doubled.is_empty(), "lost {}, doubled {}", part(&lost), part(&doubled));
    ensure!(numbers.is_sorted(), "the lines are out of order");
    Ok(())
}

fn while_it_writes(victim: Victim) -> Result<()> {
    let mut site = OneNode::new()?;
    writer(&site.node, "warm")?;
    eventually("it runs", SOON, || site.node.pid("warm"))?;
    site.node.ok(&["service", "rm", "warm"])?;
    let before = settled(&site.node)?;
    writer(&site.node, "writer")?;
    let pid = eventually("it runs", SOON, || site.node.pid("writer"))?;
    for pause in [700, 900, 1300] {
        thread::sleep(Duration::from_millis(pause));
        site.node.strike(victim)?;
    }
    eventually("it has written all", SOON, || {
        let look = Look::of(pid)?;
        ensure!(look.get("written") == Some(LINES.to_string().as_str()), "{look:?}");
        Ok(())
    })?;
    ensure!(site.node.pid("writer")? == pid, "another container runs");
    for stream in ["stdout", "stderr"] {
        eventually("all lines are there", SOON, || judged(&logged(&site.node, "writer", stream)?, LINES))
            .with_context(|| format!("{victim:?}, {stream}"))?;
    }
    site.node.ok(&["service", "rm", "--detach", "writer"])?;
    empty(&site.node, &before)
}

#[test]
#[ignore = "needs root"]
fn the_agent_dies_while_a_container_writes() -> Result<()> {
    while_it_writes(Victim::Agent)
}

#[test]
#[ignore = "needs root"]
fn containerd_dies_while_a_container_writes() -> Result<()> {
    while_it_writes(Victim::Containerd)
}

#[test]
#[ignore = "needs root"]
fn what_was_written_before_the_shim_died_is_there() -> Result<()> {
    let mut site = OneNode::new()?;
    writer(&site.node, "writer")?;
    eventually("it runs", SOON, || site.node.pid("writer"))?;
    thread::sleep(Duration::from_secs(1));
    site.node.strike(Victim::Shims)?;
    eventually("its end is seen", SOON, || {
        let running = site.node.running("writer")?;
        ensure!(running.is_empty(), "{running:?}");
        Ok(())
    })?;
    for stream in ["stdout", "stderr"] {
        let numbers = logged(&site.node, "writer", stream)?;
        let last = numbers.last().copied().context("nothing was logged")?;
        ensure!(last > 500, "only {last} lines of {stream}");
        judged(&numbers, last).with_context(|| stream.to_owned())?;
    }
    Ok(())
}
