//! The few calls of the C library that the standard library does not wrap.

use std::{
    ffi::{c_int, c_uint, c_void},
    net::UdpSocket,
    os::fd::FromRawFd,
};

const SIGTERM: c_int = 15;
const SIG_IGN: usize = 1;

unsafe extern "C" {
    fn signal(signum: c_int, handler: usize) -> usize;
    fn _exit(status: c_int) -> !;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: c_uint) -> c_int;
    fn getuid() -> c_uint;
    fn getgid() -> c_uint;
    fn getgroups(size: c_int, list: *mut c_uint) -> c_int;
}

extern "C" fn leave(_: c_int) {
    // SAFETY: _exit may be called from a signal handler.
    unsafe { _exit(0) }
}

/// Ends the process with status 0 on SIGTERM. The first process of a container gets no default
/// action for signals, so without this a polite stop would always end in SIGKILL.
pub fn end_on_sigterm() {
    // SAFETY: `leave` has the signature signal(2) asks for and only calls _exit.
    unsafe { signal(SIGTERM, leave as *const () as usize) };
}

/// Makes SIGTERM do nothing.
pub fn ignore_sigterm() {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { signal(SIGTERM, SIG_IGN) };
}

/// A socket that sends and receives ICMP echo (the kernel fills in identifier and checksum); a
/// datagram socket in all but its protocol.
pub fn icmp_socket(v6: bool) -> std::io::Result<UdpSocket> {
    let (domain, protocol) = if v6 { (10, 58) } else { (2, 1) };
    const DGRAM_CLOEXEC: c_int = 2 | 0o2_000_000;
    // SAFETY: no pointers are passed.
    let fd = unsafe { socket(domain, DGRAM_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nothing else.
    Ok(unsafe { UdpSocket::from_raw_fd(fd) })
}

/// Makes a close send RST and leave nothing behind, so that a load client does not run out of
/// ports to TIME_WAIT. Called only after the answer has been read.
pub fn close_hard(stream: &std::net::TcpStream) {
    use std::os::fd::AsRawFd;
    let linger: [c_int; 2] = [1, 0];
    // SAFETY: the pointer is to two ints, as struct linger is, and lives through the call.
    unsafe { setsockopt(stream.as_raw_fd(), 1, 13, linger.as_ptr().cast(), size_of_val(&linger) as c_uint) };
}

/// `uid=… gid=… groups=…` as numbers.
pub fn identity() -> String {
    let (uid, gid, groups) = ids();
    let listed: Vec<String> = groups.iter().map(ToString::to_string).collect();
    format!("uid={uid} gid={gid} groups={}\n", listed.join(","))
}

/// uid, gid and supplementary groups, sorted.
pub fn ids() -> (u32, u32, Vec<u32>) {
    let mut groups = [0; 64];
    // SAFETY: the list has room for as many entries as said; getuid and getgid cannot fail.
    let (uid, gid, n) = unsafe { (getuid(), getgid(), getgroups(64, groups.as_mut_ptr())) };
    let mut groups = groups[..n.max(0) as usize].to_vec();
    groups.sort_unstable();
    (uid, gid, groups)
}

/// Goes on as another program. To it and all that it starts the kernel says of sockets of IPv6 what a
/// kernel without IPv6 says.
pub fn without_ipv6(program: &str, args: &[&str]) -> crate::Outcome {
    use std::os::unix::process::CommandExt;
    /// Where `seccomp_data` has the call's number and the low half of its first argument.
    const NUMBER: u32 = 0;
    const FAMILY: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(load, 0, 0, NUMBER),
        step(equal, 0, 3, libc::SYS_socket as u32),
        step(load, 0, 0, FAMILY),
        step(equal, 0, 1, libc::AF_INET6 as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the filter and its steps live through the call.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) } != 0 {
        return Err(format!("a filter of calls: {}", last_error()));
    }
    Err(format!("{program}: {}", std::process::Command::new(program).args(args).exec()))
}

/// What the last failing call of the C library said.
pub fn last_error() -> String {
    std::io::Error::last_os_error().to_string()
}

/// All signals that can be held back, held back.
pub struct Signals(libc::sigset_t);

impl Signals {
    /// Holds them back, in this thread and those it starts.
    pub fn block() -> Self {
        // SAFETY: the set is filled before it is used, and lives through both calls.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Self(set)
        }
    }

    /// The first one that is not about children or the terminal's size: number and name.
    pub fn wait(&self) -> (i32, String) {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers live through the call.
            unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
            match signal {
                libc::SIGCHLD | libc::SIGWINCH | libc::SIGURG | libc::SIGCONT => {}
                n => return (n, n.to_string()),
            }
        }
    }
}
