//! First process of a kernel under QEMU. Loads every program of the object, attaches the classifiers
//! to a device (TCX where the kernel has it, clsact where not) and runs each once, then ends the
//! machine with a result that QEMU turns into its exit status.
//!
//! `cargo xtask test --kernels` puts it into an initramfs as `/init`, with the object as
//! `/warren-ebpf.o` and the modules it needs, in order, in `/modules`. Lines that begin with
//! `check: ` on the serial console are for the one who started the machine.

use std::{fs, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context as _, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Program, SchedClassifier, TcAttachType, TestRun as _,
        TestRunOptions, tc,
    },
};
use nix::mount::{MsFlags, mount};

/// "Not ours": what a classifier must answer to a packet that is none of its business.
const TC_ACT_UNSPEC: u32 = u32::MAX;

fn main() {
    let result = check();
    match &result {
        Ok(()) => println!("check: passed"),
        Err(e) => println!("check: FAILED: {e:#}"),
    }
    end(result.is_ok());
}

fn check() -> anyhow::Result<()> {
    for (what, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        let _ = fs::create_dir_all(target);
        mount(Some(what), target, Some(what), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {what}"))?;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("check: kernel {}", release.trim());
    load_modules()?;

    let object = fs::read("/warren-ebpf.o").context("read the object")?;
    let mut ebpf: Ebpf = EbpfLoader::new().load(&object).context("load the maps")?;
    let cgroup = fs::File::open("/sys/fs/cgroup")?;
    let mut programs = 0;
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    for name in names {
        let program = ebpf.program_mut(&name).ok_or_else(|| anyhow!("{name} is gone"))?;
        match program {
            Program::SchedClassifier(p) => classifier(p).with_context(|| name.clone())?,
            Program::CgroupSockAddr(p) => {
                load(p.load())?;
                // As a link: the kernel takes any number of those, and no attach flags with them.
                p.attach(&cgroup, CgroupAttachMode::default())
                    .with_context(|| format!("attach {name} to the root cgroup"))?;
            }
            other => bail!("{name} is of a type nobody tests: {:?}", other.prog_type()),
        }
        let instructions = info(ebpf.program(&name))?;
        println!("check: program {name} verified {instructions} instructions");
        programs += 1;
    }
    if programs == 0 {
        bail!("the object has no programs");
    }
    let kind = if tcx(&release) { "TCX" } else { "clsact" };
    println!("check: {programs} programs attached, classifiers by {kind}");
    Ok(())
}

fn load(result: Result<(), aya::programs::ProgramError>) -> anyhow::Result<()> {
    result.map_err(|e| match e {
        // The end of the verifier's log is where it says no.
        aya::programs::ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            for line in tail.into_iter().rev() {
                println!("{line}");
            }
            anyhow!("the verifier refuses it: {io_error}")
        }
        other => other.into(),
    })
}

fn classifier(p: &mut SchedClassifier) -> anyhow::Result<()> {
    load(p.load())?;
    // Fails on a kernel with TCX when none is attached yet; attaching says so if it matters.
    let _ = tc::qdisc_add_clsact("lo");
    p.attach("lo", TcAttachType::Ingress).context("attach to lo")?;
    // An ARP request: whatever the program is for, this is not.
    let mut packet = [0u8; 64];
    packet[12..14].copy_from_slice(&[0x08, 0x06]);
    let options = TestRunOptions { data_in: Some(&packet), repeat: 1, ..TestRunOptions::default() };
    let result = p.test_run(options).context("run it once")?;
    if result.return_value != TC_ACT_UNSPEC {
        bail!("an ARP request was answered with {}, not passed on", result.return_value.cast_signed());
    }
    Ok(())
}

fn info(program: Option<&Program>) -> anyhow::Result<u32> {
    let info = match program {
        Some(Program::SchedClassifier(p)) => p.info()?,
        Some(Program::CgroupSockAddr(p)) => CgroupSockAddr::info(p)?,
        _ => bail!("no such program"),
    };
    info.verified_instruction_count().ok_or_else(|| anyhow!("the kernel does not say how much it verified"))
}

/// TCX came with 6.6.
fn tcx(release: &str) -> bool {
    let mut parts = release.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 6)
}

/// Loads `/modules/<n>-<name>.ko` in order.
fn load_modules() -> anyhow::Result<()> {
    let Ok(dir) = fs::read_dir("/modules") else { return Ok(()) };
    let mut files: Vec<_> = dir.map(|f| Ok(f?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    for path in files {
        let file = fs::File::open(&path)?;
        // SAFETY: finit_module reads the descriptor and the empty parameter string, both alive.
        let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        if result != 0 {
            let e = std::io::Error::last_os_error();
            if e.raw_os_error() != Some(libc::EEXIST) {
                bail!("load module {}: {e}", Path::new(&path).display());
            }
        }
    }
    Ok(())
}

/// Ends the machine through QEMU's `isa-debug-exit` device at port 0xf4: QEMU exits with 2n + 1.
fn end(passed: bool) -> ! {
    // So that the console is written out before the machine is gone.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    nix::unistd::sync();
    #[cfg(target_arch = "x86_64")]
    {
        let code: u32 = if passed { 0 } else { 3 };
        // SAFETY: this process is root on a machine made for it alone; the port is the exit device's.
        unsafe {
            libc::ioperm(0xf4, 4, 1);
            core::arch::asm!("out dx, eax", in("dx") 0xf4u16, in("eax") code);
        }
    }
    let _ = passed;
    // Without the device: power off, which QEMU reports as 0, read as "did not report".
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    loop {
        std::thread::park();
    }
}
