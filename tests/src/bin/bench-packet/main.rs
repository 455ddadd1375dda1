//! `cargo xtask bench packet`: what a packet costs the programs, in the kernel's test-run.
//!
//! A program that rewrites a packet would meet its own work the second time, so before each run a
//! few instructions put the packet back, and hand it on by a tail call. What they cost is measured
//! in the same round, before a program that returns at once, and taken off. What is left, plus an
//! empty program's time, in relation to the empty program's time, is the ratio: 1 is "costs nothing".
//!
//! The guard, in XDP, changes no packet: an empty program of that hook is run beside it instead.
//!
//! `gate` compares the ratios with those that are checked in.

mod bounds;
mod classes;
mod wrapper;

// The packets' tests have the node and the packets.
#[path = "../../../tests/packets/testrun.rs"]
#[macro_use]
#[allow(dead_code, unused_imports, unused_macros)]
mod testrun;
#[path = "../../../tests/packets/frame.rs"]
#[allow(dead_code)]
mod frame;
#[path = "../../../tests/packets/object.rs"]
#[allow(dead_code, unused_imports)]
mod object;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use classes::Class;
use frame::Family;
use testrun::{Twins, alone};
use warren_ebpf::flow::decide::{V4, V6};
use warren_tests::bench::measure::machine;
use wrapper::{Hook, Program, Wrapped, XDP_PASS};

/// Runs of a program in one go.
const TIMES: u32 = 100_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["gate"] => gate(),
        [rounds] => rounds.parse().map_err(Into::into).and_then(show),
        _ => Err(anyhow::anyhow!("bench-packet ROUNDS | gate")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Times of a class, one a round, in nanoseconds.
pub struct Measured {
    /// What it is.
    pub name: String,
    /// Of the program alone.
    pub net: Vec<f64>,
    /// In relation to an empty program.
    pub ratios: Vec<f64>,
}

/// Middle, least and most.
pub fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut all = samples.to_vec();
    all.sort_by(f64::total_cmp);
    match all[..] {
        [] => (0.0, 0.0, 0.0),
        _ => (all[all.len() / 2], all[0], all[all.len() - 1]),
    }
}

/// Measures every class of a family once a round, in turns; and an empty program's times.
fn measure<A: Family>(rounds: u32) -> Result<(Vec<f64>, Vec<Measured>)> {
    alone(move || {
        let mut twins = Twins::<A>::new()?;
        let empty = Program::empty(Hook::Tc)?;
        let mut pairs = Vec::new();
        for Class { name, program, ifindex, packet, random, returns } in classes::all(&mut twins)? {
            let (before, whole) = match program.hook() {
                Hook::Tc => (
                    Wrapped::before(&empty, &packet, ifindex, random)?,
                    Wrapped::new(&program, &packet, ifindex, random, returns)?,
                ),
                Hook::Xdp => (
                    Wrapped::bare(Program::empty(Hook::Xdp)?.into(), &packet, ifindex, XDP_PASS),
                    Wrapped::bare(program, &packet, ifindex, returns),
                ),
            };
            pairs.push((Measured { name, net: Vec::new(), ratios: Vec::new() }, before, whole));
        }
        let mut nothing = Vec::new();
        // A round that is not counted warms up.
        for round in 0..=rounds {
            let none = empty.run(&[0x42; 64], testrun::UPLINK, TIMES)?.0;
            if round > 0 {
                nothing.push(none.into());
            }
            for (class, before, whole) in &mut pairs {
                let run = |p: &Wrapped| p.run(TIMES).with_context(|| class.name.clone());
                let net = f64::from(run(whole)?) - f64::from(run(before)?);
                if round > 0 {
                    class.net.push(net);
                    class.ratios.push(net / f64::from(none) + 1.0);
                }
            }
        }
        Ok((nothing, pairs.into_iter().map(|(class, ..)| class).collect()))
    })
}

/// Both families.
fn measure_all(rounds: u32) -> Result<(Vec<f64>, Vec<Measured>)> {
    let ((mut nothing, mut classes), six) = (measure::<V4>(rounds)?, measure::<V6>(rounds)?);
    nothing.extend(six.0);
    classes.extend(six.1);
    Ok((nothing, classes))
}

fn show(rounds: u32) -> Result<()> {
    ensure!(rounds > 0, "a round at least");
    println!("machine: {}", machine()?);
    let (nothing, classes) = measure_all(rounds)?;
    let (median, least, most) = spread(&nothing);
    println!(
        "\nempty program: {median:.0} ns [{least:.0}–{most:.0}]; {rounds} rounds of {TIMES} runs each\n"
    );
    println!("| packet | ns on top of an empty program | ratio to an empty program |\n| --- | --- | --- |");
    for class in &classes {
        let ((net, least, most), (ratio, low, high)) = (spread(&class.net), spread(&class.ratios));
        println!("| {} | {net:.0} [{least:.0}–{most:.0}] | {ratio:.2} [{low:.2}–{high:.2}] |", class.name);
    }
    println!(
        "\nEach is `median [least–most]`. A packet is put back before each run; the cost of that, measured in the \
         same round, is taken off. The kernel's test-run ends with the verdict: what a redirect does after that is \
         not in it. The tables of flows have 4,096 rows, so that each new flow evicts one."
    );
    Ok(())
}

/// Rounds of the gate.
const ROUNDS: u32 = 7;

fn gate() -> Result<()> {
    let (nothing, classes) = measure_all(ROUNDS)?;
    bounds::judge(&nothing, &classes)
}
