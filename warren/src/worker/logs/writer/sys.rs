//! The calls to the kernel that std lacks. Numbers are Linux's.

use std::{ffi::c_void, io, os::fd::RawFd, time::Duration};

/// What `poll` waits for and tells.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct PollFd {
    /// Left out when negative.
    pub(super) fd: RawFd,
    pub(super) events: i16,
    pub(super) happened: i16,
}

/// There is something to read; `POLLHUP`, the end, is told unasked.
pub(super) const POLLIN: i16 = 1;

/// As big as any libc's.
#[repr(C)]
struct SignalSet([u64; 16]);

const SIGTERM: i32 = 15;
const SIG_BLOCK: i32 = 0;
const F_GETFL: i32 = 3;
const F_SETFL: i32 = 4;
const F_SETPIPE_SZ: i32 = 1031;
const O_NONBLOCK: i32 = 0o4000;
const LOCK_SH: i32 = 1;

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: usize, timeout_ms: i32) -> i32;
    fn fcntl(fd: RawFd, command: i32, ...) -> i32;
    fn flock(fd: RawFd, operation: i32) -> i32;
    fn sigemptyset(set: *mut SignalSet) -> i32;
    fn sigaddset(set: *mut SignalSet, signal: i32) -> i32;
    fn sigprocmask(how: i32, set: *const SignalSet, old: *mut SignalSet) -> i32;
    fn signalfd(fd: RawFd, set: *const SignalSet, flags: i32) -> RawFd;
    fn memchr(bytes: *const c_void, wanted: i32, count: usize) -> *const c_void;
    fn read(fd: RawFd, into: *mut c_void, count: usize) -> isize;
    fn close(fd: RawFd) -> i32;
}

/// Waits until something happens on one of `fds`, or for `timeout`.
pub(super) fn wait(fds: &mut [PollFd], timeout: Option<Duration>) {
    let ms = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
    // SAFETY: the slice is valid for its length, and `PollFd` is laid out as `struct pollfd`.
    let n = unsafe { poll(fds.as_mut_ptr(), fds.len(), ms) };
    if n < 0 {
        // Interrupted: nothing has happened.
        for fd in fds {
            fd.happened = 0;
        }
    }
}

/// SIGTERM does not end the process from now on; it makes the descriptor returned readable.
pub(super) fn hold_sigterm() -> RawFd {
    let mut set = SignalSet([0; 16]);
    // SAFETY: `set` outlives the calls and is no smaller than any libc's `sigset_t`.
    unsafe {
        sigemptyset(&mut set);
        sigaddset(&mut set, SIGTERM);
        sigprocmask(SIG_BLOCK, &set, std::ptr::null_mut());
        signalfd(-1, &set, 0)
    }
}

/// Makes reads of a pipe return at once.
pub(super) fn never_block(fd: RawFd) {
    // SAFETY: plain numbers; a descriptor that is none is answered with an error.
    unsafe {
        let flags = fcntl(fd, F_GETFL);
        if flags >= 0 {
            fcntl(fd, F_SETFL, flags | O_NONBLOCK);
        }
    }
}

/// Lets a pipe hold this many bytes, if the kernel allows it.
pub(super) fn widen(fd: RawFd, bytes: i32) {
    // SAFETY: plain numbers; a descriptor that is none is answered with an error.
    unsafe { fcntl(fd, F_SETPIPE_SZ, bytes) };
}

/// Marks a file as in use until the descriptor is closed, which the process's end does.
pub(super) fn mark_used(fd: RawFd) {
    // SAFETY: plain numbers; a descriptor that is none is answered with an error.
    unsafe { flock(fd, LOCK_SH) };
}

/// Reads into `into`: how many bytes, 0 at the end.
pub(super) fn read_into(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `into` may be written to for its whole length.
    let n = unsafe { read(fd, into.as_mut_ptr().cast(), into.len()) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Closes a descriptor that nothing owns.
pub(super) fn close_fd(fd: RawFd) {
    // SAFETY: the caller has it from whoever started this process, and uses it no more.
    unsafe { close(fd) };
}

/// Where the first newline is.
pub(super) fn newline(bytes: &[u8]) -> Option<usize> {
    // SAFETY: `bytes` may be read for its whole length.
    let found = unsafe { memchr(bytes.as_ptr().cast(), i32::from(b'\n'), bytes.len()) };
    (!found.is_null()).then(|| found.addr() - bytes.as_ptr().addr())
}
