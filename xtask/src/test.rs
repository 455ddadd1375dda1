//! `cargo xtask test`: set-up, then every test there is.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    bench, build_ebpf, check, containerd, deps, kernels,
    process::{cargo, is_root, run as execute, say},
    workspace,
};

/// Parts that can be run alone.
const KERNELS: &str = "kernels";
const CGROUP2: &str = "a node with cgroup2 only";
const CONTAINERD: &str = "the runtime with containerd 2";

/// Why a part, or some of it, could not be run on this machine; `None`: all of it was.
pub type Skipped = Option<String>;

/// What may be said.
#[derive(clap::Args)]
pub struct Args {
    /// Only load the BPF programs into other kernels (Debian's 6.1, 6.12 and newest, under QEMU)
    #[arg(long)]
    kernels: bool,
    /// Only run a node in a kernel whose control groups are cgroup2 alone, under QEMU
    #[arg(long)]
    cgroup2: bool,
    /// Only run the container runtime's tests with Debian's newest containerd (2.x)
    #[arg(long)]
    containerd: bool,
}

/// Runs everything; a failed part does not keep the later ones from running.
///
/// # Errors
/// The set-up fails, or a part did: the summary names it.
pub fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!(
            "needs root (network namespaces, BPF, containerd): run `sudo -E cargo xtask test`; the tests that need nothing are `cargo test`"
        );
    }
    let mut summary = Summary::default();
    summary.must("deps", deps::run)?;
    summary.must("build-ebpf", || build_ebpf::run(&build_ebpf::Args::default()))?;
    if args.kernels || args.cgroup2 || args.containerd {
        if args.kernels {
            summary.part(KERNELS, kernels::run);
        }
        if args.cgroup2 {
            summary.part(CGROUP2, kernels::node);
        }
        if args.containerd {
            summary.part(CONTAINERD, containerd::run);
        }
        return summary.end();
    }
    summary.part("check", || check::run().map(|()| None));
    // One compilation of everything the parts below run.
    let other = summary.must("build, with another map ABI", binary_of_another_abi)?;
    let built = summary.must("build", binaries)?;
    summary.part("plain tests", || {
        execute(&mut cargo(&[
            "test",
            "-p",
            "warren",
            "-p",
            "warren-ebpf",
            "-p",
            "warren-fuzz",
            "-p",
            "xtask",
            "-p",
            "testbox",
        ]))?;
        Ok(None)
    });
    summary.part("tests that need root", || {
        execute(&mut cargo(&["test", "-p", "warren", "-p", "warren-ebpf", "--", "--ignored"]))?;
        Ok(None)
    });
    summary.part(CONTAINERD, containerd::run);
    summary.part("packets in the kernel and whole nodes", || {
        // One at a time: they watch the kernel for leaks, and share two processors with their load.
        execute(
            cargo(&[
                "test",
                "-p",
                "warren-tests",
                "--no-fail-fast",
                "--",
                "--include-ignored",
                "--test-threads=1",
            ])
            .env("WARREN_BIN", &built.warren)
            .env("WARREN_BIN_OTHER_ABI", &other)
            .env("WARREN_TESTBOX", &built.testbox)
            .env("WARREN_BPF_OBJECT", &built.object)
            // What a scenario says is the reason, not where it was said.
            .env("RUST_BACKTRACE", "0"),
        )?;
        Ok(None)
    });
    summary.part("what packets cost", bench::packet_gate);
    summary.part(KERNELS, kernels::run);
    summary.part(CGROUP2, kernels::node);
    summary.end()
}

/// What the end-to-end tests run.
pub struct Built {
    /// The `warren` binary, with the object embedded.
    pub warren: PathBuf,
    /// The static binary of the test images.
    pub testbox: PathBuf,
    /// The BPF object.
    pub object: PathBuf,
}

/// Builds `warren` (dev profile) and the static `testbox`.
///
/// # Errors
/// A build fails.
pub fn binaries() -> Result<Built> {
    let target = workspace::target()?;
    execute(&mut cargo(&["build", "-p", "warren", "--bin", "warren"]))?;
    let testbox = testbox()?;
    let built =
        Built { warren: target.join("debug/warren"), testbox, object: target.join(build_ebpf::OBJECT) };
    for file in [&built.warren, &built.testbox, &built.object] {
        std::fs::metadata(file).with_context(|| format!("{}", file.display()))?;
    }
    Ok(built)
}

/// Builds the binary that tests upgrade a running node to: like ours, but with another map ABI.
fn binary_of_another_abi() -> Result<PathBuf> {
    build_ebpf::run(&build_ebpf::Args { other_abi: true, ..Default::default() })?;
    let target = workspace::target()?;
    let mut build = cargo(&["build", "-p", "warren", "--bin", "warren", "--features", "other-abi"]);
    execute(build.env("WARREN_BPF_OBJECT", target.join(build_ebpf::OTHER_OBJECT)))?;
    // The next build of the usual binary takes its place.
    let kept = target.join("debug/warren-other-abi");
    std::fs::copy(target.join("debug/warren"), &kept).with_context(|| format!("{}", kept.display()))?;
    Ok(kept)
}

/// Builds the static `testbox`; where it lies.
///
/// # Errors
/// The build fails.
pub fn testbox() -> Result<PathBuf> {
    let words = ["rustc", "-p", "testbox", "--bin", "testbox", "--release"];
    execute(cargo(&words).args(["--", "-C", "target-feature=+crt-static"]))?;
    Ok(workspace::target()?.join("release/testbox"))
}

#[derive(Default)]
struct Summary {
    parts: Vec<(&'static str, Duration, bool)>,
    skipped: Vec<(&'static str, String)>,
}

impl Summary {
    /// A part without which nothing else makes sense.
    fn must<T>(&mut self, name: &'static str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = self.timed(name, f);
        if done.is_err() {
            self.show();
        }
        done
    }

    /// A part whose failure does not keep the next ones from running.
    fn part(&mut self, name: &'static str, f: impl FnOnce() -> Result<Skipped>) {
        say(name);
        match self.timed(name, f) {
            Ok(None) => {}
            Ok(Some(why)) => self.skipped.push((name, why)),
            Err(e) => eprintln!("{name}: {e:#}"),
        }
    }

    fn timed<T>(&mut self, name: &'static str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = f();
        self.parts.push((name, start.elapsed(), done.is_ok()));
        done
    }

    fn show(&self) {
        say("summary");
        for (name, took, good) in &self.parts {
            eprintln!("    {:<6} {:>7.1} s  {name}", if *good { "ok" } else { "FAILED" }, took.as_secs_f64());
        }
        let total: Duration = self.parts.iter().map(|(_, took, _)| *took).sum();
        eprintln!("    {:<6} {:>7.1} s  together", "", total.as_secs_f64());
        for (name, why) in &self.skipped {
            say(&format!("NOT RUN, {name}: {why}"));
        }
    }

    fn end(&self) -> Result<()> {
        self.show();
        let failed: Vec<&str> =
            self.parts.iter().filter(|(_, _, good)| !good).map(|(name, ..)| *name).collect();
        if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
    }
}
