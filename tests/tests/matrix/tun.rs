//! Two devices of `/dev/net/tun` and a program between them in the place of the wire, as a VPN is.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    thread,
};

use anyhow::Result;
use warren_tests::tun;

use crate::ask::enter;

/// Carries packets between two devices until it goes out of scope, and they with it.
pub struct Tunnel {
    stop: Option<UnixStream>,
    carrier: Option<thread::JoinHandle<()>>,
}

impl Tunnel {
    /// Makes a device of this name at both ends; with `link`, one with a link header.
    pub fn dig(ends: [&Path; 2], name: &str, link: bool) -> Result<Self> {
        let [a, b] = ends.map(|end| enter(end, || tun::device(name, link, None)).flatten());
        let (a, b) = (a?, b?);
        let (stop, stopped) = UnixStream::pair()?;
        let carrier =
            thread::spawn(move || {
                let ends = [&a, &b];
                loop {
                    let mut waits = [a.as_raw_fd(), b.as_raw_fd(), stopped.as_raw_fd()]
                        .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
                    // SAFETY: the kernel reads and writes these entries.
                    let ready = unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, -1) };
                    if ready < 0 || waits[2].revents != 0 {
                        return;
                    }
                    for n in [0, 1] {
                        carry(ends[n], ends[1 - n]);
                    }
                }
            });
        Ok(Self { stop: Some(stop), carrier: Some(carrier) })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

/// Carries what waits at one end to the other. A device that is not up yet takes nothing: its packets
/// are lost, as on a wire.
fn carry(mut from: &File, mut to: &File) {
    let mut packet = [0; 2048];
    while let Ok(length) = from.read(&mut packet) {
        let _ = to.write(&packet[..length]);
    }
}
