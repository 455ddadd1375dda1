//! Named volumes of a node.

use std::time::Duration;

use anyhow::{Result, ensure};
use warren_tests::{Node, eventually};

use super::rows::node;

fn run(node: &Node, name: &str, args: &[&str]) -> Result<warren_tests::look::Look> {
    let mount = "type=volume,source=data,target=/data";
    let mut words =
        vec!["service", "create", "--detach", "--image", "look:1", "--mount", mount, name, "look"];
    words.extend(args);
    node.ok(&words)?;
    node.look(name)
}

#[test]
#[ignore = "needs root"]
fn data_survives_the_service() -> Result<()> {
    let (_cluster, node) = node()?;
    node.ok(&["volume", "create", "--label", "kind=test", "data"])?;
    let said = node.refused(&["volume", "create", "a/b"])?;
    ensure!(said.contains("a/b"), "{said}");
    let look = run(&node, "writer", &["write=/data/kept"])?;
    ensure!(look.get("write./data/kept") == Some("ok"), "{look:?}");
    // In use: it stays, and who uses it is named.
    let said = node.refused(&["volume", "rm", "data"])?;
    ensure!(said.contains("data") && said.contains("writer"), "{said}");
    node.ok(&["service", "rm", "writer"])?;
    let look = run(&node, "reader", &["read=/data/kept"])?;
    ensure!(look.get("file./data/kept") == Some("written"), "{look:?}");
    node.ok(&["service", "rm", "reader"])?;

    let listed = node.json(&["volume", "ls"])?.to_string();
    ensure!(listed.contains("data"), "{listed}");
    let inspected = node.json(&["volume", "inspect", "data"])?.to_string();
    ensure!(inspected.contains("kind"), "{inspected}");
    eventually("the volume goes", Duration::from_secs(10), || node.ok(&["volume", "rm", "data"]))?;
    let said = node.refused(&["volume", "inspect", "data"])?;
    ensure!(said.contains("data"), "{said}");
    Ok(())
}
