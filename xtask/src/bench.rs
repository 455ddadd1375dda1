//! `cargo xtask bench`: what things cost on this machine, as numbers beside the targets.

use anyhow::{Result, bail};

use crate::{
    build_ebpf, deps,
    process::{cargo, is_root, run as execute, say},
    test, workspace,
};

/// The ways through a node, as `bench-datapath` knows them.
const WAYS: [&str; 7] =
    ["warren", "rewrite", "iptables-nft", "iptables-legacy", "nft", "haproxy", "docker-proxy"];

/// How many ports are published.
const PORTS: [&str; 3] = ["1", "100", "5000"];

/// What is measured.
#[derive(clap::Subcommand)]
pub enum What {
    /// A node: start, first byte of a service, idle memory and processor time, size; beside Docker's
    /// engine where that is installed
    Node {
        /// How often each timing is taken
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=500))]
        rounds: u16,
    },
    /// Containers: from create to running for 1, 20 and 100 of them, output, memory; beside Docker's
    /// engine where that is installed
    Containers {
        /// How often each figure is taken
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        rounds: u16,
        /// Only one part
        #[arg(long, value_parser = ["start", "output", "memory"])]
        part: Option<String>,
    },
    /// The datapath: connections, requests, streams and datagrams through a node, beside the direct way,
    /// BPF that only rewrites, iptables, nftables, haproxy and docker-proxy, with 1, 100 and 5,000
    /// published ports
    Datapath {
        /// How often each figure is taken
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=500))]
        rounds: u16,
        /// Only try whether everything works: two rounds of a fifth of a second
        #[arg(long, conflicts_with = "rounds")]
        quick: bool,
        /// Only these ways beside the direct one
        #[arg(long, value_delimiter = ',', value_parser = WAYS, default_values_t = WAYS.map(str::to_owned))]
        ways: Vec<String>,
        /// Only with so many published ports
        #[arg(long, value_delimiter = ',', value_parser = PORTS, default_values_t = PORTS.map(str::to_owned))]
        ports: Vec<String>,
        /// Writes a plot of new connections against the number of published ports
        #[arg(long, value_name = "FILE")]
        svg: Option<std::path::PathBuf>,
    },
    /// Limits of clients: what is let through of what is configured, for 1, 100 and 10,000 clients, and
    /// what a flood of others costs one who keeps to the limit; beside nftables and hashlimit
    Limits {
        /// How often each figure is taken
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=500))]
        rounds: u16,
        /// Only try whether everything works: one round of short measures
        #[arg(long, conflicts_with = "rounds")]
        quick: bool,
    },
    /// Packets: what each kind costs the BPF programs in the kernel's test-run, as a ratio to an empty
    /// program
    Packet {
        /// How often each figure is taken
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=500))]
        rounds: u16,
        /// Only compare with the ratios that are checked in (tests/budgets/packets.txt), as `cargo xtask
        /// test` does
        #[arg(long, conflicts_with = "rounds")]
        gate: bool,
    },
}

/// Builds (release profile) and measures.
///
/// # Errors
/// Not root, the set-up fails, or what is measured does not work.
pub fn run(what: &What) -> Result<()> {
    if !is_root() {
        bail!("needs root (network namespaces, BPF, containerd): run `sudo -E cargo xtask bench …`");
    }
    deps::run()?;
    build_ebpf::run(&build_ebpf::Args::default())?;
    let (program, words): (_, Vec<String>) = match what {
        What::Packet { rounds, gate } => {
            return packet(&if *gate { "gate".to_owned() } else { rounds.to_string() });
        }
        What::Node { rounds } => ("bench-node", vec![rounds.to_string()]),
        What::Containers { rounds, part } => {
            ("bench-containers", [rounds.to_string()].into_iter().chain(part.clone()).collect())
        }
        What::Limits { rounds, quick } => {
            deps::for_rivals()?;
            let (rounds, seconds) = if *quick { (1, "1.5") } else { (*rounds, "3.5") };
            ("bench-limits", vec![rounds.to_string(), seconds.to_owned()])
        }
        What::Datapath { rounds, quick, ways, ports, svg } => {
            deps::for_rivals()?;
            let (rounds, seconds) = if *quick { (2, "0.2") } else { (*rounds, "1") };
            let svg = svg.as_ref().map(|file| file.display().to_string());
            let words = [rounds.to_string(), seconds.to_owned(), ways.join(","), ports.join(",")];
            ("bench-datapath", words.into_iter().chain(svg).collect())
        }
    };
    say("warren, as it is released (this takes minutes the first time)");
    execute(&mut cargo(&["build", "--release", "-p", "warren", "--bin", "warren"]))?;
    let testbox = test::testbox()?;
    let warren = workspace::target()?.join("release/warren");
    let mut bench = cargo(&["run", "--quiet", "-p", "warren-tests", "--bin", program, "--"]);
    bench.args(words);
    execute(bench.env("WARREN_BIN", warren).env("WARREN_TESTBOX", testbox))
}

/// What packets cost, in the debug profile: the kernel does the work.
fn packet(word: &str) -> Result<()> {
    let mut bench = cargo(&["run", "--quiet", "-p", "warren-tests", "--bin", "bench-packet", "--", word]);
    execute(bench.env("WARREN_BPF_OBJECT", workspace::target()?.join(build_ebpf::OBJECT)))
}

/// Compares what packets cost with what is checked in.
///
/// # Errors
/// One costs too much.
pub fn packet_gate() -> Result<test::Skipped> {
    packet("gate")?;
    Ok(None)
}
