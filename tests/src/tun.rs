//! Devices of `/dev/net/tun`, as a VPN makes them.

use std::{
    ffi::c_int,
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
};

use anyhow::{Context as _, Result, ensure};

/// Makes a device of this name in this thread's namespace, with `index` for its number if one is given;
/// with `link`, one with a link header. Packets of it come and go by the file, bare, without waiting.
/// The device goes with the file.
pub fn device(name: &str, link: bool, index: Option<u32>) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("these tests need /dev/net/tun: load the module tun, or give this machine the device")?;
    // SAFETY: plain integers and bytes; all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let kind = if link { libc::IFF_TAP } else { libc::IFF_TUN };
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
    if let Some(index) = index {
        let index = index as c_int;
        // SAFETY: the kernel reads the number.
        let failed = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFINDEX, &raw const index) } < 0;
        ensure!(!failed, "{name}: {}", io::Error::last_os_error());
    }
    // SAFETY: the kernel reads and writes one ifreq.
    let failed = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0;
    ensure!(!failed, "{name}: {}", io::Error::last_os_error());
    Ok(file)
}
