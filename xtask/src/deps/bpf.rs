//! The toolchain for BPF: a compiler with a `core` for the target, and `bpf-linker` built on an
//! LLVM no older than the compiler's.

use anyhow::{Context, Result, bail};

use super::apt;
use crate::{
    process::{cargo, command, find, is_root, run, say},
    toolchain::{Compiler, compiler, linker},
};

/// The linker we build with.
const LINKER: &str = "0.13.0";
/// LLVM versions that this linker can be built on.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// The distribution's compiler, and its compiled `core`.
const DISTRIBUTION: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];

/// Makes a compiler and a linker be there.
///
/// # Errors
/// One is missing and cannot be installed.
pub fn provide() -> Result<()> {
    let compiler = match compiler() {
        Some(found) => found,
        None => install_compiler()?,
    };
    let linker = match linker() {
        Some(found) => found,
        None => install_linker(&compiler)?,
    };
    eprintln!("    BPF: {}, {}", compiler.name(), linker.display());
    Ok(())
}

fn install_compiler() -> Result<Compiler> {
    eprintln!("    missing: a Rust compiler for BPF");
    // The package conflicts with Debian's own rustc and rustup: those who have one keep it.
    let in_the_way: Vec<&str> = ["rustc", "rustup"].into_iter().filter(|p| apt::installed(p)).collect();
    let distribution = apt::here() && in_the_way.is_empty() && is_root();
    if distribution && DISTRIBUTION.iter().all(|p| apt::available(p)) {
        apt::install(&DISTRIBUTION.iter().map(std::slice::from_ref).collect::<Vec<_>>())?;
    } else if find("rustup").is_some() {
        if !in_the_way.is_empty() {
            say(&format!("rustc-web cannot stand beside {}: taking nightly", in_the_way.join(" and ")));
        }
        run(&mut command(
            "rustup",
            &["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"],
        ))?;
    } else if apt::here() && in_the_way.is_empty() && !is_root() {
        bail!("only root can install it: run `sudo apt-get install {}`", DISTRIBUTION.join(" "));
    } else {
        bail!(
            "get a Rust compiler for BPF: install rustup, then run `rustup toolchain install nightly --component rust-src`"
        );
    }
    compiler().context("the compiler for BPF is still missing though its installation went well")
}

fn install_linker(compiler: &Compiler) -> Result<std::path::PathBuf> {
    eprintln!("    missing: bpf-linker (links BPF objects)");
    let major = compiler.llvm()?;
    let by_hand = format!(
        "install LLVM {major} with its headers, then run `LLVM_PREFIX=<where> LLVM_SYS_{major}1_PREFIX=<where> cargo install bpf-linker --version {LINKER} --locked --no-default-features --features llvm-{major}`; or `cargo binstall bpf-linker`"
    );
    if !LLVM.contains(&major) {
        bail!(
            "bpf-linker {LINKER} cannot be built on LLVM {major}, which the compiler has: use another compiler, or {by_hand}"
        );
    }
    let package = format!("llvm-{major}-dev");
    let needed = [package.as_str(), "libzstd-dev", "zlib1g-dev"];
    let lacking: Vec<&str> = if apt::here() {
        needed.into_iter().filter(|p| !apt::installed(p)).collect()
    } else {
        bail!("to get bpf-linker, {by_hand}");
    };
    if !lacking.is_empty() {
        if !is_root() {
            bail!("only root can install them: run `sudo apt-get install {}`", lacking.join(" "));
        }
        if !apt::available(&package) {
            bail!("this machine's archives have no {package}: to get bpf-linker, {by_hand}");
        }
        apt::install(&lacking.iter().map(std::slice::from_ref).collect::<Vec<_>>())?;
    }
    let prefix = format!("/usr/lib/llvm-{major}");
    run(cargo(&["install", "bpf-linker", "--version", LINKER, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{major}")])
        .env(format!("LLVM_SYS_{major}1_PREFIX"), &prefix)
        // Its own build script looks for llvm-config here.
        .env("LLVM_PREFIX", &prefix)
        // It is a program of its own: no setting of this workspace is meant for it.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .current_dir("/"))?;
    linker().context("bpf-linker is still missing though its installation went well")
}
