//! Sockets of hosts: TCP and UDP servers that echo, and clients that choose their own port.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
    sockopt,
};
use warren_tests::Host;

/// How long an answer may take.
pub const WAIT: Duration = Duration::from_millis(1500);

/// A process' listener on TCP and UDP of one port, which answers `?` with its name and sends
/// back whatever else a datagram is.
/// Goes when it goes out of scope.
pub struct Listener {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Listener {
    /// Listens on a host; on `[::]` for both families.
    pub fn on(host: &Host, at: SocketAddr, name: &'static str) -> Result<Self> {
        let (tcp, udp) = host.ns.enter(|| -> Result<(TcpListener, UdpSocket)> {
            let tcp = open(SockType::Stream, at)?;
            listen(&tcp, Backlog::new(64)?)?;
            Ok((tcp.into(), open(SockType::Datagram, at)?.into()))
        })??;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (one, other) = (stop.clone(), stop.clone());
        let streams = thread::spawn(move || {
            let mut served = Vec::new();
            while !one.load(Relaxed) {
                match tcp.accept() {
                    Ok((stream, _)) => {
                        let stop = one.clone();
                        served.push(thread::spawn(move || serve(stream, name, &stop)));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
            served.into_iter().for_each(|t| drop(t.join()));
        });
        let datagrams = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !other.load(Relaxed) {
                if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                    let said = &buffer[..length];
                    let _ = udp.send_to(if said == b"?" { name.as_bytes() } else { said }, from);
                }
            }
        });
        Ok(Self { stop, threads: vec![streams, datagrams] })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

fn serve(mut stream: TcpStream, name: &str, stop: &AtomicBool) {
    let ready = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(WAIT / 30)));
    let mut buffer = [0; 2048];
    while ready.is_ok() && !stop.load(Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) if stream.write_all(name.as_bytes()).is_err() => return,
            _ => {}
        }
    }
}

fn open(kind: SockType, at: SocketAddr) -> Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&made, sockopt::ReuseAddr, &true)?;
    bind(made.as_raw_fd(), &SockaddrStorage::from(at)).with_context(|| format!("bind to {at}"))?;
    Ok(made)
}

/// A conversation that stays open.
pub enum Talk {
    Tcp(TcpStream),
    /// A socket that is connected.
    Udp(UdpSocket),
    /// One that names the other with each datagram.
    Loose(UdpSocket, SocketAddr),
}

/// The ways to begin one.
pub const WAYS: [&str; 3] = ["tcp", "connected udp", "udp"];

impl Talk {
    /// Begins one from a host's own port (0: any).
    pub fn begin(host: &Host, way: &str, port: u16, to: SocketAddr) -> Result<Self> {
        let own: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let begun = host.ns.enter(|| -> Result<Self> {
            let kind = if way == "tcp" { SockType::Stream } else { SockType::Datagram };
            let socket = open(kind, (own, port).into())?;
            // A connection that nobody answers must end, too.
            setsockopt(&socket, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(1, 500_000))?;
            if way != "udp" {
                connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
                    .with_context(|| format!("{way} from {port} to {to}"))?;
            }
            Ok(match way {
                "tcp" => Self::Tcp(socket.into()),
                "udp" => Self::Loose(socket.into(), to),
                _ => Self::Udp(socket.into()),
            })
        })??;
        match &begun {
            Self::Tcp(s) => s.set_read_timeout(Some(WAIT))?,
            Self::Udp(s) | Self::Loose(s, _) => s.set_read_timeout(Some(WAIT))?,
        }
        Ok(begun)
    }

    /// Asks once; who answers.
    pub fn ask(&mut self) -> Result<String> {
        let mut buffer = [0; 256];
        let length = match self {
            Self::Tcp(s) => s.write_all(b"?").and_then(|()| s.read(&mut buffer)),
            Self::Udp(s) => s.send(b"?").and_then(|_| s.recv(&mut buffer)),
            Self::Loose(s, to) => {
                s.send_to(b"?", *to)?;
                let (length, from) = s.recv_from(&mut buffer).context("no answer")?;
                ensure!((from.ip(), from.port()) == (to.ip(), to.port()), "{from} answered for {to}");
                Ok(length)
            }
        };
        Ok(String::from_utf8_lossy(&buffer[..length.context("no answer")?]).into_owned())
    }
}

/// Asks once from any port; who answers.
pub fn ask(host: &Host, way: &str, to: SocketAddr) -> Result<String> {
    Talk::begin(host, way, 0, to)?.ask()
}
