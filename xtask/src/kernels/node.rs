//! A whole node in a kernel with nothing but cgroup2, which the machine at hand may not have: its own
//! containerd and runc, containers with limits, and what they see and do.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Clock, Machine,
    initramfs::{self, File},
};
use crate::{
    packages,
    process::{command, find, output, run as execute, say},
    test::{self, Skipped},
    workspace,
};

const SUITE: &str = "trixie";
/// Beside those of the programs: what containers are made of.
const MODULES: [&str; 4] = ["sch_ingress", "cls_bpf", "overlay", "veth"];
/// Programs of the machine that a node runs.
const PROGRAMS: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "runc"];

/// Boots it. That a mirror has no kernel for us is only said, visibly.
///
/// # Errors
/// A limit does not hold there, or the set-up fails.
pub fn run(init: &Path) -> Result<Skipped> {
    say(&format!("a node with cgroup2 only (Debian {SUITE})"));
    let built = test::binaries()?;
    let dir = workspace::target()?.join("kernels").join(SUITE);
    let kernel = match packages::fetch(SUITE, &dir) {
        Ok(kernel) => kernel,
        Err(e) => return Ok(Some(format!("no kernel from the mirror: {e:#}"))),
    };
    // Most of a binary of the dev profile is for debuggers.
    let stripped = dir.join("warren");
    execute(command("strip", &["-o"]).arg(&stripped).arg(&built.warren))?;
    let mut files = vec![
        File::program("init", init),
        File::program("usr/bin/warren", &stripped),
        File::program("usr/bin/testbox", &built.testbox),
    ];
    for program in PROGRAMS {
        let found = find(program).with_context(|| format!("{program} is missing"))?;
        files.push(File::program(&format!("usr/bin/{program}"), &found));
    }
    let mut libraries = BTreeSet::new();
    for file in &files {
        libraries.extend(needed(&file.from));
    }
    for library in libraries {
        let name = library.display().to_string();
        files.push(File::program(name.trim_start_matches('/'), &library));
    }
    let ramfs = dir.join("initramfs-node");
    initramfs::write(&ramfs, &files, &kernel.modules(&MODULES))?;
    let machine = Machine {
        kernel: kernel.image,
        ramfs,
        console: dir.join("console-node"),
        memory: "3072",
        clock: Clock::Instructions,
    };
    machine.boot()?;
    Ok(None)
}

/// The shared libraries of a program, the loader among them; none of a static one.
fn needed(program: &Path) -> Vec<PathBuf> {
    let text = output(command("ldd", &[]).arg(program)).unwrap_or_default();
    let path = |line: &str| line.split_whitespace().find(|w| w.starts_with('/')).map(PathBuf::from);
    text.lines().filter_map(path).collect()
}
