//! The runtime's tests again with Debian's newest containerd (2.x), unpacked beside the machine's own
//! and found first in `PATH`; runc is the machine's.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    packages,
    process::{cargo, command, output, run as execute},
    test::Skipped,
    workspace,
};

const SUITE: &str = "sid";
const PROGRAMS: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];

/// Runs them, unless the mirror has no such package, or one that does not run here.
///
/// # Errors
/// A test fails.
pub fn run() -> Result<Skipped> {
    let dir = workspace::target()?.join("containerd");
    let programs = match provide(&dir) {
        Ok(programs) => programs,
        Err(e) => return Ok(Some(format!("no containerd 2 for this machine: {e:#}"))),
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(programs).chain(env::split_paths(&path)))?;
    let mut tests = cargo(&["test", "-p", "warren", "--lib", "worker::runtime::", "--", "--ignored"]);
    execute(tests.env("PATH", path))?;
    Ok(None)
}

/// The directory of its programs, which run here.
fn provide(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let (unpacked, version) = packages::package(SUITE, PROGRAMS[0], dir)?;
    if version.starts_with("1.") {
        bail!("Debian {SUITE} has {version}");
    }
    let found = unpacked.join("usr/bin");
    for program in PROGRAMS {
        let file = found.join(program);
        let said = output(command(&file, &["--version"]).env("PATH", &found));
        // The shim says its version on `-v`, and nothing on what it does not know.
        if program != PROGRAMS[1] {
            let said = said.with_context(|| format!("{} does not run here", file.display()))?;
            eprintln!("    {}", said.trim());
        } else if !file.is_file() {
            bail!("{version} has no {program}");
        }
    }
    Ok(found)
}
