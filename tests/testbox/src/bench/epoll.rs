//! Readiness of many sockets at once.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Readable, writable or closed, told once for each change.
pub const EDGE: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32;
/// Readable, told as long as it is so.
pub const READ: u32 = libc::EPOLLIN as u32;

/// A set of sockets.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// An empty one.
    pub fn new() -> Result<Self, String> {
        // SAFETY: no pointers; the descriptor is new and nobody else's.
        let fd = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(crate::sys::last_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 256] })
    }

    /// Adds a socket under a number. It leaves when it is closed.
    pub fn add(&self, socket: &impl AsRawFd, number: u64, events: u32) -> Result<(), String> {
        let mut event = libc::epoll_event { events, u64: number };
        // SAFETY: the event lives through the call.
        let done = unsafe {
            libc::epoll_ctl(
                self.fd.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd() as RawFd,
                &raw mut event,
            )
        };
        if done == 0 { Ok(()) } else { Err(crate::sys::last_error()) }
    }

    /// Waits at most so many milliseconds; number and events of those that are ready.
    pub fn wait(&mut self, milliseconds: i32) -> impl Iterator<Item = (u64, u32)> {
        // SAFETY: the buffer is as long as said, and lives through the call.
        let n = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as i32,
                milliseconds,
            )
        };
        self.events[..n.max(0) as usize].iter().map(|e| (e.u64, e.events))
    }
}
