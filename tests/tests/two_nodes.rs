//! Two nodes that know nothing of each other, on one kernel.

use anyhow::{Result, ensure};
use warren_tests::{Cluster, Node, image::Image};

#[test]
#[ignore = "needs root"]
fn two_nodes_on_one_kernel_never_touch_each_other() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let client = cluster.host("client")?;
    let one = Node::start(cluster.host("one")?)?;
    let two = Node::start(cluster.host("two")?)?;
    for (node, mark) in [(&one, "WHERE=one"), (&two, "WHERE=two")] {
        node.import(&Image::web("web:1"))?;
        // Same name, same port, same pool: nothing of it is shared.
        let words =
            ["service", "create", "--image", "web:1", "-p", "8080:80", "--replicas", "2", "--env", mark];
        node.ok(&[&words[..], &["web"]].concat())?;
    }
    let answers = |node: &Node, mark: &str| -> Result<()> {
        for _ in 0..20 {
            let env = client.curl(&format!("http://{}:8080/env", node.host.v4))?;
            ensure!(env.lines().any(|l| l == mark), "not {mark}: {env}");
        }
        Ok(())
    };
    answers(&one, "WHERE=one")?;
    answers(&two, "WHERE=two")?;
    ensure!(one.id()? != two.id()?);
    ensure!(one.containerd()? != two.containerd()?);

    let before = two.running("web")?;
    ensure!(before.iter().all(|t| !one.running("web").unwrap_or_default().contains(t)));
    one.ok(&["service", "rm", "web"])?;
    answers(&two, "WHERE=two")?;
    ensure!(two.running("web")? == before);
    // The whole first node goes, with `node reset`.
    drop(one);
    answers(&two, "WHERE=two")?;
    ensure!(two.running("web")? == before, "the reset of one node reached into the other");
    Ok(())
}
