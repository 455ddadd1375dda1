//! The list for containers of which nothing else is said: what Docker's default profile lets
//! containers do, by subject. A program that works in Docker must work here, and what Docker keeps
//! from the kernel's sharp edges is kept from them here.
//!
//! Names that a kernel or libseccomp does not know are no error: runc leaves them out.

use oci_spec::runtime::{
    LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator as Is,
};

use super::{Condition, Family, Profile, Rule};

/// Files by name or descriptor: opening, reading, writing, naming, owning, watching.
const FILES: &str = "
    access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32
    fchownat lchown lchown32 close close_range creat open openat openat2 dup dup2 dup3
    fcntl fcntl64 flock ioctl lseek _llseek read readv pread64 preadv preadv2 write writev
    pwrite64 pwritev pwritev2 readahead fadvise64 fadvise64_64 fallocate truncate truncate64
    ftruncate ftruncate64 copy_file_range sendfile sendfile64 splice tee vmsplice
    stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs
    fstatfs64 cachestat umask utime utimes futimesat utimensat utimensat_time64
    sync syncfs fsync fdatasync sync_file_range
    link linkat symlink symlinkat unlink unlinkat rename renameat renameat2 readlink readlinkat
    mkdir mkdirat rmdir mknod mknodat chdir fchdir getcwd getdents getdents64
    name_to_handle_at listmount statmount
    getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
    listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark";

/// Waiting for descriptors, and passing bytes between processes.
const WAITING: &str = "
    select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait
    epoll_pwait2 eventfd eventfd2 signalfd signalfd4 pipe pipe2
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64";

/// Sockets, except which kinds may be made.
const SOCKETS: &str = "
    socketcall socketpair bind connect listen accept accept4 shutdown getsockname getpeername
    getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg
    recvmmsg_time64";

/// Memory.
const MEMORY: &str = "
    brk mmap mmap2 munmap mremap mprotect madvise mincore msync mseal mlock mlock2 mlockall munlock
    munlockall remap_file_pages membarrier memfd_create memfd_secret map_shadow_stack
    pkey_alloc pkey_free pkey_mprotect process_mrelease";

/// Processes and threads: their life, limits and scheduling.
const PROCESSES: &str = "
    fork vfork execve execveat exit exit_group wait4 waitid waitpid pidfd_open pidfd_send_signal
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid
    getrlimit ugetrlimit setrlimit prlimit64 getrusage times getpriority setpriority
    ioprio_get ioprio_set sched_getaffinity sched_setaffinity sched_getattr sched_setattr
    sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
    sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64 sched_yield
    prctl seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
    set_tid_address set_robust_list get_robust_list set_thread_area get_thread_area rseq
    futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue
    getcpu getrandom uname sysinfo restart_syscall uretprobe riscv_hwprobe";

/// Users, groups and capabilities of the process itself.
const IDENTITY: &str = "
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32
    getresuid getresuid32 getresgid getresgid32 getgroups getgroups32
    setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32
    setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32
    setgroups setgroups32 capget capset";

/// Signals and time.
const SIGNALS: &str = "
    kill tkill tgkill pause sigaltstack sigprocmask sigreturn rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo
    alarm getitimer setitimer nanosleep clock_nanosleep clock_nanosleep_time64
    time gettimeofday clock_getres clock_getres_time64 clock_gettime clock_gettime64
    adjtimex clock_adjtime clock_adjtime64
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64";

/// System V and POSIX queues, semaphores and shared memory.
const QUEUES: &str = "
    ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64
    shmat shmctl shmdt shmget mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64";

/// What a capability of the container opens beyond that.
const PRIVILEGED: [(&str, &str); 14] = [
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
         umount umount2 unshare",
    ),
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
];

/// What only some machines have.
const MACHINES: [(&[&str], &str); 6] = [
    (&["amd64", "x32"], "arch_prctl"),
    (&["amd64", "x32", "x86"], "modify_ldt"),
    (
        &["arm", "arm64"],
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    (&["ppc64le"], "swapcontext sync_file_range2"),
    (&["riscv64"], "riscv_flush_icache"),
    (&["s390", "s390x"], "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
];

/// All flags of clone(2) that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// Address families that are kept out: the kernel's crypto, and the hypervisor's sockets, which
/// are of no namespace.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// Personalities: the ordinary ones, with and without an old kernel's version, and asking.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// "No such system call": C libraries then use clone instead, whose flags can be looked at.
const ENOSYS: u32 = 38;

fn allow(names: &str) -> Rule {
    Rule {
        name: None,
        names: Some(names.split_whitespace().map(str::to_owned).collect()),
        action: Action::ScmpActAllow,
        errno_ret: None,
        args: None,
        includes: None,
        excludes: None,
    }
}

fn argument(index: usize, op: Is, value: u64, value_two: Option<u64>) -> Option<Vec<LinuxSeccompArg>> {
    let mut argument = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    if let Some(two) = value_two {
        argument = argument.value_two(two);
    }
    argument.build().ok().map(|a| vec![a])
}

fn caps(name: &str) -> Condition {
    Condition { caps: Some(vec![name.to_owned()]), ..Condition::default() }
}

fn arches(names: &[&str]) -> Condition {
    Condition { arches: Some(names.iter().map(|&n| n.to_owned()).collect()), ..Condition::default() }
}

/// The profile.
pub(super) fn profile() -> Profile {
    use oci_spec::runtime::Arch as A;
    let ordinary = [FILES, WAITING, SOCKETS, MEMORY, PROCESSES, IDENTITY, SIGNALS, QUEUES];
    let mut rules: Vec<Rule> = ordinary.map(allow).into();
    // Before 4.8 ptrace could get around a filter.
    rules.push(Rule {
        includes: Some(Condition { min_kernel: Some("4.8".to_owned()), ..Condition::default() }),
        ..allow("ptrace process_vm_readv process_vm_writev")
    });
    for (op, family) in [(Is::ScmpCmpLt, AF_ALG), (Is::ScmpCmpEq, AF_ALG + 1), (Is::ScmpCmpGt, AF_VSOCK)] {
        rules.push(Rule { args: argument(0, op, family, None), ..allow("socket") });
    }
    for personality in PERSONALITIES {
        rules.push(Rule { args: argument(0, Is::ScmpCmpEq, personality, None), ..allow("personality") });
    }
    for (capability, names) in PRIVILEGED {
        rules.push(Rule { includes: Some(caps(capability)), ..allow(names) });
    }
    for (machines, names) in MACHINES {
        rules.push(Rule { includes: Some(arches(machines)), ..allow(names) });
    }
    // Processes and threads, but no namespaces. On s390 the flags come second.
    let no_namespaces = |index| argument(index, Is::ScmpCmpMaskedEq, NEW_NAMESPACES, Some(0));
    let s390 = ["s390", "s390x"];
    rules.push(Rule {
        args: no_namespaces(0),
        excludes: Some(Condition { arches: arches(&s390).arches, ..caps("CAP_SYS_ADMIN") }),
        ..allow("clone")
    });
    rules.push(Rule {
        args: no_namespaces(1),
        includes: Some(arches(&s390)),
        excludes: Some(caps("CAP_SYS_ADMIN")),
        ..allow("clone")
    });
    rules.push(Rule {
        action: Action::ScmpActErrno,
        errno_ret: Some(ENOSYS),
        excludes: Some(caps("CAP_SYS_ADMIN")),
        ..allow("clone3")
    });
    let families = [
        (A::ScmpArchX86_64, vec![A::ScmpArchX86, A::ScmpArchX32]),
        (A::ScmpArchAarch64, vec![A::ScmpArchArm]),
        (A::ScmpArchRiscv64, vec![]),
        (A::ScmpArchS390x, vec![A::ScmpArchS390]),
    ];
    let family = |(architecture, others)| Family { architecture, sub_architectures: Some(others) };
    Profile {
        default_action: Action::ScmpActErrno,
        default_errno_ret: Some(1),
        architectures: None,
        arch_map: Some(families.map(family).into()),
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls: Some(rules),
    }
}
