//! `cargo xtask fuzz`: libFuzzer on the packet functions. What cargo-fuzz does, with the stable compiler.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    process::{cargo, command, find, output, run as execute, say},
    workspace,
};

/// How the compiler counts which way the code went, for libFuzzer.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// What the fuzzer begins with, kept in the repository.
const SEEDS: &str = "fuzz/corpus/packets";

/// Inputs are no longer than this: some two frames, or many of the short events.
const LONGEST: usize = 4096;

/// What may be said.
#[derive(clap::Args)]
pub struct Args {
    /// How long to look, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only run this input, and say what happens in it
    #[arg(long, value_name = "FILE", conflicts_with = "seconds")]
    replay: Option<PathBuf>,
}

/// Builds the target and lets the fuzzer look for what it finds wrong.
///
/// # Errors
/// The build fails, or something was found: where it is and how to see it.
pub fn run(args: &Args) -> Result<()> {
    if find("c++").is_none() {
        bail!("libFuzzer is C++: install a compiler (`apt-get install g++`)");
    }
    // Paths are said from where we were called, commands run in the workspace.
    let replay = args
        .replay
        .as_ref()
        .map(|file| fs::canonicalize(file).with_context(|| format!("cannot read {}", file.display())));
    let replay = replay.transpose()?;
    let dir = workspace::target()?.join("fuzz");
    let (found, wrong) = (dir.join("corpus/packets"), dir.join("artifacts/packets"));
    for needed in [&found, &wrong] {
        fs::create_dir_all(needed).with_context(|| format!("{}", needed.display()))?;
    }
    let packets = build(&dir)?;
    if let Some(file) = replay {
        return execute(command(packets, &[]).arg(file).env("WARREN_FUZZ_SHOW", "1"));
    }
    let before = files(&wrong)?;
    say(&format!("looking for {} s", args.seconds));
    let looked = execute(
        command(packets, &[])
            .args([&found, &workspace::root().join(SEEDS)])
            .arg(format!("-artifact_prefix={}/", wrong.display()))
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-max_len={LONGEST}"))
            // One input takes a millisecond.
            .args(["-timeout=10", "-print_final_stats=1"]),
    );
    for file in files(&wrong)?.difference(&before) {
        say(&format!("found {}", file.display()));
        eprintln!("    see what happens:  cargo xtask fuzz --replay {}", file.display());
        eprintln!("    keep it as a test: cp {} {SEEDS}/found-WHAT", file.display());
    }
    looked
}

/// Builds the target; where it lies. In a directory of its own: with these flags everything is another build.
fn build(dir: &std::path::Path) -> Result<PathBuf> {
    let text = output(&mut command(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()), &["-vV"]))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let words =
        ["build", "-p", "warren-fuzz", "--bin", "packets", "--features", "libfuzzer", "--profile", "fuzz"];
    execute(
        cargo(&words)
            // For a named target, or the flags would be those of build scripts, too.
            .args(["--target", host, "--target-dir"])
            .arg(dir)
            .env("RUSTFLAGS", COVERAGE.join(" "))
            .env_remove("CARGO_ENCODED_RUSTFLAGS"),
    )?;
    Ok(dir.join(host).join("fuzz/packets"))
}

fn files(dir: &std::path::Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("{}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
