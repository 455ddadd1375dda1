//! The load of `cargo xtask bench datapath`: one server and one client, each on one thread and one
//! processor, the same for every way a packet may go.
//!
//! A connection's first byte says what it is: `r` sends requests of 64 bytes and gets as many back,
//! `b` only sends and is told at its end how much arrived. A datagram's first byte: `e` comes back,
//! `f` is counted, `q` asks for the count.

mod client;
mod datagrams;
mod epoll;
pub mod flood;
pub mod server;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::Outcome;

/// Bytes of a request, an answer and a datagram.
const SIZE: usize = 64;
/// Connections at once.
const CONNECTIONS: usize = 32;

/// Where the client sends: ports of an address, one of them for each connection.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The address.
    pub ip: IpAddr,
    /// The first port.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl Target {
    /// One of the ports, by a number of any kind.
    fn pick(&self, random: &mut u64) -> SocketAddr {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let ports = u64::from(self.last - self.first) + 1;
        SocketAddr::new(self.ip, self.first + (*random % ports) as u16)
    }
}

/// What one measure found.
#[derive(Debug, Default)]
struct Measured {
    /// What was done so often: connections, requests, datagrams, or bytes.
    operations: u64,
    failed: u64,
    /// How long each took, in nanoseconds; empty where nobody waits for an answer.
    latencies: Vec<u64>,
    seconds: f64,
}

/// Takes each measure for so long and prints one line of JSON for each.
pub fn run(target: Target, measures: &str, seconds: f64) -> Outcome {
    pin(0);
    let span = Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?;
    let mut flows = datagrams::Flows::open(target, measures)?;
    for measure in measures.split(',') {
        flows.ready(measure)?;
        let (busy, begun) = (busy(), Instant::now());
        let mut found = match measure {
            "cps" => client::connections(target, span),
            "rps" => client::requests(target, span),
            "bulk" => client::bulk(target, span),
            "udp" => flows.flood(span),
            "urr" => flows.ping_pong(span),
            "pace" => flows.paced(span),
            other => Err(format!("\"{other}\" is no measure")),
        }
        .map_err(|e| format!("{measure}: {e}"))?;
        let (busy, whole) = (self::busy() - busy, begun.elapsed().as_secs_f64());
        found.latencies.sort_unstable();
        let at = |share: f64| {
            let last = found.latencies.len().saturating_sub(1) as f64;
            found.latencies.get((last * share) as usize).map_or(0.0, |ns| *ns as f64 / 1000.0)
        };
        println!(
            "{{\"measure\":\"{measure}\",\"operations\":{},\"failed\":{},\"seconds\":{:.6},\"whole\":{whole:.6},\"busy\":{busy:.2},\"p50_us\":{:.1},\"p99_us\":{:.1}}}",
            found.operations,
            found.failed,
            found.seconds,
            at(0.5),
            at(0.99)
        );
    }
    Ok(0)
}

/// Seconds all processors have worked so far.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user, nice, system, irq, softirq; a hundred ticks a second.
    [0, 1, 2, 5, 6].iter().filter_map(|i| ticks.get(*i)).sum::<f64>() / 100.0
}

/// Stays on one processor, counted from the first that we may use; from the last with -1.
fn pin(which: i32) {
    // SAFETY: the set is plain data, filled before it is read; both calls get its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0 {
            return;
        }
        let ours: Vec<usize> = (0..1024).filter(|c| libc::CPU_ISSET(*c, &set)).collect();
        let chosen = if which < 0 { ours.last() } else { ours.get(which as usize) };
        if let Some(cpu) = chosen {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(*cpu, &mut one);
            libc::sched_setaffinity(0, size_of_val(&one), &raw const one);
        }
    }
}
