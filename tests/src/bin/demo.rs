//! `cargo xtask demo`, once everything is built: a node in a network namespace of its own, a
//! service of two replicas, a client in another namespace; then what the CLI and `bpftool` show.

use std::{mem, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use warren_tests::{Cluster, Host, Node, eventually, image, leaks, node::warren, scenario::field, sweep};

fn main() -> ExitCode {
    let keep = std::env::args().any(|a| a == "--keep");
    match show(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(keep: bool) -> Result<()> {
    sweep::once();
    say("a switch, a client and a node: network namespaces, nothing of this machine's network");
    let mut cluster = Cluster::new()?;
    let client = cluster.host("client")?;
    let mut node = Node::new(cluster.host("node")?, &[])?;
    println!("    client {}, node {}", client.v4, node.host.v4);

    say("the node");
    println!(
        "    $ warren node start --data-dir {} --socket {} …",
        node.data_dir().display(),
        node.socket().display()
    );
    node.start_agent()?;
    println!("    {}", node.log_text().lines().find(|l| l.contains("ready:")).unwrap_or_default());

    say("an image, made here: one static binary and two text files");
    let file = node.dir().join("web.tar");
    image::write_oci(&image::Image::web("demo:1"), &file)?;
    command(&node, &["image", "import", &file.display().to_string()])?;

    say("a service of two replicas");
    command(&node, &["service", "create", "--image", "demo:1", "--replicas", "2", "-p", "8080:80", "web"])?;

    say("the client asks it");
    let url = format!("http://{}:8080/", node.host.v4);
    println!("    $ curl {url}");
    print!("{}", indented(&client.curl(&url)?));
    both_answer(&client, &url)?;
    println!("    (and again: both replicas answer; each saw the client's own address)");

    say("what Warren shows");
    for words in [&["service", "ls"][..], &["service", "ps", "web"], &["net", "ls"], &["net", "flows"]] {
        command(&node, words)?;
    }

    say("what the kernel shows");
    let maps = leaks::pinned_maps(&node.id()?)?;
    let pin = maps.get("SVC4").context("the map of published ports is not pinned")?.display().to_string();
    println!("    $ bpftool map dump pinned {pin}");
    print!("{}", indented(&node.host.ns.run("bpftool", &["map", "dump", "pinned", &pin])?));
    println!("    $ nft list ruleset");
    let rules = node.host.ns.run("nft", &["list", "ruleset"])?;
    println!("    {}", if rules.trim().is_empty() { "(no rule)" } else { rules.trim() });

    if keep {
        say("kept; look around, for example:");
        println!("    export WARREN_SOCKET={}", node.socket().display());
        println!("    {} service ls", warren()?.display());
        println!("    nsenter --net={} curl {url}", client.ns.path().display());
        println!("    the next `cargo xtask demo` or `cargo xtask test` removes it");
        mem::forget((node, client, cluster));
        return Ok(());
    }
    say("and away with it");
    command(&node, &["service", "rm", "web"])?;
    Ok(())
}

/// Asks until both replicas have answered.
fn both_answer(client: &Host, url: &str) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    eventually("both replicas answer", Duration::from_secs(10), || {
        let answer = client.curl(url)?;
        seen.insert(field(&answer, "host")?.to_owned());
        let saw = field(&answer, "client")?;
        anyhow::ensure!(saw.starts_with(&format!("{}:", client.v4)), "the container saw {saw}");
        anyhow::ensure!(seen.len() == 2, "only {seen:?}");
        Ok(())
    })
}

fn command(node: &Node, words: &[&str]) -> Result<()> {
    println!("    $ warren {}", words.join(" "));
    let ended = node.cli(words)?;
    print!("{}", indented(&ended.stderr));
    print!("{}", indented(&ended.ok().with_context(|| node.log_tail())?));
    Ok(())
}

fn say(text: &str) {
    println!("==> {text}");
}

fn indented(text: &str) -> String {
    text.lines().map(|l| format!("      {l}\n")).collect()
}
