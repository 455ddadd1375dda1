//! A flood of datagrams under many sources.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use super::SIZE;
use crate::{Outcome, sys};

const HEADERS: usize = 28;

/// Sends so many datagrams a second, from each of so many addresses (10.201.0.0/16) in turn, and prints
/// how many were sent.
pub fn run(to: Ipv4Addr, port: u16, sources: u32, rate: u32, seconds: f64) -> Outcome {
    let span = Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?;
    if !(1..=65_000).contains(&sources) || rate == 0 {
        return Err("from 1 to 65000 sources, and a rate".into());
    }
    // SAFETY: no pointers; the descriptor is new and has no other owner.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
        if fd < 0 {
            return Err(sys::last_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: plain data.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as _;
    address.sin_addr.s_addr = u32::from_ne_bytes(to.octets());
    let mut packet = [b'f'; HEADERS + SIZE];
    packet[..HEADERS].fill(0);
    // The kernel fills in the header's checksum; UDP's may be zero.
    (packet[0], packet[8], packet[9]) = (0x45, 64, libc::IPPROTO_UDP as u8);
    packet[2..4].copy_from_slice(&((HEADERS + SIZE) as u16).to_be_bytes());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..22].copy_from_slice(&4000u16.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[24..26].copy_from_slice(&((8 + SIZE) as u16).to_be_bytes());
    let (mut sent, begun) = (0u64, Instant::now());
    loop {
        let passed = begun.elapsed();
        if passed >= span {
            break;
        }
        let due = (passed.as_secs_f64() * f64::from(rate)) as u64;
        if due <= sent {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        // Where it does not keep pace the clock is looked at now and then.
        for _ in 0..(due - sent).min(256) {
            let source = 1 + (sent % u64::from(sources)) as u32;
            packet[12..16].copy_from_slice(&(u32::from_be_bytes([10, 201, 0, 0]) + source).to_be_bytes());
            // SAFETY: both point to what is there while the call lasts, with their lengths.
            let done = unsafe {
                let to = (&raw const address).cast();
                libc::sendto(socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, to, 16)
            };
            if done < 0 {
                return Err(sys::last_error());
            }
            sent += 1;
        }
    }
    println!("{{\"sent\":{sent},\"seconds\":{:.6}}}", begun.elapsed().as_secs_f64());
    Ok(0)
}
