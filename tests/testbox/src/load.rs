//! Load clients whose result is one JSON line. They count every failure and never retry: what a
//! test wants to know is whether there was one.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Outcome, client::PATIENCE, sys};

/// Workers that share the rate; enough that a connection of the longest patience does not stop
/// the others.
const WORKERS: u64 = 32;

/// Opens `rate` connections a second for `seconds`: connect, one request, whole answer, close.
pub fn connections(to: SocketAddr, rate: u64, seconds: u64) -> Outcome {
    if rate == 0 {
        return Err("a rate is at least 1 a second".into());
    }
    let total = rate * seconds;
    let next = AtomicU64::new(0);
    let latencies = Mutex::new(Vec::<u64>::new());
    let failures = Mutex::new(BTreeMap::<String, u64>::new());
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= total {
                        break;
                    }
                    let due = start + Duration::from_nanos(n * 1_000_000_000 / rate);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let began = Instant::now();
                    match one(to) {
                        Ok(()) => {
                            latencies.lock().unwrap().push(began.elapsed().as_micros() as u64);
                        }
                        Err(e) => {
                            let at = start.elapsed().as_millis();
                            eprintln!("{at} ms: {e}");
                            *failures.lock().unwrap().entry(kind(&e).to_owned()).or_default() += 1;
                        }
                    }
                }
            });
        }
    });
    let took = start.elapsed();
    let mut latencies = latencies.into_inner().unwrap();
    let failures = failures.into_inner().unwrap();
    latencies.sort_unstable();
    let at = |percent: usize| {
        latencies.get((latencies.len() * percent / 100).min(latencies.len().max(1) - 1)).unwrap_or(&0)
    };
    let failed: u64 = failures.values().sum();
    let resets = failures.get("reset").unwrap_or(&0);
    let kinds: Vec<String> = failures.iter().map(|(k, n)| format!("\"{k}\":{n}")).collect();
    println!(
        "{{\"ok\":{},\"failed\":{failed},\"resets\":{resets},\"failures\":{{{}}},\"seconds\":{:.3},\"per_second\":{:.1},\"p50_us\":{},\"p99_us\":{},\"max_us\":{}}}",
        latencies.len(),
        kinds.join(","),
        took.as_secs_f64(),
        latencies.len() as f64 / took.as_secs_f64(),
        at(50),
        at(99),
        latencies.last().unwrap_or(&0),
    );
    Ok(i32::from(failed > 0))
}

fn kind(e: &std::io::Error) -> &'static str {
    match e.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset",
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout",
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData => "bad answer",
        _ => "other",
    }
}

fn one(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /client HTTP/1.1\r\nhost: load\r\n\r\n")?;
    let mut reply = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        reply.extend(&buffer[..n]);
        if let Some(end) = reply.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)
                .and_then(|t| t.split("\r\n").next())
                .and_then(|n| n.parse::<usize>().ok());
            let Some(length) = length.filter(|_| head.starts_with("http/1.1 200")) else {
                return Err(ErrorKind::InvalidData.into());
            };
            if reply.len() >= end + 4 + length {
                break;
            }
        }
    }
    sys::close_hard(&stream);
    Ok(())
}

/// Bytes of a record of `stream`.
const RECORD: usize = 64;

/// One TCP stream to an echo server: `rate` numbered records a second for `seconds`; each must come
/// back, in order. Reports the longest silence, which is what an outage looks like.
pub fn stream(to: SocketAddr, rate: u64, seconds: u64) -> Outcome {
    if rate == 0 {
        return Err("a rate is at least 1 a second".into());
    }
    let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| format!("{to}: {e}"))?;
    let _ = stream.set_nodelay(true);
    // Longer than a short outage: retransmission must be able to end it.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(15)));
    let total = rate * seconds;
    let sender = stream.try_clone().map_err(|e| e.to_string())?;
    let start = Instant::now();
    let sending = thread::spawn(move || -> std::io::Result<()> {
        let mut sender = sender;
        for n in 0..total {
            let due = start + Duration::from_nanos(n * 1_000_000_000 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            sender.write_all(&record(n))?;
        }
        Ok(())
    });
    let (mut received, mut out_of_order, mut longest) = (0, 0u64, Duration::ZERO);
    let mut error = String::new();
    let mut last = Instant::now();
    let mut buffer = [0; RECORD];
    let mut reader = stream;
    while received < total {
        if let Err(e) = reader.read_exact(&mut buffer) {
            error = format!("{}: {e}", kind(&e));
            break;
        }
        out_of_order += u64::from(buffer != record(received));
        longest = longest.max(last.elapsed());
        last = Instant::now();
        received += 1;
    }
    // A sender that is still blocked is ended by closing what it writes to.
    let _ = reader.shutdown(std::net::Shutdown::Both);
    if let Ok(Err(e)) = sending.join()
        && error.is_empty()
    {
        error = format!("{}: {e}", kind(&e));
    }
    println!(
        "{{\"sent\":{total},\"received\":{received},\"wrong\":{out_of_order},\"longest_gap_ms\":{},\"error\":\"{error}\"}}",
        longest.as_millis()
    );
    Ok(i32::from(received != total || out_of_order > 0 || !error.is_empty()))
}

fn record(n: u64) -> [u8; RECORD] {
    let mut r = [(n % 251) as u8; RECORD];
    r[..8].copy_from_slice(&n.to_be_bytes());
    r
}
