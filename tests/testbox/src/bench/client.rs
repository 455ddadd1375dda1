//! TCP from the client's side: many connections, each doing one thing at a time.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::{FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{
    CONNECTIONS, Measured, SIZE, Target,
    epoll::{EDGE, Epoll},
};
use crate::{client::PATIENCE, sys};

const REQUEST: [u8; SIZE] = [b'r'; SIZE];

/// Where one of the connections is.
struct Slot {
    stream: TcpStream,
    begun: Instant,
    asked: bool,
    answered: usize,
}

/// Connects, asks once, reads the answer, closes, and again.
pub fn connections(target: Target, span: Duration) -> Result<Measured, String> {
    turns(target, span, true)
}

/// Asks again and again over connections that stay.
pub fn requests(target: Target, span: Duration) -> Result<Measured, String> {
    turns(target, span, false)
}

fn turns(target: Target, span: Duration, anew: bool) -> Result<Measured, String> {
    let mut epoll = Epoll::new()?;
    let mut random = 0x9e37_79b9_7f4a_7c15;
    let mut slots = Vec::new();
    for number in 0..CONNECTIONS {
        let to = target.pick(&mut random);
        let stream = if anew {
            connecting(to)?
        } else {
            let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| e.to_string())?;
            let _ = (stream.set_nonblocking(true), stream.set_nodelay(true));
            stream
        };
        epoll.add(&stream, number as u64, EDGE)?;
        slots.push(Slot { stream, begun: Instant::now(), asked: false, answered: 0 });
    }
    let mut found = Measured::default();
    let begun = Instant::now();
    let mut buffer = [0; 4096];
    while begun.elapsed() < span {
        let ready: Vec<(u64, u32)> = epoll.wait(10).collect();
        for (number, events) in ready {
            let number = number as usize;
            match slots[number].turn(events, &mut buffer) {
                Ok(false) => continue,
                Ok(true) => {
                    found.operations += 1;
                    found.latencies.push(slots[number].begun.elapsed().as_nanos() as u64);
                    if !anew {
                        let slot = &mut slots[number];
                        (slot.begun, slot.answered, slot.asked) = (Instant::now(), 0, false);
                        if slot.ask().is_err() {
                            return Err("a connection that should stay has gone".into());
                        }
                        continue;
                    }
                }
                Err(e) if anew => {
                    found.failed += 1;
                    if found.operations == 0 && found.failed > 1000 {
                        return Err(format!("nothing but failures: {e}"));
                    }
                }
                Err(e) => return Err(e.to_string()),
            }
            sys::close_hard(&slots[number].stream);
            let stream = connecting(target.pick(&mut random))?;
            epoll.add(&stream, number as u64, EDGE)?;
            slots[number] = Slot { stream, begun: Instant::now(), asked: false, answered: 0 };
        }
    }
    found.seconds = begun.elapsed().as_secs_f64();
    for slot in &slots {
        sys::close_hard(&slot.stream);
    }
    Ok(found)
}

impl Slot {
    fn ask(&mut self) -> std::io::Result<()> {
        self.asked = true;
        self.stream.write_all(&REQUEST)
    }

    /// Goes on; whether the answer is whole.
    fn turn(&mut self, events: u32, buffer: &mut [u8]) -> std::io::Result<bool> {
        if !self.asked && events & (libc::EPOLLOUT as u32) != 0 {
            if let Some(e) = self.stream.take_error()? {
                return Err(e);
            }
            self.ask()?;
        }
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.answered += n;
                    if self.answered >= SIZE {
                        return Ok(true);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                // Not connected yet.
                Err(e) if !self.asked && e.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }
}

/// A socket that is about to be connected.
fn connecting(to: SocketAddr) -> Result<TcpStream, String> {
    let SocketAddr::V4(to) = to else { return Err("the benchmark speaks IPv4".into()) };
    // SAFETY: the address is plain data that lives through the call; the descriptor is new and has no
    // other owner.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 {
            return Err(sys::last_error());
        }
        let stream = TcpStream::from(OwnedFd::from_raw_fd(fd));
        let _ = stream.set_nodelay(true);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as _;
        address.sin_port = to.port().to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        let done = libc::connect(fd, (&raw const address).cast(), size_of_val(&address) as _);
        let error = std::io::Error::last_os_error();
        if done != 0 && error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(format!("{to}: {error}"));
        }
        Ok(stream)
    }
}

/// One connection that sends as fast as it can; operations are bytes that arrived.
pub fn bulk(target: Target, span: Duration) -> Result<Measured, String> {
    let say = |e: std::io::Error| e.to_string();
    let to = SocketAddr::new(target.ip, target.first);
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(say)?;
    let chunk = vec![b'b'; 256 << 10];
    let begun = Instant::now();
    while begun.elapsed() < span {
        stream.write_all(&chunk).map_err(say)?;
    }
    stream.shutdown(Shutdown::Write).map_err(say)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(say)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total).map_err(say)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Measured { operations: u64::from_be_bytes(total), seconds, ..Measured::default() })
}
