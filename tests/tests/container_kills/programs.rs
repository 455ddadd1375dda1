//! While a program runs inside a container by `warren exec`.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use warren_tests::{Node, eventually, fault::Victim, leaks::settled, process, scenario::OneNode};

use super::life::{SOON, empty, running};

/// The word that tells these processes from all others.
const SECONDS: &str = "86399";

fn inside() -> Vec<process::Process> {
    let words = format!("/testbox sleep {SECONDS}");
    process::all().into_iter().filter(|p| p.words == words).collect()
}

fn exec(node: &Node) -> Result<Command> {
    let mut c = node.command()?;
    c.args(["exec", "web", "/testbox", "sleep", SECONDS]);
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(c)
}

fn while_a_program_runs(victim: Victim) -> Result<()> {
    let mut site = OneNode::new()?;
    let create = ["service", "create", "--image", "web:1", "--restart-delay", "200ms", "web", "look"];
    site.node.ok(&create)?;
    site.node.ok(&["exec", "web", "/testbox", "id"])?;
    site.node.ok(&["service", "rm", "web"])?;
    let before = settled(&site.node)?;
    site.node.ok(&create)?;
    for moment in [0, 20, 60, 500] {
        running(&site.node, "web", 1)?;
        let mut client = exec(&site.node)?.spawn().context("warren exec")?;
        thread::sleep(Duration::from_millis(moment));
        site.node.strike(victim)?;
        if victim != Victim::Containerd {
            // Whoever the client talked to is gone: it ends, and not as if all were well.
            let ended = eventually("the client ends", SOON, || client.try_wait()?.context("it still runs"));
            let _ = client.kill();
            ensure!(!ended?.success(), "{victim:?} after {moment} ms: the client ended well");
        }
        let _ = client.kill();
        client.wait()?;
        running(&site.node, "web", 1)?;
        // A new program can be run; what is left of the others goes with the container at the latest.
        let said = eventually("a program runs", SOON, || site.node.ok(&["exec", "web", "/testbox", "id"]))?;
        ensure!(said.starts_with("uid=0"), "{said}");
    }
    site.node.ok(&["service", "rm", "--detach", "web"])?;
    empty(&site.node, &before)?;
    ensure!(inside().is_empty(), "left running: {:?}", inside());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_agent_dies_while_a_program_runs() -> Result<()> {
    while_a_program_runs(Victim::Agent)
}

#[test]
#[ignore = "needs root"]
fn containerd_dies_while_a_program_runs() -> Result<()> {
    while_a_program_runs(Victim::Containerd)
}

#[test]
#[ignore = "needs root"]
fn shims_die_while_a_program_runs() -> Result<()> {
    while_a_program_runs(Victim::Shims)
}
