//! A stream of numbered datagrams to an echo server, at a steady rate, from one socket. Nothing is
//! sent twice: a number that does not come back was lost on the way there or back.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::Outcome;

/// Bytes of a datagram.
const SIZE: usize = 64;

/// How long after the last one was sent answers are waited for.
const LAST: Duration = Duration::from_secs(2);

/// What the receiver has seen.
#[derive(Default)]
struct Seen {
    /// How often each number came back.
    times: Vec<u32>,
    /// Datagrams that came from elsewhere than they were sent to, or with other bytes.
    wrong: u64,
    longest: Duration,
}

/// `rate` datagrams a second for `seconds`. With `connected` the socket is, and when the kernel says
/// that its peer is gone it connects again, once for each error.
pub fn sequence(to: SocketAddr, rate: u64, seconds: u64, connected: bool) -> Outcome {
    if rate == 0 {
        return Err("a rate is at least 1 a second".into());
    }
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).map_err(|e| format!("a UDP socket: {e}"))?;
    if connected {
        socket.connect(to).map_err(|e| format!("{to}: {e}"))?;
    }
    socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(|e| e.to_string())?;
    let total = rate * seconds;
    let seen = Mutex::new(Seen { times: vec![0; total as usize], ..Seen::default() });
    let (sent_all, errors, again) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    // The kernel reports an error once, to whichever call comes first.
    let mend = |e: &std::io::Error| {
        errors.fetch_add(1, Relaxed);
        let gone = matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::NotConnected)
            || e.raw_os_error() == Some(89);
        if connected && gone && socket.connect(to).is_ok() {
            again.fetch_add(1, Relaxed);
        }
    };
    let start = Instant::now();
    let took = thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2 * SIZE];
            let mut last = Instant::now();
            let mut end = None;
            while end.is_none_or(|end| Instant::now() < end) {
                if end.is_none() && sent_all.load(Relaxed) {
                    end = Some(Instant::now() + LAST);
                }
                match socket.recv_from(&mut buffer) {
                    Ok((n, from)) => {
                        let seen = &mut *seen.lock().unwrap();
                        match number(&buffer[..n]).filter(|n| from == to && *n < total) {
                            Some(n) => seen.times[n as usize] += 1,
                            None => seen.wrong += 1,
                        }
                        seen.longest = seen.longest.max(last.elapsed());
                        last = Instant::now();
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(e) => mend(&e),
                }
            }
        });
        for n in 0..total {
            let due = start + Duration::from_nanos(n * 1_000_000_000 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let bytes = datagram(n);
            let sent = if connected { socket.send(&bytes) } else { socket.send_to(&bytes, to) };
            if let Err(e) = sent {
                mend(&e);
                // What the error was about is an earlier one.
                let _ = if connected { socket.send(&bytes) } else { socket.send_to(&bytes, to) };
            }
        }
        sent_all.store(true, Relaxed);
        start.elapsed()
    });
    let seen = seen.into_inner().unwrap();
    let lost: Vec<u64> = (0..total).filter(|n| seen.times[*n as usize] == 0).collect();
    let doubled = seen.times.iter().filter(|n| **n > 1).count();
    // Runs of numbers, with the millisecond in which the first was sent.
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    for n in &lost {
        match gaps.last_mut() {
            Some((first, length)) if *first + *length == *n => *length += 1,
            _ => gaps.push((*n, 1)),
        }
    }
    let gaps: Vec<String> =
        gaps.iter().take(50).map(|(first, n)| format!("[{},{n}]", first * 1000 / rate)).collect();
    println!(
        "{{\"sent\":{total},\"seconds\":{:.3},\"received\":{},\"lost\":{},\"gaps\":[{}],\"doubled\":{doubled},\"wrong\":{},\"longest_gap_ms\":{},\"errors\":{},\"reconnects\":{}}}",
        took.as_secs_f64(),
        total - lost.len() as u64,
        lost.len(),
        gaps.join(","),
        seen.wrong,
        seen.longest.as_millis(),
        errors.load(Relaxed),
        again.load(Relaxed),
    );
    Ok(i32::from(!lost.is_empty() || doubled > 0 || seen.wrong > 0))
}

fn datagram(n: u64) -> [u8; SIZE] {
    let mut bytes = [(n % 251) as u8; SIZE];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn number(bytes: &[u8]) -> Option<u64> {
    let n = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == datagram(n)).then_some(n)
}
