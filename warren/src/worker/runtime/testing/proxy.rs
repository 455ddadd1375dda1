//! A TCP proxy that counts what passes, and cuts connections.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// A port on loopback that leads to another one. It lives as long as the process.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that came back so far.
    passed: AtomicU64,
    /// Connections so far.
    connections: AtomicU64,
    /// Cuts that are left, and after how many bytes of a connection each comes.
    cuts: AtomicU64,
    after: AtomicU64,
    /// Whether requests lose their ranges.
    no_ranges: AtomicBool,
    /// Bytes a second that come back, on each connection; 0 for all there are.
    rate: AtomicU64,
}

impl Proxy {
    /// Leads to `port`.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = Self { port: listener.local_addr().expect("an address").port(), state: Arc::default() };
        let state = own.state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                state.connections.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (state, up) = (state.clone(), (client.try_clone(), server.try_clone()));
                let (Ok(up_client), Ok(up_server)) = up else { continue };
                let asking = state.clone();
                thread::spawn(move || ask(up_client, up_server, &asking));
                thread::spawn(move || answer(server, client, &state));
            }
        });
        own
    }

    /// The next `times` connections on which more than `after` bytes come back are cut there.
    pub fn cut(&self, times: u64, after: u64) {
        self.state.after.store(after, Ordering::SeqCst);
        self.state.cuts.store(times, Ordering::SeqCst);
    }

    /// From now on requests get there without their ranges, as if the registry knew none.
    pub fn without_ranges(&self) {
        self.state.no_ranges.store(true, Ordering::SeqCst);
    }

    /// From now on no connection brings more than so many bytes a second.
    pub fn slow_down(&self, rate: u64) {
        self.state.rate.store(rate, Ordering::SeqCst);
    }

    /// Cuts that have not happened yet.
    #[must_use]
    pub fn cuts_left(&self) -> u64 {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Bytes that came back.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }

    /// Connections made.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }
}

fn ask(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = [0; 16384];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        // A request is small and comes in one piece.
        if state.no_ranges.load(Ordering::SeqCst)
            && let Some(at) = buffer[..n].windows(9).position(|w| w.eq_ignore_ascii_case(b"\r\nrange: "))
        {
            buffer[at + 2] = b'x';
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    end(&from, &to);
}

fn answer(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = [0; 16384];
    let mut here = 0;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        here += n as u64;
        let due = here > state.after.load(Ordering::SeqCst);
        let take = |cuts: u64| cuts.checked_sub(1).filter(|_| due);
        if state.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            break;
        }
        if let Some(wait) = (n as u64 * 1_000_000).checked_div(state.rate.load(Ordering::SeqCst)) {
            thread::sleep(Duration::from_micros(wait));
        }
        state.passed.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    end(&from, &to);
}

fn end(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}
