//! While an image comes from a registry.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use warren_tests::{Cluster, Node, fault::Victim, image::Image, leaks::settled, registry::Registry};

use super::life::{empty, running};

/// Enough that it takes longer than the moments below.
const SIZE: usize = 96 << 20;

fn while_pulling(victim: Victim) -> Result<()> {
    let mut cluster = Cluster::new()?;
    let mut node = Node::start(cluster.host("node")?)?;
    let registry = Registry::start(&node.host, 5000)?;
    let image = Image { cmd: vec!["look".into()], ..Image::web("any") };
    registry.push(&node.host, &image, "small", "1", 0)?;
    let create = |node: &Node, name: &str, repository: &str| {
        let image = format!("{}/{repository}:1", registry.address);
        node.ok(&["service", "create", "--detach", "--image", &image, name])
    };
    create(&node, "warm", "small")?;
    running(&node, "warm", 1)?;
    node.ok(&["service", "rm", "warm"])?;
    let before = settled(&node)?;
    for (round, moment) in [30, 150, 400].into_iter().enumerate() {
        let repository = format!("large{round}");
        // Padding of a length of its own is a layer of its own.
        registry.push(&node.host, &image, &repository, "1", SIZE + round)?;
        create(&node, &repository, &repository)?;
        thread::sleep(Duration::from_millis(moment));
        node.strike(victim)?;
        running(&node, &repository, 1).with_context(|| format!("{victim:?} after {moment} ms"))?;
        node.ok(&["service", "rm", &repository])?;
        node.ok(&["image", "rm", &format!("{}/{repository}:1", registry.address)])?;
    }
    empty(&node, &before)
}

#[test]
#[ignore = "needs root"]
fn the_agent_dies_while_an_image_comes() -> Result<()> {
    while_pulling(Victim::Agent)
}

#[test]
#[ignore = "needs root"]
fn containerd_dies_while_an_image_comes() -> Result<()> {
    while_pulling(Victim::Containerd)
}
