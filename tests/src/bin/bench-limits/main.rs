//! `cargo xtask bench limits`, once everything is built: whether each client gets what is configured and no
//! more, and what a flood of others costs one who keeps to the limit; Warren beside nftables and
//! iptables, all on one switch, in another order each round.

mod sides;

use std::{collections::BTreeMap, net::Ipv4Addr, process::ExitCode, thread, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sides::{Kind, PORT, Side};
use warren_tests::{Cluster, Host, bench::measure::machine, image, program, sweep};

/// (Clients, what each may send a second, what all of them send a second).
const CROWDS: [(u32, u32, u32); 3] = [(1, 5000, 50_000), (100, 50, 50_000), (10_000, 1, 100_000)];
/// The same while another keeps to the limit, who sends 400 a second.
const OTHERS: (u32, u32, u32) = (10, 500, 50_000);
/// Until everybody is known, and has its whole budget again.
const KNOWN: f64 = 1.5;
const REST: Duration = Duration::from_millis(1300);

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The hosts on the switch.
struct Site {
    client: Host,
    flood: Host,
    /// Where a flood goes that is to cost its sender only.
    sink: Host,
    seconds: f64,
}

/// By what is measured and who limits: one sample a round.
type Samples = BTreeMap<(String, usize), Vec<f64>>;

fn bench() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, seconds] = &words[..] else { bail!("bench-limits ROUNDS SECONDS") };
    let (rounds, seconds): (usize, f64) = (rounds.parse()?, seconds.parse()?);
    sweep::once();
    println!("machine: {}", machine()?);
    println!(
        "{rounds} rounds of {seconds} s a measure; every figure is `median [least–most]` of the rounds, every ratio of \
         the two runs of one round. Sender, node, container and client share the processors."
    );
    let mut cluster = Cluster::new()?;
    let (client, flood, sink) = (cluster.host("client")?, cluster.host("flood")?, cluster.host("sink")?);
    let site = Site { client, flood, sink, seconds };
    let mut all = Vec::new();
    for (number, kind) in (1u8..).zip(Kind::ALL) {
        eprintln!("==> {}", kind.name());
        match Side::new(kind, &mut cluster, &site.client, number) {
            Ok(side) => all.push(side),
            Err(e) if matches!(kind, Kind::Nft | Kind::Hashlimit) => {
                println!("\n{}: not measured, not available on this kernel or machine: {e:#}", kind.name());
            }
            Err(e) => return Err(e),
        }
    }
    let mut samples = Samples::new();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..all.len()).collect();
        let by = round % order.len();
        order.rotate_left(by);
        for n in order {
            let side = &mut all[n];
            eprintln!("==> round {} of {rounds}: {}", round + 1, side.kind.name());
            side.alive()?;
            if side.kind != Kind::Nobody {
                for crowd in CROWDS {
                    let share =
                        let_through(&site, side, crowd).with_context(|| side.kind.name().to_owned())?;
                    samples.entry((format!("{}", crowd.0), index(side.kind))).or_default().push(share);
                }
            }
            bystander(&site, side, round % 2 == 1, &mut samples)
                .with_context(|| side.kind.name().to_owned())?;
        }
    }
    print!("{}", exactness(&samples));
    print!("{}", latencies(&samples));
    Ok(())
}

fn index(kind: Kind) -> usize {
    Kind::ALL.iter().position(|k| *k == kind).expect("all are in ALL")
}

/// Sends a flood; for how long, in seconds, and how many.
fn send(site: &Site, to: Ipv4Addr, (sources, _, rate): (u32, u32, u32), seconds: f64) -> Result<(f64, u64)> {
    let mut c = site.flood.ns.command(image::testbox()?)?;
    c.args(["bench-flood", &to.to_string(), &PORT.to_string(), &sources.to_string()]);
    c.args([&rate.to_string(), &seconds.to_string()]);
    let text = program::run(&mut c, Duration::from_secs(60))?.ok()?;
    let found: Value = serde_json::from_str(text.trim())?;
    Ok((found["seconds"].as_f64().context("seconds")?, found["sent"].as_u64().context("sent")?))
}

/// What comes in of a flood, as a share of what is configured.
#[allow(clippy::cast_precision_loss)] // some hundred thousand
fn let_through(site: &Site, side: &mut Side, crowd: (u32, u32, u32)) -> Result<f64> {
    let (sources, each, all) = crowd;
    side.limit(each)?;
    send(site, side.to, crowd, KNOWN)?;
    thread::sleep(REST);
    let before = side.came_in()?;
    let (seconds, sent) = send(site, side.to, crowd, site.seconds)?;
    let came = side.came_in()? - before;
    // A burst of a second's worth, and as many more as fit in between a client's first and last packet.
    let between = seconds - f64::from(sources) / f64::from(all);
    let configured = f64::from(sources) * (f64::from(each) + (f64::from(each) * between).floor());
    if (sent as f64) < 1.5 * configured {
        bail!("{sent} sent in {seconds:.1} s by {sources} is no flood for a limit of {configured:.0}");
    }
    Ok(came as f64 / configured)
}

/// What a flood costs one who keeps to the limit: asked with a flood of the same size to nobody, with one to
/// the port, and once more with one to nobody.
fn bystander(site: &Site, side: &mut Side, backwards: bool, samples: &mut Samples) -> Result<()> {
    side.limit(OTHERS.1)?;
    send(site, side.to, OTHERS, 0.3)?;
    let mut states = ["calm", "flooded", "again"];
    if backwards {
        states.reverse();
    }
    for state in states {
        let to = if state == "flooded" { side.to } else { site.sink.v4 };
        // The client's flow is two seconds old before it is measured.
        let found = thread::scope(|scope| {
            let flood = scope.spawn(|| send(site, to, OTHERS, site.seconds + 2.7));
            let found = ask(site, side.to);
            flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            found
        })?;
        for figure in ["p50_us", "p99_us", "failed"] {
            let value = found[figure].as_f64().with_context(|| format!("{figure} in {found}"))?;
            samples.entry((format!("{state} {figure}"), index(side.kind))).or_default().push(value);
        }
    }
    Ok(())
}

fn ask(site: &Site, to: Ipv4Addr) -> Result<Value> {
    let mut c = site.client.ns.command(image::testbox()?)?;
    let port = PORT.to_string();
    c.args(["bench", &to.to_string(), &port, &port, "pace", &site.seconds.to_string()]);
    Ok(serde_json::from_str(program::run(&mut c, Duration::from_secs(60))?.ok()?.trim())?)
}

fn row<'a>(samples: &'a Samples, name: &str, kind: Kind) -> &'a [f64] {
    samples.get(&(name.to_owned(), index(kind))).map_or(&[], Vec::as_slice)
}

/// `median [least–most]`.
fn spread(samples: &[f64], digits: usize) -> String {
    let mut all = samples.to_vec();
    all.sort_by(f64::total_cmp);
    match (all.get(all.len() / 2), all.first(), all.last()) {
        (Some(m), Some(l), Some(h)) => format!("{m:.digits$} [{l:.digits$}–{h:.digits$}]"),
        _ => String::new(),
    }
}

fn exactness(samples: &Samples) -> String {
    let mut text = "\n### Let through / configured (burst and rate), under ten times as much\n\n".to_owned();
    text +=
        "| | 1 client, 5000 a second | 100 clients, 50 a second each | 10,000 clients, 1 a second each |\n";
    text += "| --- | --- | --- | --- |\n";
    for kind in Kind::ALL {
        if row(samples, "1", kind).is_empty() {
            continue;
        }
        let cell = |(sources, _, _): (u32, u32, u32)| spread(row(samples, &sources.to_string(), kind), 3);
        let cells = CROWDS.map(cell).join(" | ");
        text += &format!("| {} | {cells} |\n", kind.name());
    }
    text
}

fn latencies(samples: &Samples) -> String {
    let mut text = String::new();
    for (figure, title) in [("p50_us", "middle"), ("p99_us", "99th percentile")] {
        text += &format!(
            "\n### A client who keeps to the limit, 400 questions a second: {title} of the time to the answer, µs\n\n\
             | | flood to nobody | ten others send ten times the limit | ratio | noise: to nobody / to nobody | unanswered |\n\
             | --- | --- | --- | --- | --- | --- |\n"
        );
        for kind in Kind::ALL {
            let calm = row(samples, &format!("calm {figure}"), kind);
            let flooded = row(samples, &format!("flooded {figure}"), kind);
            if calm.is_empty() {
                continue;
            }
            let again = row(samples, &format!("again {figure}"), kind);
            let ratios = |of: &[f64]| of.iter().zip(calm).map(|(f, c)| f / c).collect::<Vec<f64>>();
            let failed: f64 = row(samples, "flooded failed", kind).iter().sum();
            text += &format!(
                "| {} | {} | {} | {} | {} | {failed:.0} |\n",
                kind.name(),
                spread(calm, 0),
                spread(flooded, 0),
                spread(&ratios(flooded), 2),
                spread(&ratios(again), 2)
            );
        }
    }
    text
}
