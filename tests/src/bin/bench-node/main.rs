//! `cargo xtask bench node`, once everything is built: what a node costs, beside Docker's engine
//! where that is installed. Prints a Markdown table.

mod warren;

use std::{fs, net::SocketAddr, process::ExitCode, thread, time::Duration};

use anyhow::{Context, Result};
use warren_tests::{
    Cluster, Host, Node,
    bench::{
        docker::{self, Docker},
        measure::{Cost, Memory, Samples, first_byte, idle, machine, mb},
    },
    node, process, sweep,
};

/// How long idle processes are watched.
const IDLE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10);
    match bench(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// What was measured against what is wanted.
struct Row {
    what: &'static str,
    figure: String,
    /// Less than this, and whether it was.
    target: Option<(&'static str, bool)>,
    docker: String,
}

/// What is printed.
#[derive(Default)]
struct Report {
    rows: Vec<Row>,
    /// What was missed, and where it goes.
    notes: Vec<String>,
}

impl Report {
    fn row(&mut self, what: &'static str, figure: String) {
        self.rows.push(Row { what, figure, target: None, docker: String::new() });
    }

    fn target(
        &mut self,
        what: &'static str,
        figure: String,
        target: &'static str,
        met: bool,
        goes: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        self.rows.push(Row { what, figure, target: Some((target, met)), docker: String::new() });
        if !met {
            self.notes.push(format!("{what}: {}", goes()?));
        }
        Ok(())
    }

    fn docker(&mut self, what: &'static str, figure: String) {
        match self.rows.iter_mut().find(|r| r.what == what) {
            Some(row) => row.docker = figure,
            None => self.rows.push(Row { what, figure: String::new(), target: None, docker: figure }),
        }
    }

    fn print(&self, with_docker: bool) {
        let end = |docker: &str| if with_docker { format!(" {docker} |") } else { String::new() };
        println!("\n| | Warren | target | |{}", end("Docker"));
        println!("| --- | --- | --- | --- |{}", end("---"));
        for r in &self.rows {
            let (target, met) = match r.target {
                Some((target, true)) => (target, "met"),
                Some((target, false)) => (target, "missed"),
                None => ("", ""),
            };
            println!("| {} | {} | {target} | {met} |{}", r.what, r.figure, end(&r.docker));
        }
        if !self.notes.is_empty() {
            println!("\nWhere what was missed goes:");
            for note in &self.notes {
                println!("- {note}");
            }
        }
    }
}

const API: &str = "`node start`, new data, to API ready, containerd apart";
const AGAIN: &str = "`node start`, one service running, to API ready";
const FIRST: &str = "create (image present) to first byte";
const AGENT: &str = "idle: RSS of the agent";
const ALL: &str = "idle: RSS of all processes, one container";
const CPU: &str = "idle: CPU of all processes";

fn bench(rounds: u32) -> Result<()> {
    sweep::once();
    println!("machine: {}", machine()?);
    let mut report = Report::default();

    say(&format!("{rounds} starts on new data"));
    let fresh = warren::fresh_starts(rounds)?;
    let own = fresh.own.median();
    report.target(API, fresh.own.shown(), "< 0.5 s", own < HALF, || Ok(fresh.parts()))?;
    report.row("the same with containerd's own start", fresh.ready.shown());

    let mut cluster = Cluster::new()?;
    let client = cluster.host("client")?;
    let docker = match docker::installed() {
        true => Some(Docker::start(cluster.host("docker")?)?),
        false => {
            println!("Docker's engine is not installed (/usr/sbin/dockerd): nothing to compare with");
            None
        }
    };
    let mut node = warren::node(&mut cluster)?;

    say(&format!("{rounds} creations"));
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for n in 0..u16::try_from(rounds)? {
        ours.add(warren::create(&node, &client, 8000 + n)?);
        if let Some(docker) = &docker {
            theirs.add(docker_run(docker, &client, 8000 + n)?);
        }
    }
    let met = ours.median() < HALF;
    report.target(FIRST, ours.shown(), "< 0.5 s", met, || warren::logged_create(&mut node, &client, 7999))?;

    warren::up(&node, &client, "idle", 9000)?;
    say(&format!("{rounds} restarts"));
    let (again, stops) = warren::restarts(&mut node, rounds)?;
    report.target(
        AGAIN,
        again.ready.shown(),
        "< 0.5 s",
        again.ready.median() < HALF,
        || Ok(again.parts()),
    )?;
    report.row("SIGTERM to the agent's end", stops.shown());

    say("doing nothing");
    idle_rows(&mut report, &mut node, docker.as_ref(), &client)?;
    let maps = warren::maps(&node)?;
    report.target(
        "memory that maps lock",
        format!("{:.1} MB (bpftool: {:.1} MB)", mb(maps.said), mb(maps.bpftool)),
        "< 35 MB",
        mb(maps.said.max(maps.bpftool)) < 35.0,
        || Ok(format!("in MB: {}", maps.largest)),
    )?;
    let size = fs::metadata(node::warren()?)?.len();
    let figure = format!("{:.1} MB", mb(size));
    report.target("stripped binary", figure, "< 35 MB", mb(size) < 35.0, || {
        Ok("`cargo bloat --release -p warren --crates` tells".into())
    })?;
    if docker.is_some() {
        report.docker(FIRST, theirs.shown());
    }
    report.print(docker.is_some());
    node.ok(&["service", "rm", "idle"])?;
    Ok(())
}

const HALF: Duration = Duration::from_millis(500);

fn idle_rows(report: &mut Report, node: &mut Node, docker: Option<&Docker>, client: &Host) -> Result<()> {
    // What a start and a creation still do in the background is not idleness.
    thread::sleep(Duration::from_secs(3));
    let pids = warren::processes(node)?;
    let costs = idle(&pids, IDLE)?;
    let of = |name: &str| costs.iter().find(|(n, _)| n == name).map(|(_, c)| *c).unwrap_or_default();
    report.row(AGENT, memory(&of("warren")));
    report.row("… of containerd", memory(&of("containerd")));
    report.row("… of the shim of a container", memory(&of("containerd-shim")));
    let all = of("all");
    report.target(ALL, memory(&all), "< 40 MB", mb(all.memory.rss) < 40.0, || resident(&pids))?;
    let cpu: Vec<String> = costs.iter().map(|(n, c)| format!("{n} {:.2} %", c.cpu.all())).collect();
    report.target(CPU, format!("{} of one CPU", cpu.join(", ")), "< 0.5 %", all.cpu.all() < 0.5, || {
        Ok(costs.iter().map(|(n, c)| spent(n, c)).collect::<Vec<_>>().join("; "))
    })?;
    if let Some(docker) = docker {
        docker_run_and_keep(docker, client, 9000)?;
        thread::sleep(Duration::from_secs(3));
        let costs = idle(&docker.processes(), IDLE)?;
        let cpu: Vec<String> = costs.iter().map(|(n, c)| format!("{n} {:.2} %", c.cpu.all())).collect();
        report.docker(CPU, cpu.join(", "));
        for (name, cost) in &costs {
            let what = match name.as_str() {
                "all" => ALL,
                "containerd" => "… of containerd",
                "containerd-shim" => "… of the shim of a container",
                "dockerd" => AGENT,
                _ => "… of the proxies of a port",
            };
            report.docker(what, memory(cost));
        }
    }
    Ok(())
}

fn memory(c: &Cost) -> String {
    let m = c.memory;
    format!("{:.1} MB (Pss {:.1}, anonymous {:.1})", mb(m.rss), mb(m.pss), mb(m.anonymous))
}

/// What is resident, process by process: its own, and of which files.
fn resident(pids: &[i32]) -> Result<String> {
    let mut each = Vec::new();
    for pid in pids {
        let (name, m) = (process::one(*pid).context("a process has ended")?.name, Memory::of(*pid)?);
        let (own, files) = (mb(m.anonymous), mb(m.rss - m.anonymous));
        each.push(format!(
            "{name} {own:.1} MB anonymous and {files:.1} MB of files ({})",
            warren::mappings(*pid)?
        ));
    }
    Ok(format!("{}. Pages of files, programs for the most part, go when memory runs short", each.join("; ")))
}

/// Where processor time goes.
fn spent(name: &str, c: &Cost) -> String {
    let cpu = c.cpu;
    format!(
        "{name} {:.2} % user, {:.2} % system, woken {:.1} times a second",
        cpu.user, cpu.system, cpu.wakes
    )
}

fn docker_run(docker: &Docker, client: &Host, port: u16) -> Result<Duration> {
    let took = docker_run_and_keep(docker, client, port)?;
    docker.run(&["rm", "-f", &format!("c{port}")])?;
    Ok(took)
}

fn docker_run_and_keep(docker: &Docker, client: &Host, port: u16) -> Result<Duration> {
    let (name, publish) = (format!("c{port}"), format!("{port}:80"));
    first_byte(client, SocketAddr::from((docker.host.v4, port)), || {
        docker.run(&["run", "-d", "--name", &name, "-p", &publish, "web:1"]).map(drop)
    })
}

fn say(text: &str) {
    eprintln!("==> {text}");
}
