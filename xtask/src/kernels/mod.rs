//! `cargo xtask test --kernels`: the BPF programs in the kernels of Debian, under QEMU: the oldest
//! we run on (which has no TCX), the long-term one, and the newest.

mod budget;
mod initramfs;
mod node;

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use initramfs::File;

use crate::{
    deps::{self, Qemu},
    packages,
    process::{cargo, run as execute, say},
    test::Skipped,
    workspace,
};

/// What is booted: a name for people, and the Debian suite that has it.
const KERNELS: &[(&str, &str)] = &[("6.1", "bookworm"), ("6.12", "trixie"), ("newest", "sid")];

/// What the programs are attached with, where it is not built in; in loading order.
const MODULES: [&str; 2] = ["sch_ingress", "cls_bpf"];

/// Longest run of one kernel, in processor time: what else this machine does costs it none of that.
/// The programs alone take 20 s, a whole node 80 s.
const PATIENCE: Duration = Duration::from_secs(300);
/// And in any case.
const LONGEST: Duration = Duration::from_secs(900);

/// Boots each kernel with the object that `build-ebpf` made, then with a node and another host.
///
/// # Errors
/// A kernel refuses a program, or something does not get through there.
pub fn run() -> Result<Skipped> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok(Some("the kernels are Debian's for x86_64, and this machine is none".to_owned()));
    }
    let equipment = Equipment::provide()?;
    let target = workspace::target()?;
    let object = target.join("bpf/warren-ebpf.o");
    fs::metadata(&object).with_context(|| format!("{}: run `cargo xtask build-ebpf`", object.display()))?;
    let (mut refused, mut absent, mut reports) = (Vec::new(), Vec::new(), Vec::new());
    for (name, suite) in KERNELS {
        say(&format!("kernel {name} (Debian {suite})"));
        let dir = target.join("kernels").join(suite);
        let kernel = match packages::fetch(suite, &dir) {
            Ok(kernel) => kernel,
            Err(e) => {
                eprintln!("{e:#}");
                absent.push(*name);
                continue;
            }
        };
        eprintln!("    {}", kernel.version);
        let ramfs = dir.join("initramfs");
        let files = [
            File::program("init", &equipment.init),
            File { name: "warren-ebpf.o".into(), mode: 0o644, from: object.clone() },
        ];
        initramfs::write(&ramfs, &files, &kernel.modules(&MODULES))?;
        let machine = Machine {
            qemu: &equipment.qemu,
            kernel: kernel.image.clone(),
            ramfs,
            console: dir.join("console"),
            memory: "1024",
            clock: Clock::Real,
        };
        // The programs first, which says more of one that is refused.
        let booted = machine.boot().and_then(|report| {
            node::network(&equipment, &kernel, &dir)?;
            Ok(report)
        });
        match booted {
            Ok(report) => reports.push(report),
            Err(e) => {
                eprintln!("{e:#}");
                refused.push(*name);
            }
        }
    }
    if !refused.is_empty() {
        bail!("failed on kernel {}", refused.join(", "));
    }
    budget::judge(&reports)?;
    Ok((!absent.is_empty()).then(|| format!("no kernel from the mirror: {}", absent.join(", "))))
}

/// Boots a whole node with nothing but cgroup2.
///
/// # Errors
/// A limit does not hold there.
pub fn node() -> Result<Skipped> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok(Some("the kernels are Debian's for x86_64, and this machine is none".to_owned()));
    }
    node::run(&Equipment::provide()?)
}

/// What all these machines need.
struct Equipment {
    /// Their first process.
    init: PathBuf,
    qemu: Qemu,
}

impl Equipment {
    fn provide() -> Result<Self> {
        let qemu = deps::for_kernels()?;
        execute(&mut cargo(&["rustc", "-p", "kernel-check", "--", "-C", "target-feature=+crt-static"]))?;
        Ok(Self { init: workspace::target()?.join("debug/kernel-check"), qemu })
    }
}

/// What an emulated machine's clock follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// The time here: what the emulation is slow at, or this machine does meanwhile, passes there.
    Real,
    /// The instructions that it executes, of 8 ns each: nothing else is seen by its timers, its
    /// accounting of processor time and its programs' patience. Time in which it waits is skipped.
    Instructions,
}

/// An emulated machine.
struct Machine<'a> {
    qemu: &'a Qemu,
    kernel: PathBuf,
    ramfs: PathBuf,
    /// Where what it says goes.
    console: PathBuf,
    /// MiB.
    memory: &'static str,
    clock: Clock,
}

impl Machine<'_> {
    /// Boots it, a second time when it ended without a word, which emulation does now and then; what
    /// it reported.
    fn boot(&self) -> Result<String> {
        let console = &self.console;
        for attempt in 1..=2 {
            let start = Instant::now();
            let status = self.run()?;
            let bytes = fs::read(console).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).replace('\r', "");
            let reported = text.find("kernel-check: ").map_or("", |start| &text[start..]);
            for line in reported.lines() {
                eprintln!("    {}", line.trim_start_matches("kernel-check: "));
            }
            eprintln!("    {:.1} s", start.elapsed().as_secs_f64());
            if status == Some(1) && text.contains("kernel-check: ok") {
                return Ok(reported.to_owned());
            }
            if text.contains("kernel-check: failed") {
                bail!("the programs failed there (console: {})", console.display());
            }
            eprintln!("    attempt {attempt}: the machine ended ({status:?}) without a result");
        }
        let bytes = fs::read(console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        bail!(
            "no result twice; the console ends with:\n{}",
            lines[lines.len().saturating_sub(20)..].join("\n")
        )
    }

    /// The exit status; `None` when it had to be killed.
    fn run(&self) -> Result<Option<i32>> {
        let mut c = self.qemu.command();
        c.args(["-cpu", "Haswell-v4", "-m", self.memory]);
        c.args(match self.clock {
            Clock::Real => &["-accel", "tcg,thread=multi"][..],
            Clock::Instructions => &["-accel", "tcg,thread=single", "-icount", "shift=3,sleep=off"],
        });
        c.args(["-smp", "1", "-nodefaults", "-display", "none", "-no-reboot"]);
        c.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        c.arg("-serial").arg(format!("file:{}", self.console.display()));
        c.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.ramfs);
        c.args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off"]);
        let _ = fs::remove_file(&self.console);
        // What an emulated processor lacks is of no interest; what the guest says is in the console.
        let mut child = c.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run QEMU")?;
        let begun = Instant::now();
        while begun.elapsed() < LONGEST && used(child.id()) < PATIENCE {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        child.kill()?;
        child.wait()?;
        Ok(None)
    }
}

/// The processor time that a process has used.
fn used(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: the 12th and 13th word, in hundredths of a second.
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Duration::from_millis(words.filter_map(|w| w.parse::<u64>().ok()).sum::<u64>() * 10)
}
