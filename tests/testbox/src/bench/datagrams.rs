//! UDP from the client's side. Its flows are begun with the run and used when they are two seconds
//! old, from when on connection tracking of every kind takes them for established.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{Measured, SIZE, Target};

/// How old a flow is when it is measured.
const AGE: Duration = Duration::from_millis(2200);
/// How long an answer is waited for.
const WAIT: Duration = Duration::from_millis(200);
/// From one question of [`Flows::paced`] to the next.
const PACE: Duration = Duration::from_micros(2500);

/// Both flows, where they are wanted.
pub struct Flows {
    flood: Option<UdpSocket>,
    ping_pong: Option<UdpSocket>,
    begun: Instant,
}

impl Flows {
    /// Begins those that the measures need.
    pub fn open(target: Target, measures: &str) -> Result<Self, String> {
        let open = |name: &str| -> Result<Option<UdpSocket>, String> {
            if !measures.split(',').any(|m| m == name) {
                return Ok(None);
            }
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|e| e.to_string())?;
            let to = SocketAddr::new(target.ip, target.first);
            socket.connect(to).map_err(|e| format!("{to}: {e}"))?;
            socket.set_read_timeout(Some(WAIT)).map_err(|e| e.to_string())?;
            exchange(&socket, b'e').ok_or_else(|| format!("UDP {to} does not answer"))?;
            Ok(Some(socket))
        };
        Ok(Self {
            flood: open("udp")?,
            ping_pong: open(if measures.contains("pace") { "pace" } else { "urr" })?,
            begun: Instant::now(),
        })
    }

    /// Waits until the flow of a measure is old enough.
    pub fn ready(&mut self, measure: &str) -> Result<(), String> {
        let socket = match measure {
            "udp" => &self.flood,
            "urr" | "pace" => &self.ping_pong,
            _ => return Ok(()),
        };
        let socket = socket.as_ref().ok_or("this flow was not begun")?;
        thread::sleep(AGE.saturating_sub(self.begun.elapsed()));
        exchange(socket, b'e').ok_or("an old flow is not answered")?;
        Ok(())
    }

    /// Sends as fast as it can; operations are datagrams that arrived.
    pub fn flood(&mut self, span: Duration) -> Result<Measured, String> {
        let socket = self.flood.as_ref().ok_or("this flow was not begun")?;
        let before = exchange(socket, b'q').ok_or("the count is not told")?;
        let (begun, mut failed) = (Instant::now(), 0);
        while begun.elapsed() < span {
            for _ in 0..64 {
                failed += u64::from(socket.send(&[b'f'; SIZE]).is_err());
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let after = exchange(socket, b'q').ok_or("the count is not told")?;
        Ok(Measured { operations: after - before, failed, seconds, latencies: Vec::new() })
    }

    /// Sends one and waits for it to come back, and again.
    pub fn ping_pong(&mut self, span: Duration) -> Result<Measured, String> {
        let socket = self.ping_pong.as_ref().ok_or("this flow was not begun")?;
        let mut found = Measured::default();
        let begun = Instant::now();
        let mut buffer = [0; SIZE];
        while begun.elapsed() < span {
            let sent = Instant::now();
            let back = socket.send(&[b'e'; SIZE]).and_then(|_| socket.recv(&mut buffer));
            match back {
                Ok(_) => {
                    found.operations += 1;
                    found.latencies.push(sent.elapsed().as_nanos() as u64);
                }
                Err(_) => found.failed += 1,
            }
        }
        found.seconds = begun.elapsed().as_secs_f64();
        Ok(found)
    }

    /// Asks 400 times a second, as one who keeps to a limit does.
    pub fn paced(&mut self, span: Duration) -> Result<Measured, String> {
        let socket = self.ping_pong.as_ref().ok_or("this flow was not begun")?;
        let mut found = Measured::default();
        let begun = Instant::now();
        let (mut buffer, mut next) = ([0; SIZE], Duration::ZERO);
        while begun.elapsed() < span {
            // Awake before it is due, so that it is no processor's waking up that is measured.
            thread::sleep(next.saturating_sub(begun.elapsed() + Duration::from_micros(300)));
            while begun.elapsed() < next {
                std::hint::spin_loop();
            }
            let sent = Instant::now();
            match socket.send(&[b'e'; SIZE]).and_then(|_| socket.recv(&mut buffer)) {
                Ok(_) => {
                    found.operations += 1;
                    found.latencies.push(sent.elapsed().as_nanos() as u64);
                }
                Err(_) => found.failed += 1,
            }
            next = (next + PACE).max(begun.elapsed());
        }
        found.seconds = begun.elapsed().as_secs_f64();
        Ok(found)
    }
}

/// Asks until there is an answer, a few times; its first eight bytes as a number.
fn exchange(socket: &UdpSocket, what: u8) -> Option<u64> {
    // What is counted is told in eight bytes; a late echo must not be taken for it.
    let expected = if what == b'q' { 8 } else { SIZE };
    let mut buffer = [0; SIZE];
    for _ in 0..10 {
        if socket.send(&[what; SIZE]).is_err() {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        while let Ok(n) = socket.recv(&mut buffer) {
            if n == expected {
                return buffer.first_chunk().map(|n| u64::from_be_bytes(*n));
            }
        }
    }
    None
}
