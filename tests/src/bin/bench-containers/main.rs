//! `cargo xtask bench containers`, once everything is built: from create to running, output, and
//! memory, beside Docker's engine where that is installed. Rounds alternate. Prints a Markdown table.

mod docker;
mod sides;
mod warren;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use sides::{AT_ONCE, Side, Started};
use warren_tests::{
    Cluster,
    bench::{docker::installed, measure::machine},
    sweep,
};

/// How many containers are started at once.
const COUNTS: [usize; 3] = [1, 20, 100];
/// Containers of the memory figure.
const IDLE: usize = 20;
/// Lines of a hundred bytes, on each stream.
const LINES: u64 = 3_000_000;
const WIDTH: u64 = 100;

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(5);
    match bench(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Figures of one thing, one a round.
#[derive(Debug, Default, Clone)]
struct Figures(Vec<f64>);

impl Figures {
    fn sorted(&self) -> Vec<f64> {
        let mut all = self.0.clone();
        all.sort_by(f64::total_cmp);
        all
    }

    fn shown(&self, unit: &str) -> String {
        let all = self.sorted();
        match all[..] {
            [] => String::new(),
            [one] => format!("{one:.2} {unit}"),
            _ => format!("{:.2} {unit} [{:.2}–{:.2}]", all[all.len() / 2], all[0], all[all.len() - 1]),
        }
    }

    /// Ours to theirs, round by round.
    fn ratio(&self, theirs: &Self) -> Self {
        Self(self.0.iter().zip(&theirs.0).filter(|(_, t)| **t > 0.0).map(|(o, t)| o / t).collect())
    }
}

#[derive(Clone)]
struct Row {
    what: String,
    unit: &'static str,
    warren: Figures,
    docker: Figures,
}

fn bench(rounds: usize) -> Result<()> {
    sweep::once();
    println!("machine: {}", machine()?);
    let mut cluster = Cluster::new()?;
    let mut docker = None;
    if installed() {
        docker = Some(docker::Docker::start(cluster.host("docker")?)?);
    } else {
        println!("Docker's engine is not installed (/usr/sbin/dockerd): nothing to compare with");
    }
    let mut warren = warren::Warren::start(cluster.host("node")?)?;
    let mut rows = Vec::new();

    // One part only: `start`, `output` or `memory`.
    let only = std::env::args().nth(2);
    let wanted = |part: &str| only.as_deref().is_none_or(|o| o == part);
    for count in COUNTS.into_iter().filter(|_| wanted("start")) {
        // They take Docker half a minute, one after the other.
        let rounds = if count > 20 { rounds.min(3) } else { rounds };
        let row = |what: &str| Row {
            what: format!("{count} × {what}"),
            unit: "s",
            warren: Figures::default(),
            docker: Figures::default(),
        };
        let mut running = row("create to running (Docker: `docker run -d` side by side)");
        let mut command = row("the whole command (Docker: `docker run -d` one after the other)");
        let mut bare = row("`ctr run -d` likewise, in Warren's containerd, for comparison");
        for round in 0..rounds {
            say(&format!("{count} containers, round {} of {rounds}", round + 1));
            let Started { running: seen, command: whole } = warren.start_many(count)?;
            warren.remove_all()?;
            running.warren.0.push(seen);
            command.warren.0.push(whole);
            bare.warren.0.push(warren.bare(count)?);
            if let Some(docker) = &mut docker {
                if count <= AT_ONCE {
                    let Started { running: seen, .. } = docker.start_many(count)?;
                    docker.remove_all()?;
                    running.docker.0.push(seen);
                }
                command.docker.0.push(docker.one_by_one(count)?);
                docker.remove_all()?;
            }
        }
        print(&[running.clone(), command.clone(), bare.clone()], docker.is_some());
        rows.extend([running, command, bare]);
    }

    let outputs = if wanted("output") { rounds } else { 0 };
    for (what, unit) in [
        (format!("output, lines of {WIDTH} bytes on two streams: lines"), "lines/s"),
        ("… bytes".to_owned(), "MB/s"),
        ("… processor time of all but the container".to_owned(), "ms/MB"),
        ("… of the machine, the container's own too".to_owned(), "ms/MB"),
    ] {
        rows.push(Row { what, unit, warren: Figures::default(), docker: Figures::default() });
    }
    let first = rows.len() - 4;
    for round in 0..outputs {
        say(&format!("output, round {} of {rounds}", round + 1));
        let one = |side: &mut dyn Side| -> Result<[f64; 4]> {
            let o = side.output(LINES, WIDTH)?;
            side.remove_all()?;
            ensure!(o.seconds > 0.5, "{LINES} lines are too few to measure");
            let megabytes = (2 * LINES * WIDTH) as f64 / f64::from(1 << 20);
            Ok([
                2.0 * LINES as f64 / o.seconds,
                megabytes / o.seconds,
                o.keepers * 1000.0 / megabytes,
                o.machine * 1000.0 / megabytes,
            ])
        };
        for (n, f) in one(&mut warren)?.into_iter().enumerate() {
            rows[first + n].warren.0.push(f);
        }
        if let Some(docker) = &mut docker {
            for (n, f) in one(docker)?.into_iter().enumerate() {
                rows[first + n].docker.0.push(f);
            }
        }
    }

    if !wanted("memory") {
        print(&rows, docker.is_some());
        return Ok(());
    }
    say(&format!("memory of {IDLE} idle containers"));
    let mut memory = |what: &str, f: fn(&mut dyn Side, usize) -> Result<f64>| -> Result<Row> {
        let docker = match &mut docker {
            Some(docker) => vec![f(docker, IDLE)?],
            None => vec![],
        };
        let (what, unit) = (what.to_owned(), "MB");
        Ok(Row { what, unit, warren: Figures(vec![f(&mut warren, IDLE)?]), docker: Figures(docker) })
    };
    rows.push(memory("memory per running container: growth of the Pss of all but the container", |s, n| {
        s.memory(n)
    })?);
    print(&rows, docker.is_some());
    Ok(())
}

fn print(rows: &[Row], with_docker: bool) {
    println!("\n| | Warren | Docker | Warren / Docker |\n| --- | --- | --- | --- |");
    for r in rows {
        let ratio = if with_docker { r.warren.ratio(&r.docker).shown("") } else { String::new() };
        println!(
            "| {} | {} | {} | {} |",
            r.what,
            r.warren.shown(r.unit),
            r.docker.shown(r.unit),
            ratio.trim()
        );
    }
}

fn say(text: &str) {
    eprintln!("==> {text}");
}
