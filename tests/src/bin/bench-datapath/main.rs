//! `cargo xtask bench datapath`, once everything is built: what a packet's way through a node costs,
//! beside the ways that others take. All ways stand side by side on one switch; each round goes
//! through all of them, in another order each time, and twice through the limit, so that the noise
//! stands beside every figure.

mod plot;
mod publish;
mod results;
mod rewrite;
mod rules;
mod sides;

use std::{collections::BTreeMap, fs, net::IpAddr, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use results::{SECOND, Table, index, spread};
use serde_json::Value;
use sides::{FIRST, Kind, Side};
use warren_tests::{Cluster, Host, bench::measure::machine, image, program, sweep};

/// Where among them the client asks.
const POSITIONS: [&str; 3] = ["first", "random", "last"];

/// What was asked for.
struct Asked {
    rounds: usize,
    /// Seconds of one measure.
    seconds: f64,
    /// The limit first.
    ways: Vec<Kind>,
    /// How many ports are published.
    ports: Vec<u16>,
    svg: Option<String>,
}

fn main() -> ExitCode {
    match asked().and_then(|a| bench(&a)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn asked() -> Result<Asked> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, seconds, ways, ports, svg @ ..] = &words[..] else {
        bail!("bench-datapath ROUNDS SECONDS WAYS PORTS [SVG]")
    };
    let asked: Vec<&str> = ways.split(',').collect();
    let is_asked = |kind: &Kind| *kind == Kind::Direct || asked.contains(&kind.word());
    Ok(Asked {
        rounds: rounds.parse()?,
        seconds: seconds.parse()?,
        ways: Kind::ALL.into_iter().filter(is_asked).collect(),
        ports: ports.split(',').map(str::parse).collect::<Result<_, _>>()?,
        svg: svg.first().cloned(),
    })
}

/// By measure.
type Tables = BTreeMap<String, Table>;

fn bench(asked: &Asked) -> Result<()> {
    sweep::once();
    println!("machine: {}", machine()?);
    println!(
        "{} rounds of {} s a measure; every figure is `median [least–most]` of the rounds, every ratio of the two \
         runs of one round. \"≈\": within the noise, where nothing is claimed. Client and server have a processor \
         each where there are two, and share them with the forwarding.",
        asked.rounds, asked.seconds
    );
    let mut lines: BTreeMap<usize, Vec<(u16, [f64; 3])>> = BTreeMap::new();
    for &ports in &asked.ports {
        let mut cluster = Cluster::new()?;
        let client = cluster.host("client")?;
        let mut all = Vec::new();
        for (number, &kind) in (1u8..).zip(&asked.ways) {
            if let Some(why) = sides::missing(kind, ports.into())? {
                println!("\n{} with {ports} ports: not measured, {why}", kind.name());
                continue;
            }
            say(&format!("{}, {ports} ports", kind.name()));
            all.push(Side::new(kind, &mut cluster, &client, number, ports)?);
        }
        if ports == 1 {
            let tables = rounds(asked, &client, &mut all, (FIRST, FIRST), "cps,rps,bulk,udp,urr")?;
            for text in one_port(&tables) {
                print!("{text}");
            }
            remember(&mut lines, ports, &tables, &[0, 1, 2]);
        } else {
            let last = FIRST + (ports - 1);
            for (n, range) in [(FIRST, FIRST), (FIRST, last), (last, last)].into_iter().enumerate() {
                let tables = rounds(asked, &client, &mut all, range, "cps,rps")?;
                let title = |what| format!("{what}, {ports} published ports, {} of them", POSITIONS[n]);
                print!("{}", shown(&tables, "cps", &title("New connections"), "a second", 0));
                print!("{}", shown(&tables, "rps", &title("Requests over 32 connections"), "a second", 0));
                remember(&mut lines, ports, &tables, &[n]);
            }
        }
        publishing(asked, &client, &all, ports)?;
    }
    if let Some(file) = &asked.svg {
        let line = |kind: Kind| {
            let points = lines.get(&index(kind)).cloned().unwrap_or_default();
            plot::Line { name: kind.name(), points }
        };
        let lines: Vec<plot::Line> = Kind::ALL.into_iter().map(line).collect();
        fs::write(file, plot::svg(&lines)).with_context(|| file.clone())?;
        println!("\n{file} is written");
    }
    Ok(())
}

/// Notes what the plot needs.
fn remember(
    lines: &mut BTreeMap<usize, Vec<(u16, [f64; 3])>>,
    ports: u16,
    tables: &Tables,
    positions: &[usize],
) {
    let Some(table) = tables.get("cps") else { return };
    for kind in Kind::ALL {
        let Some(median) = table.median(kind) else { continue };
        let points = lines.entry(index(kind)).or_default();
        if points.last().is_none_or(|(n, _)| *n != ports) {
            points.push((ports, [0.0; 3]));
        }
        for n in positions {
            points.last_mut().expect("just pushed").1[*n] = median;
        }
    }
}

/// Goes through all ways so many times.
fn rounds(
    asked: &Asked,
    client: &Host,
    all: &mut [Side],
    ports: (u16, u16),
    measures: &str,
) -> Result<Tables> {
    let mut tables = Tables::new();
    for round in 0..asked.rounds {
        say(&format!("{measures}, ports {}–{}, round {} of {}", ports.0, ports.1, round + 1, asked.rounds));
        // The limit is all[0]: once in its place, once half-way round.
        let mut order: Vec<(usize, bool)> = (0..all.len()).map(|n| (n, false)).collect();
        order.insert(all.len() / 2 + 1, (0, true));
        let by = round % order.len();
        order.rotate_left(by);
        if round % 2 == 1 {
            order.reverse();
        }
        for (n, second) in order {
            all[n].alive()?;
            let kind = all[n].kind;
            let row = if second { SECOND } else { index(kind) };
            for found in load(asked, client, &all[n], ports, measures)? {
                enter(&mut tables, row, &found)?;
            }
        }
    }
    Ok(tables)
}

/// One run of the client.
fn load(
    asked: &Asked,
    client: &Host,
    side: &Side,
    (first, last): (u16, u16),
    measures: &str,
) -> Result<Vec<Value>> {
    let measures: Vec<&str> =
        measures.split(',').filter(|m| side.kind.datagrams() || !["udp", "urr"].contains(m)).collect();
    let mut c = client.ns.command(image::testbox()?)?;
    c.args(["bench", &IpAddr::from(side.to).to_string(), &first.to_string(), &last.to_string()]);
    c.args([&measures.join(","), &asked.seconds.to_string()]);
    let text = program::run(&mut c, Duration::from_secs(120))?.ok();
    let text = text.with_context(|| side.kind.name().to_owned())?;
    text.lines().map(|l| serde_json::from_str(l).with_context(|| l.to_owned())).collect()
}

/// Puts what a run found into its tables.
fn enter(tables: &mut Tables, row: usize, found: &Value) -> Result<()> {
    let measure = found["measure"].as_str().context("a measure")?;
    let field = |name: &str| found[name].as_f64().with_context(|| format!("{name} in {found}"));
    let (operations, seconds) = (field("operations")?, field("seconds")?);
    if operations == 0.0 {
        bail!("{measure}: nothing got through");
    }
    let mut add = |name: String, value: f64| tables.entry(name).or_default().add(row, value);
    let rate = operations / seconds;
    add(measure.to_owned(), if measure == "bulk" { rate * 8.0 / 1e9 } else { rate });
    // Of bulk, a gigabyte.
    let unit = if measure == "bulk" { 1e9 } else { 1.0 };
    add(format!("{measure} cpu"), field("busy")? * 1e6 / operations * unit);
    if ["cps", "rps", "urr"].contains(&measure) {
        add(format!("{measure} p50"), field("p50_us")?);
        add(format!("{measure} p99"), field("p99_us")?);
    }
    let failed = found["failed"].as_u64().context("failed")?;
    *tables.entry(measure.to_owned()).or_default().failed.entry(row).or_default() += failed;
    Ok(())
}

fn shown(tables: &Tables, measure: &str, title: &str, unit: &str, digits: usize) -> String {
    tables.get(measure).map_or(String::new(), |t| t.shown(title, unit, digits))
}

fn one_port(tables: &Tables) -> Vec<String> {
    [
        ("cps", "New connections, each with a request", "a second", 0),
        ("rps", "Requests over 32 connections", "a second", 0),
        ("bulk", "One TCP stream", "Gbit/s", 2),
        ("udp", "UDP, 64 bytes one way, received", "a second", 0),
        ("urr", "UDP, one question at a time", "a second", 0),
        ("rps p50", "Requests over 32 connections: middle latency", "µs", 0),
        ("rps p99", "Requests over 32 connections: 99th percentile of latency", "µs", 0),
        ("cps p50", "New connections: middle latency", "µs", 0),
        ("cps p99", "New connections: 99th percentile of latency", "µs", 0),
        ("cps cpu", "Processor time of the whole machine for a new connection", "µs", 1),
        ("rps cpu", "… for a request", "µs", 1),
        ("udp cpu", "… for a datagram", "µs", 2),
        ("urr cpu", "… for a question", "µs", 1),
        ("bulk cpu", "… for a gigabyte", "µs", 0),
    ]
    .into_iter()
    .map(|(measure, title, unit, digits)| shown(tables, measure, title, unit, digits))
    .collect()
}

/// What one port more takes.
fn publishing(asked: &Asked, client: &Host, all: &[Side], ports: u16) -> Result<()> {
    println!("\n### One port more, with {ports} published, in ms\n");
    println!("| | the command | until a client is answered | computing and writing in the agent |");
    println!("| --- | --- | --- | --- |");
    let tries = u32::try_from(asked.rounds.clamp(2, 7))?;
    for side in all {
        say(&format!("{}: one port more", side.kind.name()));
        let Some(times) = publish::one_more(side, client, tries)? else { continue };
        let ms = |samples: &[f64]| {
            spread(samples)
                .map_or(String::new(), |(m, l, h)| format!("{:.2} [{:.2}–{:.2}]", m * 1e3, l * 1e3, h * 1e3))
        };
        println!(
            "| {} | {} | {} | {} |",
            side.kind.name(),
            ms(&times.command),
            ms(&times.answered),
            ms(&times.in_process)
        );
    }
    Ok(())
}

fn say(text: &str) {
    eprintln!("==> {text}");
}
