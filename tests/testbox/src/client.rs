//! One request of each kind, with a deadline.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use crate::sys;

/// Longest wait of every request here.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The body of an HTTP GET.
pub fn get(to: SocketAddr, path: &str) -> Result<String, String> {
    let say = |e: std::io::Error| format!("{to}: {e}");
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(say)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(say)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n").map_err(say)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).map_err(say)?;
    match reply.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(format!("{to} answered: {}", reply.trim())),
    }
}

/// One datagram to an echo server and back; the address it came back from.
pub fn udp(to: SocketAddr) -> Result<String, String> {
    let say = |e: std::io::Error| format!("{to}: {e}");
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).map_err(say)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(say)?;
    socket.send_to(b"echo, please", to).map_err(say)?;
    let mut buffer = [0; 64];
    let (n, from) = socket.recv_from(&mut buffer).map_err(say)?;
    if &buffer[..n] != b"echo, please" {
        return Err(format!("{from} sent something else back"));
    }
    Ok(format!("{from}\n"))
}

/// ICMP echo, `count` times; fails when one stays without an answer.
pub fn ping(to: IpAddr, count: u16) -> Result<String, String> {
    let say = |e: std::io::Error| format!("{to}: {e}");
    let socket = sys::icmp_socket(to.is_ipv6()).map_err(say)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(say)?;
    let mut shown = String::new();
    for sequence in 1..=count {
        // Type, code, checksum and identifier (the kernel's), sequence, payload.
        let mut packet = vec![if to.is_ipv6() { 128 } else { 8 }, 0, 0, 0, 0, 0];
        packet.extend(sequence.to_be_bytes());
        packet.extend(b"warren test");
        let start = Instant::now();
        socket.send_to(&packet, (to, 0)).map_err(say)?;
        let mut buffer = [0; 256];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).map_err(say)?;
            if n >= 8 && buffer[6..8] == sequence.to_be_bytes() && from.ip() == to {
                shown += &format!("{to} answered in {} us\n", start.elapsed().as_micros());
                break;
            }
        }
    }
    Ok(shown)
}

/// Whether a UDP echo server answers.
pub fn ask(to: SocketAddr) -> Result<String, String> {
    let say = |e: std::io::Error| format!("{to}: {e}");
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).map_err(say)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(say)?;
    socket.connect(to).map_err(say)?;
    socket.send(b"there?").map_err(say)?;
    let mut buffer = [0; 16];
    let n = socket.recv(&mut buffer).map_err(say)?;
    if buffer[..n] == *b"there?" { Ok(String::new()) } else { Err(format!("{to} is no echo server")) }
}

/// The A records of a name, one a line.
pub fn dns(server: SocketAddr, name: &str) -> Result<String, String> {
    let say = |e: std::io::Error| format!("{server}: {e}");
    let mut query = vec![0x57, 0x54, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|l| (1..64).contains(l));
        query.push(len.ok_or(format!("\"{name}\" is not a name"))?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).map_err(say)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(say)?;
    socket.send_to(&query, server).map_err(say)?;
    let mut buffer = [0; 1500];
    let (n, _) = socket.recv_from(&mut buffer).map_err(say)?;
    let found = addresses(&buffer[..n], query.len()).ok_or("the answer makes no sense")?;
    if found.is_empty() {
        return Err(format!("{server} knows no address of {name} (code {})", buffer[3] & 15));
    }
    Ok(found.iter().map(|a| format!("{a}\n")).collect())
}

/// The A records of an answer whose question ends at `at`.
fn addresses(message: &[u8], mut at: usize) -> Option<Vec<Ipv4Addr>> {
    let count = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let mut found = Vec::new();
    for _ in 0..count {
        // The record's name: labels up to an empty one or a pointer.
        loop {
            match *message.get(at)? {
                0 => break at += 1,
                l if l >= 0xc0 => break at += 2,
                l => at += 1 + usize::from(l),
            }
        }
        let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
        let len = usize::from(u16::from_be_bytes(message.get(at + 8..at + 10)?.try_into().ok()?));
        let data = message.get(at + 10..at + 10 + len)?;
        if kind == 1 {
            found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        at += 10 + len;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_through_aliases_and_pointers() {
        let mut m = vec![0x57, 0x54, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
        m.extend([1, b'a', 0, 0, 1, 0, 1]);
        let question_end = m.len();
        m.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 3, 1, b'b', 0]);
        m.extend([1, b'b', 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
        assert_eq!(addresses(&m, question_end), Some(vec![Ipv4Addr::new(192, 0, 2, 1)]));
        assert_eq!(addresses(&m[..m.len() - 1], question_end), None);
    }
}
