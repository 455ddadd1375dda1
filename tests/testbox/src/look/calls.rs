//! What the process may ask of the kernel: each call is made and undone, or made in a child whose
//! end undoes it.

use std::{ffi::CString, fs, io, net::TcpListener};

use super::{Look, outcome};
use crate::sys;

/// Tries them all.
pub fn all(l: &mut Look) {
    let flags = |flags: i32| {
        // SAFETY: no pointer is passed; the child ends right after.
        in_child(move || checked(i64::from(unsafe { libc::unshare(flags) })))
    };
    l.put("call.unshare_user", outcome(flags(libc::CLONE_NEWUSER)));
    l.put("call.unshare_mount", outcome(flags(libc::CLONE_NEWNS)));
    l.put("call.unshare_net", outcome(flags(libc::CLONE_NEWNET)));
    // In a mount namespace of the child's own where it may have one; else it may not mount either.
    l.put("call.mount", outcome(in_child(mount)));
    l.put("call.mknod", outcome(in_child(mknod)));
    l.put("call.chown", outcome(in_child(chown)));
    // SAFETY: the call reads no pointer: KEYCTL_GET_KEYRING_ID of the session keyring.
    let keyctl = in_child(|| checked(unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }));
    l.put("call.keyctl", outcome(keyctl));
    // SAFETY: PTRACE_TRACEME ignores its pointers.
    let traceme = in_child(|| checked(unsafe { libc::syscall(libc::SYS_ptrace, 0, 0, 0, 0) }));
    l.put("call.ptrace", outcome(traceme));
    // SAFETY: an invalid flag is refused before the path is looked at, and a forbidden call before that.
    let swapoff = in_child(|| checked(unsafe { libc::syscall(libc::SYS_swapoff, c"/none".as_ptr()) }));
    l.put("call.swapoff", outcome(swapoff));
    // SAFETY: a null profile is refused (EFAULT or EINVAL) where the call is allowed at all.
    let bpf = in_child(|| checked(unsafe { libc::syscall(libc::SYS_bpf, -1, 0, 0) }));
    l.put("call.bpf", outcome(bpf));
    l.put("call.chmod", outcome(in_child(chmod)));
    l.put("call.ping_socket", outcome(sys::icmp_socket(false)));
    l.put("call.raw_socket", outcome(in_child(raw_socket)));
    l.put("call.bind_low", outcome(TcpListener::bind(("127.0.0.1", 81))));
    l.put("call.sethostname", outcome(in_child(sethostname)));
}

fn checked(returned: i64) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs something in a child process; the error's number is its exit status.
fn in_child(f: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: one thread; the child only makes a system call and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = f().map_or_else(|e| e.raw_os_error().unwrap_or(255), |()| 0);
        // SAFETY: ends the child without running what the parent registered.
        unsafe { libc::_exit(status) };
    }
    checked(i64::from(child))?;
    let mut status = 0;
    // SAFETY: the pointer is to an int that lives through the call.
    checked(i64::from(unsafe { libc::waitpid(child, &raw mut status, 0) }))?;
    if libc::WIFSIGNALED(status) {
        return Err(io::Error::other("ended by a signal"));
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        n => Err(io::Error::from_raw_os_error(n)),
    }
}

fn mount() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    checked(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
    let (kind, target) = (c"tmpfs", c"/dev/shm");
    // SAFETY: the strings are terminated and live through the call; the child's namespace is its own.
    checked(i64::from(unsafe {
        libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), libc::MS_NOSUID, std::ptr::null())
    }))
}

fn mknod() -> io::Result<()> {
    let path = CString::new(format!("/dev/shm/node-{}", std::process::id()))?;
    // SAFETY: the path is terminated and lives through the call.
    let done =
        checked(i64::from(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)) }));
    let _ = fs::remove_file(path.to_string_lossy().as_ref());
    done
}

fn chown() -> io::Result<()> {
    let path = format!("/dev/shm/owned-{}", std::process::id());
    fs::write(&path, "")?;
    let done = std::os::unix::fs::chown(&path, Some(12), Some(13));
    let _ = fs::remove_file(&path);
    done
}

fn chmod() -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = format!("/dev/shm/mode-{}", std::process::id());
    fs::write(&path, "")?;
    let done = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
    let _ = fs::remove_file(&path);
    done
}

fn raw_socket() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    checked(i64::from(unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) }))
}

/// To the name it has: nothing changes.
fn sethostname() -> io::Result<()> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let name = name.trim();
    // SAFETY: the pointer is to as many bytes as said.
    checked(i64::from(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }))
}
