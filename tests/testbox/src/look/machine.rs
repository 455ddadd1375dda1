//! What /proc, /sys and /dev show.

use std::{
    ffi::CString,
    fs,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
};

use super::{Look, outcome};

/// Sysctls of a container's own namespaces that a test may ask for.
const SYSCTLS: &[&str] = &[
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_keepalive_time",
    "net.core.somaxconn",
    "net.ipv4.ip_forward",
    "kernel.shmmax",
    "kernel.msgmax",
    "fs.mqueue.msg_max",
];
/// What Docker hides.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What Docker shows, but not to write to; `/proc/sys` through a file whose own value is put back.
const READ_ONLY: &[&str] =
    &["/proc/sysrq-trigger", "/proc/sys/kernel/hostname", "/proc/irq/default_smp_affinity"];
/// Limits, under the names of both versions of control groups, the first that is there.
const LIMITS: &[(&str, &[&str])] = &[
    ("memory", &["memory/memory.limit_in_bytes", "memory.max"]),
    ("memory_swap", &["memory/memory.memsw.limit_in_bytes", "memory.swap.max"]),
    ("memory_reservation", &["memory/memory.soft_limit_in_bytes", "memory.low"]),
    ("cpu", &["cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us", "cpu.max"]),
    ("pids", &["pids/pids.max", "pids.max"]),
];
const RLIMITS: &[(&str, libc::__rlimit_resource_t)] = &[
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// Status, limits, terminal.
pub fn process(l: &mut Look) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let key = match name {
            "CapInh" => "cap.inh",
            "CapPrm" => "cap.prm",
            "CapEff" => "cap.eff",
            "CapBnd" => "cap.bnd",
            "CapAmb" => "cap.amb",
            "NoNewPrivs" => "no_new_privs",
            "Seccomp" => "seccomp",
            "Umask" => "umask",
            _ => continue,
        };
        l.put(key, value.trim());
    }
    for (name, resource) in RLIMITS {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a limit that lives through the call.
        if unsafe { libc::getrlimit(*resource, &raw mut limit) } == 0 {
            let shown = |n| if n == libc::RLIM_INFINITY { "unlimited".into() } else { format!("{n}") };
            l.put(format!("rlimit.{name}"), format!("{}:{}", shown(limit.rlim_cur), shown(limit.rlim_max)));
        }
    }
    for (name, fd) in [("stdin", 0), ("stdout", 1), ("stderr", 2)] {
        // SAFETY: no pointer is passed.
        l.put(format!("tty.{name}"), unsafe { libc::isatty(fd) } == 1);
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a size that lives through the call.
    if unsafe { libc::ioctl(1, libc::TIOCGWINSZ, &raw mut size) } == 0 {
        l.put("tty.size", format!("{}x{}", size.ws_row, size.ws_col));
    }
    l.put("pid", std::process::id());
    l.file("pid1", "/proc/1/comm");
    l.file("oom_score_adj", "/proc/self/oom_score_adj");
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in cgroups.lines() {
        if let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] {
            l.put(format!("cgroup.{controllers}"), path);
        }
    }
}

/// The mount table, and whether the root can be written to.
pub fn mounts(l: &mut Look) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(target), Some(options)) = (left.get(4), left.get(5)) else { continue };
        let propagation = match left[6..].join(",") {
            none if none.is_empty() => "-".to_owned(),
            some => some,
        };
        let (fstype, own) = (right.first().unwrap_or(&"-"), right.get(2).unwrap_or(&"-"));
        l.put(format!("mount.{target}"), format!("{fstype} {options} {propagation} {own}"));
    }
    let probe = format!("/.look-{}", std::process::id());
    l.put("write./", outcome(fs::write(&probe, "")));
    let _ = fs::remove_file(probe);
    // SAFETY: all zeroes is a valid statvfs, and both pointers live through the call.
    let mut shm: libc::statvfs = unsafe { std::mem::zeroed() };
    let path = CString::new("/dev/shm").expect("no zero in it");
    // SAFETY: as above.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut shm) } == 0 {
        l.put("shm.bytes", shm.f_blocks * shm.f_frsize);
    }
    for path in MASKED {
        l.put(format!("masked.{path}"), hidden(path));
    }
    for path in READ_ONLY {
        // Opened, and nothing written.
        l.put(format!("open.{path}"), outcome(fs::OpenOptions::new().write(true).open(path)));
    }
}

fn hidden(path: &str) -> &'static str {
    match fs::metadata(path) {
        Err(_) => "absent",
        Ok(m) if m.is_dir() => match fs::read_dir(path).map(Iterator::count) {
            Ok(0) | Err(_) => "empty",
            Ok(_) => "full",
        },
        // Hidden files are /dev/null; the core of the kernel must not be read to find out.
        Ok(m) if m.file_type().is_char_device() => "empty",
        Ok(_) => "full",
    }
}

/// Every device below /dev, and whether it opens.
pub fn devices(l: &mut Look) {
    let mut open = vec!["/dev".to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path().display().to_string();
            // To open a watchdog is to arm it.
            if path.contains("watchdog") {
                continue;
            }
            let Ok(m) = fs::symlink_metadata(&path) else { continue };
            if m.is_dir() && path != "/dev/pts" {
                open.push(path);
                continue;
            }
            let kind = match m.file_type() {
                t if t.is_char_device() => "c",
                t if t.is_block_device() => "b",
                _ => continue,
            };
            let opened = |write: bool| {
                let mut how = fs::OpenOptions::new();
                how.read(!write).write(write).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
                outcome(how.open(&path).map(|f| f.as_raw_fd()))
            };
            let (read, write) = (opened(false), opened(true));
            let (major, minor) = (libc::major(m.rdev()), libc::minor(m.rdev()));
            let mode = m.permissions().mode() & 0o777;
            l.put(format!("dev.{path}"), format!("{kind} {major}:{minor} {mode:o} r={read} w={write}"));
        }
    }
}

/// Sysctls, devices of the network, limits.
pub fn kernel(l: &mut Look) {
    for name in SYSCTLS {
        l.file(format!("sysctl.{name}"), format!("/proc/sys/{}", name.replace('.', "/")));
    }
    let devices = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let mut names: Vec<&str> =
        devices.lines().skip(2).filter_map(|l| Some(l.split_once(':')?.0.trim())).collect();
    names.sort_unstable();
    l.put("interfaces", names.join(","));
    for (name, files) in LIMITS {
        if let Some(text) = files.iter().find_map(|f| fs::read_to_string(format!("/sys/fs/cgroup/{f}")).ok())
        {
            l.put(format!("limit.{name}"), text);
        }
    }
}
