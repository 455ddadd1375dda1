//! The server.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
};

use super::{
    SIZE,
    epoll::{Epoll, READ},
    pin,
};
use crate::Outcome;

/// Bytes taken from a socket at once.
const CHUNK: usize = 256 << 10;
/// Turns of one socket before the others get theirs.
const TURNS: usize = 64;

/// A connection.
struct Connection {
    stream: TcpStream,
    /// Bytes so far.
    received: u64,
    /// It only sends.
    bulk: bool,
}

/// Serves TCP on the ports from `first` to `last`, and UDP on the first, until it is killed.
pub fn serve(first: u16, last: u16) -> Outcome {
    pin(-1);
    let mut epoll = Epoll::new()?;
    let mut listeners = HashMap::new();
    for port in first..=last {
        let listener =
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|e| format!("port {port}: {e}"))?;
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        // SAFETY: no pointers. The standard library's backlog of 128 is short for a benchmark.
        unsafe { libc::listen(listener.as_raw_fd(), 1024) };
        epoll.add(&listener, listener.as_raw_fd() as u64, READ)?;
        listeners.insert(listener.as_raw_fd() as u64, listener);
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, first)).map_err(|e| format!("UDP {first}: {e}"))?;
    socket.set_nonblocking(true).map_err(|e| e.to_string())?;
    let udp = socket.as_raw_fd() as u64;
    epoll.add(&socket, udp, READ)?;
    println!("serving");
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let (mut buffer, mut counted) = (vec![0; CHUNK], 0u64);
    loop {
        let ready: Vec<u64> = epoll.wait(-1).map(|(number, _)| number).collect();
        for number in ready {
            if number == udp {
                datagrams(&socket, &mut buffer, &mut counted);
            } else if let Some(listener) = listeners.get(&number) {
                for _ in 0..TURNS {
                    let Ok((stream, _)) = listener.accept() else { break };
                    let _ = (stream.set_nonblocking(true), stream.set_nodelay(true));
                    let number = stream.as_raw_fd() as u64;
                    epoll.add(&stream, number, READ)?;
                    connections.insert(number, Connection { stream, received: 0, bulk: false });
                }
            } else if let Some(connection) = connections.get_mut(&number)
                && !connection.turn(&mut buffer)
            {
                connections.remove(&number);
            }
        }
    }
}

impl Connection {
    /// Takes what is there and answers; whether it goes on.
    fn turn(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read(buffer) {
            Ok(0) => {
                if self.bulk {
                    let _ = self.stream.write_all(&self.received.to_be_bytes());
                }
                false
            }
            Ok(n) => {
                self.bulk |= self.received == 0 && buffer[0] == b'b';
                let before = self.received / SIZE as u64;
                self.received += n as u64;
                let whole = (self.received / SIZE as u64 - before) as usize * SIZE;
                self.bulk || whole == 0 || self.stream.write_all(&buffer[..whole]).is_ok()
            }
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

fn datagrams(socket: &UdpSocket, buffer: &mut [u8], counted: &mut u64) {
    for _ in 0..TURNS {
        let Ok((n, from)) = socket.recv_from(buffer) else { break };
        match buffer.first() {
            Some(b'f') => *counted += 1,
            Some(b'q') => {
                let _ = socket.send_to(&counted.to_be_bytes(), from);
            }
            _ => {
                let _ = socket.send_to(&buffer[..n], from);
            }
        }
    }
}
