//! `cargo xtask build-ebpf`: the BPF programs, with whichever toolchain the machine has.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    process::{cargo, cargo_bin, command, find, output, run as execute, say},
    toolchain::{Compiler, TARGET, compiler, linker},
    workspace,
};

/// Where the object is, within the target directory.
pub const OBJECT: &str = "bpf/warren-ebpf.o";
/// Where the one of another ABI is: in another directory, because `warren`'s build watches that one.
pub const OTHER_OBJECT: &str = "bpf-other-abi/warren-ebpf.o";

/// What may be said.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Compile logging into every program (aya-log), for development: the object no longer loads
    /// with bpftool
    #[arg(long)]
    pub log: bool,
    /// Another map ABI than ours, for tests of upgrades; goes to a file of its own
    #[arg(long, hide = true)]
    pub other_abi: bool,
}

/// `--btf` because without it the object silently has no BTF and no map loads; v3 because atomics
/// that return a value need it. The linker's expansion of copies "in order" leaves every memset, of three
/// bytes of padding even, to a loop over bytes: without it packets cost a sixth to almost half less.
const FLAGS: &str =
    "-C debuginfo=2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order -C target-cpu=v3";

/// Builds and puts the object where `warren`'s build embeds it.
///
/// # Errors
/// No toolchain (says which command installs one), or the build fails.
pub fn run(args: &Args) -> Result<()> {
    let (Some(compiler), Some(_)) = (compiler(), linker()) else {
        bail!("no toolchain for BPF on this machine: run `cargo xtask deps`");
    };
    say(&format!("BPF programs, with {}", compiler.name()));
    let target = workspace::target()?;
    let out = target.join("ebpf");
    let mut features = String::from("programs");
    if args.log {
        features.push_str(",log");
    }
    if args.other_abi {
        features.push_str(",other-abi");
    }
    let mut build = match &compiler {
        Compiler::Distribution(rustc) => {
            let mut c = cargo(&["build"]);
            // The programs use features of aya-ebpf that only a nightly compiler has by name.
            c.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            c
        }
        Compiler::Nightly => {
            let mut c = command("rustup", &["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
            c.env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
            c
        }
    };
    build.args(["-p", "warren-ebpf", "--bin", "warren-ebpf", "--features", &features]);
    build.args(["--profile", "bpf", "--target", TARGET, "--target-dir"]).arg(&out);
    build.env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS").env("PATH", path_with_cargo_bin());
    execute(&mut build)?;

    let built = out.join(TARGET).join("bpf/warren-ebpf");
    let object = target.join(if args.other_abi { OTHER_OBJECT } else { OBJECT });
    let bytes = without_dwarf(&built, compiler.llvm()?)?;
    if put(&object, &bytes)? {
        say(&format!("{} ({} bytes)", object.display(), bytes.len()));
    } else {
        say(&format!("{} is up to date", object.display()));
    }
    Ok(())
}

/// The object without DWARF, which made the BTF and is four fifths of it; nothing reads it after.
/// Where no LLVM tool can take it out (GNU's cannot read BPF objects), the object keeps it.
fn without_dwarf(built: &Path, llvm: u32) -> Result<Vec<u8>> {
    let tool = find(&format!("llvm-strip-{llvm}")).or_else(|| find("llvm-strip"));
    let file = match tool {
        Some(tool) => {
            let stripped = built.with_extension("stripped");
            output(command(tool, &["--strip-debug", "-o"]).arg(&stripped).arg(built))?;
            stripped
        }
        None => {
            say("no llvm-strip on this machine: the object keeps its debug information");
            built.to_owned()
        }
    };
    fs::read(&file).with_context(|| format!("{}", file.display()))
}

/// Writes only what differs, and whole: an unchanged object must not rebuild `warren`, a half-written
/// one must not be embedded. Says whether it wrote.
fn put(file: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(file).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let dir = file.parent().expect("a file has a directory");
    fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    let aside = dir.join(format!(".{}.new", std::process::id()));
    fs::write(&aside, bytes).with_context(|| format!("{}", aside.display()))?;
    fs::rename(&aside, file).with_context(|| format!("{}", file.display()))?;
    Ok(true)
}

/// The linker is looked up by name and may lie where only cargo looks.
fn path_with_cargo_bin() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(cargo_bin());
    std::env::join_paths(dirs).unwrap_or(path)
}
