//! The figures of a Warren node.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use warren_tests::{
    Cluster, Host, Node,
    bench::measure::{Samples, first_byte},
    image::Image,
    leaks, process, program,
};

/// How long the parts of a start took.
#[derive(Debug, Default)]
pub struct Starts {
    /// From the command to the API, all in all.
    pub ready: Samples,
    /// The same without the time in which only containerd was waited for.
    pub own: Samples,
    /// The control plane.
    pub store: Samples,
    /// The datapath, from the control plane on.
    pub network: Samples,
    /// Containerd, from the control plane on, beside the datapath.
    pub containerd: Samples,
}

impl Starts {
    /// Starts the agent and takes its times, its own from what it logs.
    ///
    /// # Errors
    /// It does not get ready, or does not log the times.
    pub fn add(&mut self, node: &mut Node) -> Result<()> {
        let ready = node.start_agent_timed()?;
        let log = node.log_text();
        let line = log.lines().find(|l| l.contains(" ready ms=")).context("the agent logs its times")?;
        let field = |name: &str| -> Result<Duration> {
            let value = line.split(' ').find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
            Ok(Duration::from_millis(value.with_context(|| format!("{name} in: {line}"))?.parse()?))
        };
        let (store, network, containerd) =
            (field("store_ms")?, field("network_ms")?, field("containerd_ms")?);
        self.ready.add(ready);
        self.own.add(ready.saturating_sub(containerd.saturating_sub(network)));
        self.store.add(store);
        self.network.add(network.saturating_sub(store));
        self.containerd.add(containerd.saturating_sub(store));
        Ok(())
    }

    /// Where the time goes.
    pub fn parts(&self) -> String {
        format!(
            "control plane {}; then side by side the datapath {} and containerd {}",
            self.store.shown(),
            self.network.shown(),
            self.containerd.shown()
        )
    }
}

/// Starts on new data directories, each in a host of its own.
///
/// # Errors
/// A node does not get ready.
pub fn fresh_starts(rounds: u32) -> Result<Starts> {
    let mut starts = Starts::default();
    for _ in 0..rounds {
        let mut cluster = Cluster::new()?;
        cluster.host("client")?;
        let mut node = Node::new(cluster.host("node")?, &[])?;
        starts.add(&mut node)?;
    }
    Ok(starts)
}

/// Restarts of an agent with what it runs, and how long it took to stop each time.
///
/// # Errors
/// It does not stop or get ready.
pub fn restarts(node: &mut Node, rounds: u32) -> Result<(Starts, Samples)> {
    let (mut starts, mut stops) = (Starts::default(), Samples::default());
    for _ in 0..rounds {
        let begun = Instant::now();
        node.stop_agent()?;
        stops.add(begun.elapsed());
        starts.add(node)?;
    }
    Ok((starts, stops))
}

/// A node with the image `web:1`.
///
/// # Errors
/// It does not get ready.
pub fn node(cluster: &mut Cluster) -> Result<Node> {
    let node = Node::start(cluster.host("node")?)?;
    node.import(&Image::web("web:1"))?;
    Ok(node)
}

/// `service create` to the first byte a client gets; the service is removed after.
///
/// # Errors
/// The service does not come up.
pub fn create(node: &Node, client: &Host, port: u16) -> Result<Duration> {
    let name = format!("s{port}");
    let took = up(node, client, &name, port)?;
    node.ok(&["service", "rm", &name])?;
    Ok(took)
}

/// The same, and the service stays.
///
/// # Errors
/// The service does not come up.
pub fn up(node: &Node, client: &Host, name: &str, port: u16) -> Result<Duration> {
    let to = SocketAddr::from((node.host.v4, port));
    let publish = format!("{port}:80");
    first_byte(client, to, || {
        node.ok(&["service", "create", "--image", "web:1", "-p", &publish, name]).map(drop)
    })
}

/// One creation with everything logged: what the agent said until the service ran.
///
/// # Errors
/// The service does not come up.
pub fn logged_create(node: &mut Node, client: &Host, port: u16) -> Result<String> {
    node.stop_agent()?;
    node.set_flags(&["--log-level", "debug,h2=warn,hyper=warn,tower=warn,tonic=warn"]);
    node.start_agent()?;
    let before = node.log_text().lines().count();
    let took = create(node, client, port)?;
    let log = node.log_text();
    node.stop_agent()?;
    node.set_flags(&[]);
    node.start_agent()?;
    let lines: Vec<&str> = log.lines().skip(before).take(60).collect();
    Ok(format!("first byte after {:.3} s; the agent said:\n{}", took.as_secs_f64(), lines.join("\n")))
}

/// Agent, containerd and shims; not the containers.
///
/// # Errors
/// One is missing.
pub fn processes(node: &mut Node) -> Result<Vec<i32>> {
    let mut found = vec![node.agent()?, node.containerd()?];
    let shims = process::in_netns(&node.host.ns.path());
    found.extend(shims.iter().filter(|p| p.name.starts_with("containerd-shim")).map(|p| p.pid));
    Ok(found)
}

/// Memory that maps lock: as `warren net check` says, as `bpftool` says, and map by map.
#[derive(Debug)]
pub struct Maps {
    /// What Warren says.
    pub said: u64,
    /// What `bpftool` says.
    pub bpftool: u64,
    /// The largest ones.
    pub largest: String,
}

/// Asks both.
///
/// # Errors
/// One does not answer.
pub fn maps(node: &Node) -> Result<Maps> {
    let check = node.json(&["net", "check"])?;
    let said = check["map_bytes"].as_u64().context("net check names map_bytes")?;
    let mut bpftool = 0;
    for pin in leaks::pinned_maps(&node.id()?)?.values() {
        let text = program::host("bpftool", &["-j", "map", "show", "pinned", &pin.display().to_string()])?;
        let map: Value = serde_json::from_str(&text)?;
        bpftool += map["bytes_memlock"].as_u64().context("bpftool names bytes_memlock")?;
    }
    let mut by_size: Vec<(u64, String)> = check["maps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|m| Some((m["bytes"].as_u64()?, m["name"].as_str()?.to_owned())))
        .collect();
    by_size.sort();
    let largest = by_size
        .iter()
        .rev()
        .take(8)
        .map(|(bytes, name)| format!("{name} {:.1}", warren_tests::bench::measure::mb(*bytes)))
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Maps { said, bpftool, largest })
}

/// The resident mappings of a process, the largest first, in kB.
///
/// # Errors
/// It is gone.
pub fn mappings(pid: i32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut found: Vec<(u64, String)> = Vec::new();
    let mut name = String::new();
    for line in text.lines() {
        if line.split(' ').next().is_some_and(|w| w.contains('-')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            name = match words.get(5) {
                Some(path) => {
                    format!("{} {}", words[1], Path::new(path).file_name().unwrap_or_default().display())
                }
                None => format!("{} anonymous", words[1]),
            };
        } else if let Some(kb) = line.strip_prefix("Rss:") {
            let kb = kb.trim().trim_end_matches(" kB").parse()?;
            match found.iter_mut().find(|(_, n)| *n == name) {
                Some((sum, _)) => *sum += kb,
                None => found.push((kb, name.clone())),
            }
        }
    }
    found.sort();
    let shown: Vec<String> = found.iter().rev().take(5).map(|(kb, n)| format!("{n} {kb} kB")).collect();
    Ok(shown.join(", "))
}
