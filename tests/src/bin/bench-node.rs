//! `cargo xtask bench node`, once everything is built: what a node costs, and how long the user
//! waits. Numbers of this machine, beside the targets; nothing here fails because it is slow.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use warren_tests::{Cluster, Host, Node, image::Image, leaks, node::warren, process, program, sweep};

const ROUNDS: usize = 7;
/// How long idleness is watched. Processor time comes in ticks of 10 ms.
const IDLE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    sweep::once();
    let mut cluster = Cluster::new()?;
    let client = cluster.host("client")?;
    let mut node = Node::new(cluster.host("node")?, &[])?;

    let first = timed(|| node.start_agent())?;
    let containerd = containerd_start(&node)?;
    let mut again = Vec::new();
    for _ in 0..ROUNDS {
        node.stop_agent()?;
        again.push(timed(|| node.start_agent())?);
    }
    line("node start to API ready, first start (containerd's start included)", &ms(first), "");
    line("    of it until containerd's process ran", &containerd, "");
    line("node start to API ready, containerd adopted", &spread(&mut again), "< 500 ms");

    node.import(&Image::web("web:1"))?;
    let (mut bytes, mut whole) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let port = 8000 + u16::try_from(round)?;
        let (first_byte, command) = create(&node, &client, port)?;
        bytes.push(first_byte);
        whole.push(command);
        node.ok(&["service", "rm", "web"])?;
    }
    line("service create (image present) to first byte", &spread(&mut bytes), "< 500 ms");
    line("service create until the command ends", &spread(&mut whole), "");

    let agent = node.agent()?;
    let daemon = node.containerd()?;
    thread::sleep(Duration::from_secs(2));
    let before = (ticks(agent)?, ticks(daemon)?);
    thread::sleep(IDLE);
    let after = (ticks(agent)?, ticks(daemon)?);
    let percent = |n: u64| n as f64 * 10.0 / IDLE.as_millis() as f64 * 100.0;
    let (warren_rss, containerd_rss) = (rss(agent)?, rss(daemon)?);
    line("idle memory (RSS) of the agent", &mib(warren_rss), "< 40 MB");
    line("    of its containerd", &mib(containerd_rss), "");
    line("idle processor time of the agent", &format!("{:.2} %", percent(after.0 - before.0)), "< 0.5 %");
    line("    of its containerd", &format!("{:.2} %", percent(after.1 - before.1)), "");

    let mut locked = 0;
    for pin in leaks::pinned_maps(&node.id()?)?.values() {
        let text = program::host("bpftool", &["-j", "map", "show", "pinned", &pin.display().to_string()])?;
        let map: Value = serde_json::from_str(&text)?;
        locked += map["bytes_memlock"].as_u64().unwrap_or(0);
    }
    line("memory locked by maps", &mib(locked), "");
    line("size of the binary", &mib(fs::metadata(warren()?)?.len()), "< 35 MB, stripped");
    Ok(())
}

/// Creates a service; the time to its first answer, and until the command ended.
fn create(node: &Node, client: &Host, port: u16) -> Result<(Duration, Duration)> {
    let to = SocketAddr::from((node.host.v4, port));
    let published = format!("{port}:80");
    let words = ["service", "create", "--image", "web:1", "-p", &published, "web"];
    thread::scope(|scope| {
        let begin = Instant::now();
        let command = scope.spawn(move || node.ok(&words).map(|_| begin.elapsed()));
        let answered = client.ns.enter(|| first_byte(to, begin))?;
        let command = command.join().map_err(|_| anyhow::anyhow!("the command panicked"))??;
        Ok((answered.context("no answer within 10 s")?, command))
    })
}

fn first_byte(to: SocketAddr, begin: Instant) -> Option<Duration> {
    while begin.elapsed() < Duration::from_secs(10) {
        if let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_millis(200))
            && stream.set_read_timeout(Some(Duration::from_millis(500))).is_ok()
            && stream.write_all(b"GET /client HTTP/1.1\r\nconnection: close\r\n\r\n").is_ok()
            && stream.read(&mut [0; 16]).is_ok_and(|n| n > 0)
        {
            return Some(begin.elapsed());
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// How long after the agent its containerd was started, from the times of the two processes.
fn containerd_start(node: &Node) -> Result<String> {
    let daemon = node.containerd()?;
    let parent = process::one(daemon).context("containerd is gone")?.parent;
    let (agent, daemon) = (field(parent, 19)?, field(daemon, 19)?);
    Ok(format!("{} ms", daemon.saturating_sub(agent) * 10))
}

/// User and system time, in ticks of 10 ms.
fn ticks(pid: i32) -> Result<u64> {
    Ok(field(pid, 11)? + field(pid, 12)?)
}

/// A number of `/proc/PID/stat`, counted from the state as 0.
fn field(pid: i32, n: usize) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, tail) = stat.rsplit_once(") ").context("stat has a name")?;
    Ok(tail.split(' ').nth(n).context("stat is short")?.parse()?)
}

fn rss(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(kib.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn timed(f: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    f()?;
    Ok(begin.elapsed())
}

fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    match &*times {
        [] => "-".into(),
        [least, .., most] => format!("{} [{} to {}]", ms(times[times.len() / 2]), ms(*least), ms(*most)),
        [one] => ms(*one),
    }
}

fn ms(d: Duration) -> String {
    format!("{} ms", d.as_millis())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn line(what: &str, found: &str, target: &str) {
    let target = if target.is_empty() { String::new() } else { format!("target {target}") };
    println!("{what:<72} {found:>28}  {target}");
}
