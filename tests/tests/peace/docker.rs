//! Docker's engine on the same machine, with its rules.

use anyhow::{Context as _, Result, ensure};
use warren_tests::{bench::docker::Engine, eventually, scenario::OneNode};

use crate::{SOON, talk::Listener, whole};

#[test]
#[ignore = "needs root"]
fn docker_beside() -> Result<()> {
    let site = OneNode::new()?;
    let (node, client) = (&site.node, &site.client);
    let (v4, far) = (node.host.v4, client.v4);
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    whole(&site, "before there is Docker")?;
    let docker = Engine::start(&node.host)?;
    let rules = node.host.ns.run("iptables-save", &[])?;
    ensure!(rules.contains(":FORWARD DROP") && rules.contains("MASQUERADE"), "no rules of Docker's: {rules}");
    whole(&site, "with Docker's rules")?;

    // Each has its own published port, way out, and reaches what the other has published.
    let _far = Listener::on(client, ([0u16; 8], 9200).into(), "far")?;
    docker.run(&["run", "-d", "--name", "theirs", "-p", "8090:80", "web:1"])?;
    let theirs = |path: &str| client.curl(&format!("http://{v4}:8090{path}"));
    let seen = eventually("Docker's port answers", SOON, || theirs("/client"))?;
    ensure!(seen.trim() == client.v4.to_string(), "Docker's container saw {seen}");
    node.host.curl("http://127.0.0.1:8090/")?;
    let ours = |path: &str| site.ask(8080, path);
    let inside = docker.run(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "theirs"])?;
    let inside = inside.trim();
    for (path, what) in [
        (format!("/udp?to={far}:9200"), "goes out"),
        (format!("/ping?to={far}"), "goes out"),
        (format!("/tcp?to={v4}:8080"), "reaches Warren's port"),
        (format!("/tcp?to={inside}:80"), "reaches Docker's container"),
    ] {
        theirs(&path).with_context(|| format!("theirs {what} ({path})"))?;
        ours(&path).with_context(|| format!("ours {what} ({path})"))?;
    }
    theirs(&format!("/tcp?to={v4}:8090"))?;
    // The answers come under an address that this container has never asked: nobody's to let in.
    ensure!(ours(&format!("/tcp?to={v4}:8090")).is_err(), "the docs say that this does not work");
    // Docker's own container is seen with its own address.
    let seen = theirs(&format!("/tcp?to={v4}:8080"))?;
    ensure!(seen.trim().starts_with("198.19.101."), "Warren's container saw {seen}");
    whole(&site, "with a container of Docker's")?;

    // A port of Docker's is refused, and named.
    let refused = node.refused(&["service", "update", "--publish-add", "8090:80", "web"])?;
    ensure!(refused.contains("8090") && refused.contains("docker-proxy"), "{refused}");
    // Docker does not see ours: it takes the port, and Warren goes on answering until it gives it up.
    docker.run(&["run", "-d", "--name", "same", "-p", "8080:80", "web:1"])?;
    whole(&site, "with the same port published by both")?;
    let name = site.ask(8080, "/hostname")?;
    let same = docker.run(&["inspect", "-f", "{{.Config.Hostname}}", "same"])?;
    ensure!(name.trim() != same.trim(), "Docker's container answered");
    node.ok(&["service", "update", "--publish-rm", "8080:80", "--publish-add", "8081:80", "web"])?;
    eventually("Docker's container has the port", SOON, || {
        let name = site.ask(8080, "/hostname")?;
        ensure!(name.trim() == same.trim(), "{name} answered");
        Ok(())
    })?;
    client.curl(&format!("http://{v4}:8081/"))?;

    docker.run(&["rm", "-f", "same", "theirs"])?;
    node.ok(&["service", "update", "--publish-rm", "8081:80", "--publish-add", "8080:80", "web"])?;
    whole(&site, "after Docker's containers")
}
