//! The table: option → what a look from inside shows. Docker's words, units and defaults.

use std::path::Path;

use anyhow::{Context, Result};

use super::rows::{Row, node, outside, row, run, surroundings};

/// Docker's default set: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
/// NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const CAPS: u64 = 0xa804_25fb;
const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;

fn caps(set: u64) -> String {
    format!("{set:016x}")
}

fn defaults() -> Vec<Row> {
    // With the first version each controller has a mount of its own.
    let first = Path::new("/sys/fs/cgroup/memory").exists();
    let cgroups = if first { "mount./sys/fs/cgroup/memory" } else { "mount./sys/fs/cgroup" };
    let mut plain = row("plain", "")
        .is("arg.0", "/testbox")
        .is("arg.1", "look")
        .absent("arg.2")
        .is("env.PATH", "/")
        .is("env.HOME", "/")
        .absent("env.TERM")
        .is("cwd", "/")
        .is("uid", "0")
        .is("gid", "0")
        .is("pid", "1")
        .is("pid1", "testbox")
        .is("umask", "0022")
        .is("cap.eff", caps(CAPS))
        .is("cap.prm", caps(CAPS))
        .is("cap.bnd", caps(CAPS))
        .is("cap.amb", caps(0))
        .is("no_new_privs", "0")
        .is("seccomp", "2")
        .is("write./", "ok")
        .is("shm.bytes", (64 << 20).to_string())
        .has("mount./proc", "proc rw")
        .has("mount./sys", "sysfs ro")
        .has(cgroups, "cgroup")
        .has(cgroups, " ro,")
        .has("mount./dev", "tmpfs")
        .has("mount./dev/shm", "tmpfs rw,nosuid,nodev,noexec")
        .has("mount./dev/pts", "devpts")
        .has("mount./dev/mqueue", "mqueue")
        .is("interfaces", "eth0,lo")
        .has("file./etc/hosts", "localhost")
        .is("tty.stdin", "false")
        .is("tty.stdout", "false")
        .is("tty.stderr", "false")
        .is("oom_score_adj", "0")
        .is("sysctl.net.ipv4.ip_unprivileged_port_start", "0")
        .is("sysctl.net.ipv4.ping_group_range", "0\t2147483647")
        .is("open./proc/sys/kernel/hostname", "EROFS")
        .absent("dev./dev/fuse")
        .absent("dev./dev/loop0");
    for device in ["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9"] {
        let (name, number) = device.split_once(' ').expect("two words");
        plain = plain.has(&format!("dev./dev/{name}"), format!("c {number} 666 r=ok"));
    }
    for path in ["acpi", "kcore", "keys", "latency_stats", "timer_list", "sched_debug", "scsi"] {
        plain = plain.not(&format!("masked./proc/{path}"), "full");
    }
    plain = plain.not("masked./sys/firmware", "full");
    for call in ["unshare_user", "unshare_mount", "unshare_net", "mount", "keyctl", "swapoff", "sethostname"]
    {
        plain = plain.is(&format!("call.{call}"), "EPERM");
    }
    for call in ["mknod", "chown", "chmod", "ping_socket", "raw_socket", "bind_low", "ptrace"] {
        plain = plain.is(&format!("call.{call}"), "ok");
    }
    vec![plain]
}

fn process() -> Vec<Row> {
    vec![
        row("env", "--env A=1 --env|B=x y|--env PATH=/bin --env FROM_HERE --env GONE_FROM_HERE")
            .is("env.A", "1")
            .is("env.B", "x y")
            .is("env.PATH", "/bin")
            .is("env.FROM_HERE", "yes")
            .absent("env.GONE_FROM_HERE"),
        row("env-file", "--env-file {dir}/env --env BOTH=flag")
            .is("env.C", "3")
            .is("env.BOTH", "flag")
            .is("env.FROM_HERE", "yes")
            .has("env.SPACED", "a b")
            .absent("env.# a comment"),
        row("entrypoint", "--entrypoint|/testbox look 'from entrypoint'")
            .is("arg.2", "from entrypoint")
            .absent("arg.3"),
        row("arg", "--arg look --arg|two words").is("arg.1", "look").is("arg.2", "two words").absent("arg.3"),
        row("args", "").args("look -x --image").is("arg.2", "-x").is("arg.3", "--image"),
        row("workdir", "--workdir /tmp").is("cwd", "/tmp"),
        row("workdir-made", "--workdir /made/up").is("cwd", "/made/up"),
        row("user", "--user app")
            .is("uid", "1000")
            .is("gid", "1000")
            .has("groups", "29")
            .is("env.HOME", "/home/app")
            .is("cap.eff", caps(0))
            .is("cap.bnd", caps(CAPS))
            .is("call.chown", "EPERM")
            .is("call.bind_low", "ok")
            .is("call.ping_socket", "ok"),
        row("user-numbers", "--user 1234:4321").is("uid", "1234").is("gid", "4321").is("env.HOME", "/"),
        row("user-group", "--user app:audio").is("uid", "1000").is("gid", "29"),
        row("group", "--user app --group 777").has("groups", "777"),
        row("group-name", "--group audio --group 12").has("groups", "12,29"),
        row("init", "--init").not("pid", "1").not("pid1", "testbox"),
        row("tty", "--tty")
            .is("tty.stdin", "true")
            .is("tty.stdout", "true")
            .is("tty.stderr", "true")
            .is("env.TERM", "xterm"),
        row("ulimit", "--ulimit nofile=1024:2048 --ulimit core=0 --ulimit nproc=512")
            .is("rlimit.nofile", "1024:2048")
            .is("rlimit.core", "0:0")
            .is("rlimit.nproc", "512:512"),
        row("oom-score-adj", "--oom-score-adj 500").is("oom_score_adj", "500"),
    ]
}

fn names() -> Vec<Row> {
    vec![
        row("hostname", "--hostname box")
            .is("hostname", "box")
            .is("env.HOSTNAME", "box")
            .is("file./etc/hostname", "box")
            .has("file./etc/hosts", "box"),
        row("host", "--host db:10.1.2.3 --host six:fd00::5")
            .has("file./etc/hosts", "10.1.2.3\tdb")
            .has("file./etc/hosts", "fd00::5\tsix"),
        row("dns", "--dns 192.0.2.53 --dns 192.0.2.54")
            .has("file./etc/resolv.conf", "nameserver 192.0.2.53")
            .has("file./etc/resolv.conf", "nameserver 192.0.2.54"),
        row("dns-search", "--dns-search one.example --dns-search two.example")
            .has("file./etc/resolv.conf", "search one.example two.example"),
        row("dns-option", "--dns-option ndots:3 --dns-option rotate")
            .has("file./etc/resolv.conf", "options ndots:3 rotate"),
    ]
}

fn files() -> Vec<Row> {
    vec![
        row("read-only", "--read-only").is("write./", "EROFS").has("mount./", "overlay ro"),
        row("read-only-tmpfs", "--read-only --mount type=tmpfs,target=/tmp")
            .args("look write=/tmp/x")
            .is("write./", "EROFS")
            .is("write./tmp/x", "ok"),
        row("shm-size", "--shm-size 128m").is("shm.bytes", (128 << 20).to_string()),
        row("bind", "--mount type=bind,source={dir}/bind,target=/in")
            .args("look read=/in/file write=/in/from-inside")
            .is("file./in/file", "of the node")
            .is("write./in/from-inside", "ok"),
        row("bind-file", "--mount type=bind,src={dir}/bind/file,dst=/etc/of-the-node,readonly")
            .args("look read=/etc/of-the-node write=/etc/of-the-node")
            .is("file./etc/of-the-node", "of the node")
            .is("write./etc/of-the-node", "EROFS"),
        row("bind-read-only", "--mount type=bind,source={dir}/bind,target=/in,readonly")
            .args("look write=/in/from-read-only")
            .is("write./in/from-read-only", "EROFS")
            .has("mount./in", " ro"),
        row("bind-private", "--mount type=bind,source={dir}/shared,target=/in").has("mount./in", " - "),
        row("bind-slave", "--mount type=bind,source={dir}/shared,target=/in,bind-propagation=rslave")
            .has("mount./in", "master:"),
        row("bind-shared", "--mount type=bind,source={dir}/shared,target=/in,bind-propagation=rshared")
            .has("mount./in", "shared:"),
        row("bind-deep", "--mount type=bind,source={dir}/deep,target=/in")
            .args("look read=/in/below/file")
            .is("file./in/below/file", "below"),
        row("bind-shallow", "--mount type=bind,source={dir}/deep,target=/in,bind-nonrecursive=true")
            .args("look read=/in/below/file")
            .is("file./in/below/file", "ENOENT"),
        row("tmpfs", "--mount type=tmpfs,target=/scratch,tmpfs-size=1m,tmpfs-mode=700")
            .args("look write=/scratch/x")
            .is("write./scratch/x", "ok")
            .has("mount./scratch", "tmpfs rw")
            .has("mount./scratch", "size=1024k")
            .has("mount./scratch", "mode=700"),
        row("volume", "--mount type=volume,source=named,target=/data")
            .args("look write=/data/x")
            .is("write./data/x", "ok"),
        row("volume-nameless", "--mount type=volume,target=/data")
            .args("look write=/data/x entries=/data")
            .is("entries./data", "1"),
        row("volume-copy", "--mount type=volume,source=copied,target=/etc")
            .args("look read=/etc/greeting")
            .is("file./etc/greeting", "hello from the image"),
        row("volume-nocopy", "--mount type=volume,source=empty,target=/home,volume-nocopy")
            .args("look entries=/home")
            .is("entries./home", "0"),
        row("volume-read-only", "--mount type=volume,source=read,target=/data,readonly")
            .args("look write=/data/x")
            .is("write./data/x", "EROFS"),
    ]
}

fn security(every: u64) -> Vec<Row> {
    // A device that most kernels have and no container gets by itself.
    let device = ["/dev/fuse", "/dev/net/tun", "/dev/loop-control"].into_iter();
    let device = device.filter(|d| Path::new(d).exists()).find(|d| std::fs::File::open(d).is_ok());
    let device = device.unwrap_or("/dev/kmsg");
    vec![
        row("cap-add", "--cap-add NET_ADMIN").is("cap.eff", caps(CAPS | NET_ADMIN)),
        row("cap-add-prefix", "--cap-add CAP_NET_ADMIN").is("cap.bnd", caps(CAPS | NET_ADMIN)),
        row("cap-add-small", "--cap-add net_admin").is("cap.prm", caps(CAPS | NET_ADMIN)),
        row("cap-add-all", "--cap-add ALL").is("cap.eff", caps(every)).is("seccomp", "2"),
        // The list of system calls follows the capabilities.
        row("cap-sys-admin", "--cap-add SYS_ADMIN").is("call.mount", "ok").is("call.unshare_mount", "ok"),
        row("cap-drop", "--cap-drop CHOWN").is("cap.eff", caps(CAPS & !CHOWN)).is("call.chown", "EPERM"),
        row("cap-drop-all", "--cap-drop ALL").is("cap.eff", caps(0)).is("cap.bnd", caps(0)),
        row("cap-only", "--cap-drop ALL --cap-add CHOWN").is("cap.eff", caps(CHOWN)).is("call.chown", "ok"),
        row("cap-net-raw", "--cap-drop NET_RAW").is("call.raw_socket", "EPERM").is("call.ping_socket", "ok"),
        row("privileged", "--privileged")
            .is("cap.eff", caps(every))
            .is("seccomp", "0")
            .is("masked./proc/timer_list", "full")
            .is("open./proc/sys/kernel/hostname", "ok")
            .has("mount./sys", "sysfs rw")
            .has(&format!("dev.{device}"), "r=ok")
            .is("call.mount", "ok"),
        row("device", &format!("--device {device}")).has(&format!("dev.{device}"), "r=ok w=ok"),
        row("device-read", &format!("--device {device}:/dev/other:r")).has("dev./dev/other", "r=ok w=EPERM"),
        row("sysctl", "--sysctl net.core.somaxconn=1234 --sysctl kernel.msgmax=4096")
            .is("sysctl.net.core.somaxconn", "1234")
            .is("sysctl.kernel.msgmax", "4096"),
        row("sysctl-low-ports", "--user app --sysctl net.ipv4.ip_unprivileged_port_start=1024")
            .is("call.bind_low", "EACCES"),
        row("no-new-privileges", "--security-opt no-new-privileges").is("no_new_privs", "1"),
        row("seccomp-unconfined", "--security-opt seccomp=unconfined")
            .is("seccomp", "0")
            .is("call.keyctl", "ok")
            .is("call.unshare_user", "ok"),
        row("seccomp-profile", "--security-opt seccomp={dir}/seccomp.json")
            .is("seccomp", "2")
            .is("call.chmod", "EPERM")
            .is("call.keyctl", "ok"),
        row("systempaths", "--security-opt systempaths=unconfined")
            .is("masked./proc/timer_list", "full")
            .is("open./proc/sys/kernel/hostname", "ok"),
    ]
}

fn network(interfaces: &str) -> Vec<Row> {
    vec![
        row("network-none", "--network none").is("interfaces", "lo"),
        // The node's own, whatever comes and goes there with other rows.
        row("network-host", "--network host")
            .has("interfaces", interfaces)
            .is("sysctl.net.ipv4.ip_unprivileged_port_start", "1024"),
    ]
}

fn limits() -> Vec<Row> {
    vec![
        row("cpus", "--cpus 0.5").has("limit.cpu", "50000"),
        row("cpus-hold", "--cpus 0.5").args("burn 2 2").at_most("processors", 0.65),
        row("memory", "--memory 64m").is("limit.memory", (64 << 20).to_string()),
        row("memory-reservation", "--memory 64m --memory-reservation 32m")
            .is("limit.memory_reservation", (32 << 20).to_string()),
        row("memory-swap", "--memory 64m --memory-swap 96m").has("limit.memory_swap", ""),
        row("memory-twice", "--memory 64m").is("limit.memory_swap", (128 << 20).to_string()),
        row("pids-limit", "--pids-limit 10").is("limit.pids", "10"),
        row("pids-hold", "--pids-limit 10").args("fork 30").has("forked", "9 "),
    ]
}

#[test]
#[ignore = "needs root"]
fn every_option_is_seen_from_inside() -> Result<()> {
    let (_cluster, node) = node()?;
    surroundings(&node)?;
    let outside = outside(&node)?;
    let every = outside.get("cap.bnd").context("our own capabilities")?;
    let every = u64::from_str_radix(every, 16)?;
    let rows: Vec<Row> =
        [defaults(), process(), names(), files(), security(every), network("eth0"), limits()]
            .into_iter()
            .flatten()
            .collect();
    run(&node, &rows)?;
    // Written from inside, seen on the node.
    let written = std::fs::read_to_string(node.dir().join("bind/from-inside"))?;
    anyhow::ensure!(written == "written\n", "{written:?}");
    Ok(())
}
