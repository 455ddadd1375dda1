//! Two nodes that know nothing of each other, on one kernel.

use anyhow::{Result, ensure};
use warren_tests::{Cluster, Node, image::Image, scenario::field};

#[test]
#[ignore = "needs root"]
fn two_nodes_on_one_kernel_never_touch_each_other() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let client = cluster.host("client")?;
    let one = Node::start(cluster.host("one")?)?;
    let two = Node::start(cluster.host("two")?)?;
    for node in [&one, &two] {
        node.import(&Image::web("web:1"))?;
        // Same name, same port, same pool: nothing of it is shared.
        node.ok(&["service", "create", "--image", "web:1", "-p", "8080:80", "--replicas", "2", "web"])?;
    }
    let ask = |node: &Node| client.curl(&format!("http://{}:8080/", node.host.v4));
    let hosts = |node: &Node| -> Result<Vec<String>> {
        let mut seen = Vec::new();
        for _ in 0..20 {
            seen.push(field(&ask(node)?, "host")?.to_owned());
        }
        seen.sort();
        seen.dedup();
        Ok(seen)
    };
    let (of_one, of_two) = (hosts(&one)?, hosts(&two)?);
    ensure!(of_one.iter().all(|h| !of_two.contains(h)), "shared: {of_one:?}, {of_two:?}");
    ensure!(one.id()? != two.id()?);
    ensure!(one.containerd()? != two.containerd()?);

    let before = two.running("web")?;
    ensure!(before.iter().all(|t| !one.running("web").unwrap_or_default().contains(t)));
    one.ok(&["service", "rm", "web"])?;
    hosts(&two)?;
    ensure!(two.running("web")? == before);
    // The whole first node goes, with `node reset`.
    drop(one);
    hosts(&two)?;
    ensure!(two.running("web")? == before, "the reset of one node reached into the other");
    Ok(())
}
