//! Programs for the kernel, assembled by hand: those that are part of a measurement, not of Warren's
//! object. Instructions are those of the kernel's "BPF instruction set" (`Documentation/bpf/standardization`).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};

/// A program of TC, in `bpf(2)`.
pub const SCHED_CLS: u32 = 3;
/// One of XDP.
pub const XDP: u32 = 6;
/// The helper `skb_store_bytes`.
pub const STORE_BYTES: i32 = 9;

const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const TCX_INGRESS: u32 = 46;

/// One instruction.
#[must_use]
pub fn insn(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    u64::from(code)
        | u64::from(to | from << 4) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(value.cast_unsigned()) << 32
}

/// A register becomes a number.
#[must_use]
pub fn set(to: u8, value: i32) -> u64 {
    insn(0xb7, to, 0, 0, value)
}

/// A register becomes what another is.
#[must_use]
pub fn copy(to: u8, from: u8) -> u64 {
    insn(0xbf, to, from, 0, 0)
}

/// Calls a helper.
#[must_use]
pub fn call(helper: i32) -> u64 {
    insn(0x85, 0, 0, 0, helper)
}

/// Returns what register 0 is.
pub const EXIT: u64 = 0x95;

/// A call of `bpf(2)` with an attribute of 32-bit words.
///
/// # Errors
/// The kernel refuses.
pub fn bpf(command: libc::c_long, words: &mut [u32]) -> Result<libc::c_long> {
    // SAFETY: the words are as long as said, and what they point at outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    ensure!(done >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    Ok(done)
}

/// What [`bpf`] returned, where that is a descriptor.
///
/// # Errors
/// It is none.
pub fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd)?) })
}

/// Both halves of an address of something.
#[must_use]
pub fn halves<T>(at: *const T) -> [u32; 2] {
    let at = at.expose_provenance() as u64;
    [at as u32, (at >> 32) as u32]
}

/// Loads a program.
///
/// # Errors
/// The verifier's words, when it refuses.
pub fn load(kind: u32, code: &[u64]) -> Result<OwnedFd> {
    let license = c"GPL";
    let mut log = vec![0u8; 1 << 16];
    let ([code_low, code_high], [license_low, license_high], [log_low, log_high]) =
        (halves(code.as_ptr()), halves(license.as_ptr()), halves(log.as_mut_ptr()));
    let mut words = [0; 30];
    words[..10].copy_from_slice(&[
        kind,
        u32::try_from(code.len())?,
        code_low,
        code_high,
        license_low,
        license_high,
        1,
        u32::try_from(log.len())?,
        log_low,
        log_high,
    ]);
    let loaded = bpf(PROG_LOAD, &mut words);
    owned(loaded.with_context(|| String::from_utf8_lossy(&log).trim_matches('\0').to_owned())?)
}

/// Lets a program of TC see what comes in by a device of this thread's network, as long as what is
/// returned is held.
///
/// # Errors
/// The kernel refuses, or has no TCX.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd> {
    let mut words = [0; 16];
    words[..3].copy_from_slice(&[program.as_raw_fd().cast_unsigned(), ifindex, TCX_INGRESS]);
    owned(bpf(LINK_CREATE, &mut words)?)
}
