//! A whole node in an emulated machine, with its own containerd and runc: its network in each kernel, and
//! limits of its containers where there is nothing but cgroup2, which the machine at hand may not have.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Clock, Equipment, Machine,
    initramfs::{self, File},
};
use crate::{
    packages::{self, Kernel},
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
pub fn run(equipment: &Equipment) -> Result<Skipped> {
    say(&format!("a node with cgroup2 only (Debian {SUITE})"));
    let dir = workspace::target()?.join("kernels").join(SUITE);
    let kernel = match packages::fetch(SUITE, &dir) {
        Ok(kernel) => kernel,
        Err(e) => return Ok(Some(format!("no kernel from the mirror: {e:#}"))),
    };
    boot(equipment, &kernel, &dir, "node", &PROGRAMS, Clock::Instructions)?;
    Ok(None)
}

/// Boots one with another host beside it, and asks through everything that it should carry.
///
/// # Errors
/// Something does not get through there, or the set-up fails.
pub fn network(equipment: &Equipment, kernel: &Kernel, dir: &Path) -> Result<()> {
    let mut programs = PROGRAMS.to_vec();
    programs.push("ip");
    boot(equipment, kernel, dir, "network", &programs, Clock::Real)
}

fn boot(
    equipment: &Equipment,
    kernel: &Kernel,
    dir: &Path,
    name: &str,
    programs: &[&str],
    clock: Clock,
) -> Result<()> {
    let built = test::binaries()?;
    // Most of a binary of the dev profile is for debuggers.
    let stripped = dir.join("warren");
    execute(command("strip", &["-o"]).arg(&stripped).arg(&built.warren))?;
    let mut files = vec![
        File::program("init", &equipment.init),
        File::program("usr/bin/warren", &stripped),
        File::program("usr/bin/testbox", &built.testbox),
    ];
    for program in programs {
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
    let ramfs = dir.join(format!("initramfs-{name}"));
    initramfs::write(&ramfs, &files, &kernel.modules(&MODULES))?;
    let machine = Machine {
        qemu: &equipment.qemu,
        kernel: kernel.image.clone(),
        ramfs,
        console: dir.join(format!("console-{name}")),
        memory: "3072",
        clock,
    };
    machine.boot().map(drop)
}

/// The shared libraries of a program, the loader among them; none of a static one.
fn needed(program: &Path) -> Vec<PathBuf> {
    let text = output(command("ldd", &[]).arg(program)).unwrap_or_default();
    let path = |line: &str| line.split_whitespace().find(|w| w.starts_with('/')).map(PathBuf::from);
    text.lines().filter_map(path).collect()
}
