//! QEMU: the machine's own, or, where the package would take something else off the machine (newer tools of
//! QEMU's from backports, say), Debian's unpacked beside it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{QEMU, apt, provide as install};
use crate::{
    process::{command, find, is_root, output, say},
    workspace,
};

/// An emulator that can be run.
pub struct Qemu {
    /// Where it was unpacked; `None`: it is installed.
    root: Option<PathBuf>,
}

/// Finds, installs or unpacks one.
///
/// # Errors
/// There is none, and none can be had: says why.
pub fn provide() -> Result<Qemu> {
    let package = QEMU.packages[0];
    if find(QEMU.program).is_none() && apt::here() && is_root() {
        if let Some(qemu) = unpacked()? {
            return Ok(qemu);
        }
        let removed = apt::removed_by(&[package])?;
        if !removed.is_empty() {
            say(&format!(
                "installing {package} would remove {}: it is unpacked beside it instead",
                removed.join(" ")
            ));
            apt::unpack(&[package], &root()?)?;
            return unpacked()?.with_context(|| format!("{} does not run here", QEMU.program));
        }
    }
    install(&[QEMU])?;
    Ok(Qemu { root: None })
}

/// Where it is unpacked.
fn root() -> Result<PathBuf> {
    Ok(workspace::target()?.join("qemu"))
}

/// The one that was unpacked, if there is one that runs; else nothing is left of it.
fn unpacked() -> Result<Option<Qemu>> {
    let root = root()?;
    let qemu = Qemu { root: Some(root.clone()) };
    match output(qemu.command().arg("--version")) {
        Ok(said) => {
            eprintln!("    {}, unpacked", said.lines().next().unwrap_or_default());
            Ok(Some(qemu))
        }
        Err(_) => {
            // The machine's libraries may have moved on.
            let _ = fs::remove_dir_all(root);
            Ok(None)
        }
    }
}

impl Qemu {
    /// The emulator, with all that it needs to find its own files.
    pub fn command(&self) -> Command {
        let Some(root) = &self.root else { return command(QEMU.program, &[]) };
        let mut c = command(root.join("usr/bin").join(QEMU.program), &["-L"]);
        c.arg(root.join("usr/share/qemu"));
        c.env("LD_LIBRARY_PATH", libraries(root));
        c
    }
}

/// Where its libraries are, before those of the machine.
fn libraries(root: &Path) -> std::ffi::OsString {
    let triplet = format!("{}-linux-gnu", env::consts::ARCH);
    let own = ["usr/lib", "lib"].map(|lib| root.join(lib).join(&triplet));
    let others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let others = env::split_paths(&others).filter(|p| !p.as_os_str().is_empty());
    env::join_paths(own.into_iter().chain(others)).unwrap_or_default()
}
