//! A TCP proxy that counts what passes, and cuts connections.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
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
                thread::spawn(move || copy(up_client, up_server, None));
                thread::spawn(move || copy(server, client, Some(&state)));
            }
        });
        own
    }

    /// The next `times` connections on which more than `after` bytes come back are cut there.
    pub fn cut(&self, times: u64, after: u64) {
        self.state.after.store(after, Ordering::SeqCst);
        self.state.cuts.store(times, Ordering::SeqCst);
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

fn copy(mut from: TcpStream, mut to: TcpStream, state: Option<&State>) {
    let mut buffer = [0; 16384];
    let mut here = 0;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        here += n as u64;
        if let Some(state) = state {
            let due = here > state.after.load(Ordering::SeqCst);
            let take = |cuts: u64| cuts.checked_sub(1).filter(|_| due);
            if state.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                break;
            }
            state.passed.fetch_add(n as u64, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
