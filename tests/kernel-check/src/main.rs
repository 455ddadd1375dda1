//! The first and only process of a kernel that `cargo xtask test --kernels` boots under QEMU: it
//! loads every program of the BPF object, attaches each the way the agent does (TCX from 6.6 on,
//! clsact below), writes what it found to the console and ends the machine. Never run it anywhere
//! else: it takes itself for init.

mod network;
mod node;

use std::{
    fs::{self, File},
    net::UdpSocket,
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, Program, ProgramError, SchedClassifier, TcAttachType, XdpMode, tc},
    util::KernelVersion,
};
use nix::mount::{MsFlags, mount};

const OBJECT: &str = "/warren-ebpf.o";
const MODULES: &str = "/modules";
const CGROUPS: &str = "/cgroup";

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("kernel-check: is the init of a test kernel: run `cargo xtask test --kernels`");
        return ExitCode::FAILURE;
    }
    let done = if node::is_here() { node::check() } else { check() };
    let status = match done {
        Ok(()) => {
            println!("kernel-check: ok");
            0
        }
        Err(e) => {
            println!("kernel-check: failed: {e:?}");
            1
        }
    };
    end_machine(status)
}

fn check() -> Result<()> {
    for (kind, dir) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("cgroup2", CGROUPS)] {
        fs::create_dir_all(dir)?;
        match mount(Some(kind), dir, Some(kind), MsFlags::empty(), None::<&str>) {
            // The kernel may have mounted it by itself.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(e) => return Err(e).with_context(|| format!("mount {dir}")),
        }
    }
    println!("kernel-check: {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    modules()?;
    up("lo")?;
    let tcx = KernelVersion::current()? >= KernelVersion::new(6, 6, 0);
    let mut object = EbpfLoader::new().load_file(OBJECT).context("the object's maps")?;
    let names: Vec<String> = object.programs().map(|(name, _)| name.to_owned()).collect();
    ensure!(!names.is_empty(), "the object has no program");
    let mut refused = Vec::new();
    for name in names {
        if let Err(e) = one(&mut object, &name, tcx) {
            println!("kernel-check: {name}: {e:?}");
            refused.push(name);
        }
    }
    ensure!(refused.is_empty(), "refused: {}", refused.join(", "));
    // The programs see this packet, and must leave the host's own traffic alone.
    let (a, b) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    b.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    a.send_to(b"through", b.local_addr()?)?;
    b.recv_from(&mut [0; 16]).context("a datagram on lo, through the programs")?;
    Ok(())
}

fn one(object: &mut Ebpf, name: &str, tcx: bool) -> Result<()> {
    let program = object.program_mut(name).context("vanished")?;
    let how = match program {
        Program::SchedClassifier(p) => {
            p.load().map_err(verifier)?;
            if !tcx {
                // Of several programs the first makes the queueing discipline.
                let _ = tc::qdisc_add_clsact("lo");
            }
            p.attach("lo", TcAttachType::Ingress).context("attach")?;
            if tcx {
                let (_, attached) = SchedClassifier::query_tcx("lo", TcAttachType::Ingress)?;
                ensure!(!attached.is_empty(), "attached, yet no TCX program is listed");
                "tcx"
            } else {
                "clsact"
            }
        }
        Program::CgroupSockAddr(p) => {
            p.load().map_err(verifier)?;
            // No flag: a link stands beside others anyway, and older kernels refuse flags here.
            p.attach(File::open(CGROUPS)?, CgroupAttachMode::Single).context("attach")?;
            "cgroup"
        }
        Program::Xdp(p) => {
            p.load().map_err(verifier)?;
            // lo has no driver: the kernel runs it there itself.
            p.attach("lo", XdpMode::Skb).context("attach")?;
            "xdp"
        }
        other => bail!("kernel-check cannot attach a program of type {:?}", other.prog_type()),
    };
    let info = object.program(name).context("vanished")?.info()?;
    let verified = info.verified_instruction_count().map_or("?".into(), |n| n.to_string());
    println!(
        "kernel-check: {name}: {verified} instructions verified, {} bytes, {how}",
        info.size_translated().unwrap_or(0)
    );
    Ok(())
}

/// The end of the verifier's log says what it refused.
fn verifier(e: ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, verifier_log } = &e {
        let log = verifier_log.to_string();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        return anyhow::anyhow!("the verifier refused it ({io_error}):\n{}", tail.join("\n"));
    }
    e.into()
}

/// Loads the modules that were put into the initramfs, in the order of their names.
fn modules() -> Result<()> {
    let mut files: Vec<_> = fs::read_dir(MODULES)?.collect::<std::io::Result<Vec<_>>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        let image = fs::read(file.path())?;
        // SAFETY: the pointers are to a buffer and a terminated string that outlive the call.
        let done = unsafe { libc::syscall(libc::SYS_init_module, image.as_ptr(), image.len(), c"".as_ptr()) };
        if done != 0 {
            let e = std::io::Error::last_os_error();
            ensure!(e.raw_os_error() == Some(libc::EEXIST), "module {}: {e}", file.path().display());
        }
    }
    Ok(())
}

/// Sets a device up.
fn up(device: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("a socket")?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    let done =
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS as _, &request) };
    ensure!(done == 0, "{device} up: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Ends QEMU through its debug-exit device: it exits with 2 × `status` + 1.
fn end_machine(status: u32) -> ! {
    // SAFETY: sync takes nothing.
    unsafe { libc::sync() };
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the port is the debug device's, and nothing else runs here.
    unsafe {
        libc::ioperm(0xf4, 4, 1);
        std::arch::asm!("out dx, eax", in("dx") 0xf4_u16, in("eax") status);
    }
    // SAFETY: takes no pointers. Reached where there is no debug device: the runner then sees that
    // nothing was reported.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::exit(status.cast_signed())
}
