//! `cargo xtask check`: the gate. Never writes.

mod files;
mod floors;
mod source;

use anyhow::{Result, bail};

use crate::{
    process::{cargo, find, output, run as execute, say},
    toolchain, workspace,
};

/// A check and what it is called.
type Check = (&'static str, fn() -> Result<()>);

/// Runs every check and reports all that fail.
///
/// # Errors
/// Names the checks that failed.
pub fn run() -> Result<()> {
    let checks: [Check; 7] = [
        ("format", || execute(&mut cargo(&["fmt", "--all", "--check"]))),
        ("floors", floors_hold),
        ("file lengths", lengths),
        ("lints", || {
            execute(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        }),
        ("lints of the fuzzer's target", || {
            execute(&mut cargo(&[
                "clippy",
                "-p",
                "warren-fuzz",
                "--all-targets",
                "--features",
                "libfuzzer",
                "--",
                "-D",
                "warnings",
            ]))
        }),
        ("lints of the BPF programs", bpf_lints),
        ("docs", || {
            execute(
                cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"])
                    .env("RUSTDOCFLAGS", "-D warnings"),
            )
        }),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        say(name);
        if let Err(e) = check() {
            eprintln!("{e:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("check failed: {}", failed.join(", "))
}

fn floors_hold() -> Result<()> {
    let files = workspace::rust_files("warren/src")?;
    let broken = floors::broken(&files);
    for b in &broken {
        eprintln!("    {b}");
    }
    if broken.is_empty() { Ok(()) } else { bail!("{} arrows point the wrong way", broken.len()) }
}

fn lengths() -> Result<()> {
    let mut files = Vec::new();
    for room in ["warren", "warren-ebpf", "fuzz", "xtask", "tests"] {
        files.extend(workspace::rust_files(room)?);
    }
    let report = files::lengths(&files);
    for line in &report.lines {
        eprintln!("    {line}");
    }
    if report.too_long == 0 {
        Ok(())
    } else {
        bail!("{} files are past {} lines", report.too_long, files::LIMIT)
    }
}

/// The distribution's compiler for BPF has no clippy; nightly may have.
fn bpf_lints() -> Result<()> {
    let nightly = |args: &[&str]| {
        let mut c = crate::process::command("rustup", &["run", "nightly"]);
        c.args(args).env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
        c
    };
    let has_source = output(&mut nightly(&["rustc", "--print", "sysroot"]))
        .is_ok_and(|s| std::path::Path::new(s.trim()).join("lib/rustlib/src/rust/library/core").is_dir());
    let has_clippy =
        find("rustup").is_some() && output(&mut nightly(&["cargo", "clippy", "--version"])).is_ok();
    if !(has_source && has_clippy) {
        eprintln!("    not run: needs rustup's nightly with rust-src and clippy");
        return Ok(());
    }
    let target_dir = workspace::target()?.join("ebpf-clippy");
    execute(
        nightly(&["cargo", "clippy", "-Zbuild-std=core", "-p", "warren-ebpf", "--bin", "warren-ebpf"])
            .args(["--features", "programs", "--target", toolchain::TARGET, "--target-dir"])
            .arg(target_dir)
            .args(["--", "-D", "warnings"])
            .env("RUSTFLAGS", "-C target-cpu=v3"),
    )
}
