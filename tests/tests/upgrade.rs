//! The binary is replaced under running services.

use std::{env, fs, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use warren_tests::{eventually, load::Load, node::warren, scenario::OneNode};

/// Stops the agent, puts another binary in its place, starts it, under load; and back. That is under load, too,
/// unless the other one has `flows` that the usual one cannot read.
fn replace(binary: &std::path::Path, flows: bool) -> Result<()> {
    let mut site = OneNode::new()?;
    site.create("web", &["--replicas", "3", "-p", "8080:80"], &[])?;
    site.create("echo", &["-p", "7000:7"], &["tcp-echo"])?;
    let before = (site.node.running("web")?, site.node.running("echo")?);
    let to = |port: u16| format!("{}:{port}", site.node.host.v4);
    let seconds = if flows { 20 } else { 40 };
    let mut connections = Load::connections(&site.client, &to(8080), 500, seconds)?;
    let stream = Load::stream(&site.client, &to(7000), 200, seconds)?;
    thread::sleep(Duration::from_secs(1));

    site.node.stop_agent()?;
    site.node.set_binary(binary.to_owned());
    site.node.start_agent()?;
    eventually("the same containers", Duration::from_secs(10), || {
        let now = (site.node.running("web")?, site.node.running("echo")?);
        if now == before { Ok(()) } else { bail!("{before:?} became {now:?}") }
    })?;
    // It is in charge: what is made now works.
    site.create("after", &["-p", "8082:80"], &[])?;
    site.ask(8082, "/")?;
    // And back, as an operator does who regrets.
    let back = |site: &mut OneNode| -> Result<()> {
        site.node.stop_agent()?;
        site.node.set_binary(warren()?);
        site.node.start_agent()?;
        site.create("later", &["-p", "8083:80"], &[])?;
        site.ask(8083, "/")?;
        site.ask(8082, "/").map(drop)
    };
    if !flows {
        back(&mut site)?;
    }
    ensure!(connections.running()?, "the load ended before the last change did");
    let (connections, stream) = (connections.finish()?, stream.finish()?);
    ensure!(connections["failed"] == 0, "new connections: {connections}");
    ensure!(stream["error"] == "" && stream["received"] == stream["sent"], "the stream: {stream}");
    if flows {
        back(&mut site)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_same_version_rebuilt_takes_over() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("wtx-").tempdir()?;
    let copy = dir.path().join("warren");
    fs::copy(warren()?, &copy)?;
    replace(&copy, false)
}

#[test]
#[ignore = "needs root"]
fn a_version_with_another_map_abi_takes_over_and_hands_back() -> Result<()> {
    let other = env::var_os("WARREN_BIN_OTHER_ABI")
        .context("WARREN_BIN_OTHER_ABI names no binary: run these tests by `cargo xtask test`")?;
    replace(other.as_ref(), true)
}
