//! Which compiler and linker can make a BPF object on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process::{command, find, output};

/// The BPF target we build for.
pub const TARGET: &str = "bpfel-unknown-none";

/// A compiler with a `core` for BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// The distribution's `rustc-web` with the compiled `core` of `libstd-rust-web-dev-bpf`.
    Distribution(PathBuf),
    /// Rustup's nightly with `rust-src`, from which `core` is built.
    Nightly,
}

impl Compiler {
    /// As a person knows it.
    pub fn name(&self) -> String {
        match self {
            Self::Distribution(rustc) => format!("the distribution's {} (compiled core)", rustc.display()),
            Self::Nightly => "rustup's nightly (core from rust-src)".into(),
        }
    }

    /// Major version of the LLVM inside: the linker must not have an older one.
    ///
    /// # Errors
    /// The compiler does not say.
    pub fn llvm(&self) -> Result<u32> {
        let text = match self {
            Self::Distribution(rustc) => output(&mut command(rustc, &["-vV"]))?,
            Self::Nightly => output(&mut command("rustup", &["run", "nightly", "rustc", "-vV"]))?,
        };
        match llvm_of(&text) {
            Some(major) => Ok(major),
            None => bail!("{} does not name its LLVM version", self.name()),
        }
    }
}

fn llvm_of(version: &str) -> Option<u32> {
    version.lines().find_map(|l| l.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
}

/// The compiler this machine has, the distribution's first: it needs no download and its LLVM is
/// in the same archive.
pub fn compiler() -> Option<Compiler> {
    let system = PathBuf::from("/usr/bin/rustc");
    if system.is_file()
        && let Ok(sysroot) = output(&mut command(&system, &["--print", "sysroot"]))
        && has_core(&Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib"))
    {
        return Some(Compiler::Distribution(system));
    }
    let nightly = output(&mut command("rustup", &["run", "nightly", "rustc", "--print", "sysroot"])).ok()?;
    Path::new(nightly.trim())
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .is_file()
        .then_some(Compiler::Nightly)
}

fn has_core(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore-")))
    })
}

/// `bpf-linker`.
pub fn linker() -> Option<PathBuf> {
    find("bpf-linker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_the_verbose_version() {
        let text = "rustc 1.96.0 (x 2026-05-25) (built from a source tarball)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_of(text), Some(22));
        assert_eq!(llvm_of("rustc 1.0\n"), None);
    }
}
