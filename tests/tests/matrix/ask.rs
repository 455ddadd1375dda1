//! One client's way to ask `testbox mirror`: who do you see, and is what I sent what comes back?

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

const WAIT: Duration = Duration::from_secs(4);

/// Bytes of TCP's bulk, each way.
const BULK: usize = 3 << 20;
/// Bytes of a segment of a bundle: fits the smallest MTU of IPv6.
const SEGMENT: usize = 1200;

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    Tcp,
    /// A UDP socket that is connected.
    Connected,
    /// A UDP socket that names the address with each datagram.
    Unconnected,
}

/// What is sent and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// A few bytes.
    Small,
    /// Datagrams larger than any MTU here.
    Fragmented,
    /// As much as many packets hold.
    Big,
    /// Bundles that the kernel cuts up: TSO, `UDP_SEGMENT`; taken by `UDP_GRO`.
    Bundled,
    /// Datagrams without a checksum.
    Unsummed,
}

/// Whom the container saw, and its name.
#[derive(Debug)]
pub struct Seen {
    pub client: IpAddr,
    pub host: String,
}

/// Runs `f` on a thread in a network namespace.
pub fn enter<T: Send>(namespace: &Path, f: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(namespace).with_context(|| format!("{}", namespace.display()))?;
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            anyhow::Ok(f())
        });
        inside.join().expect("no panic")
    })
}

/// Asks, from where this thread is.
pub fn ask(to: SocketAddr, means: Means, load: Load) -> Result<Seen> {
    if means == Means::Tcp { stream(to, load) } else { datagrams(to, means, load) }
}

/// Bytes that cannot be mistaken for others: no two runs of eight are alike.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed << 20) ^ bytes as u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

fn seen(line: &str) -> Result<Seen> {
    let told = || format!("no answer of the mirror: {line:?}");
    let (client, host) =
        line.trim().strip_prefix("client=").and_then(|l| l.split_once(" host=")).with_context(told)?;
    Ok(Seen { client: client.parse().with_context(told)?, host: host.to_owned() })
}

fn stream(to: SocketAddr, load: Load) -> Result<Seen> {
    let stream = TcpStream::connect_timeout(&to, WAIT).context("connect")?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.set_nodelay(true)?;
    ensure!(stream.peer_addr()? == to, "the socket's peer is {}", stream.peer_addr()?);
    let mut answers = BufReader::new(&stream);
    let mut line = String::new();
    answers.read_line(&mut line).context("the first line")?;
    let seen = seen(&line)?;
    // Messages that wait for their echo, or all at once.
    let messages: &[usize] = match load {
        Load::Small => &[1, 5],
        Load::Big => &[BULK],
        Load::Bundled => &[60_000, 60_000, 60_000],
        Load::Fragmented | Load::Unsummed => bail!("not of TCP"),
    };
    for (n, &bytes) in messages.iter().enumerate() {
        let sent = noise(bytes, n as u64);
        let mut back = vec![0; bytes];
        thread::scope(|scope| {
            let writer = scope.spawn(|| (&stream).write_all(&sent));
            let read = answers.read_exact(&mut back);
            writer.join().expect("no panic").context("write")?;
            read.with_context(|| format!("read {bytes} bytes"))
        })?;
        ensure!(back == sent, "{bytes} bytes came back as others");
    }
    stream.shutdown(Shutdown::Write)?;
    ensure!(answers.read(&mut [0]).context("the end")? == 0, "more came back than was sent");
    Ok(seen)
}

fn datagrams(to: SocketAddr, means: Means, load: Load) -> Result<Seen> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(WAIT))?;
    if means == Means::Connected {
        socket.connect(to)?;
        ensure!(socket.peer_addr()? == to, "the socket's peer is {}", socket.peer_addr()?);
    }
    let send = |bytes: &[u8]| match means {
        Means::Connected => socket.send(bytes),
        _ => socket.send_to(bytes, to),
    };
    let mut buffer = vec![0; 1 << 16];
    let mut receive = || -> Result<Vec<u8>> {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // The zone of a link-local address is told by the kernel.
        ensure!((from.ip(), from.port()) == (to.ip(), to.port()), "an answer from {from}");
        Ok(buffer[..length].to_vec())
    };
    if load == Load::Unsummed {
        set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK)?;
    }
    send(b"who?").context("send")?;
    let seen = seen(&String::from_utf8_lossy(&receive().context("the first answer")?))?;
    // Rounds of so many datagrams of so many bytes, each in so many calls.
    let (rounds, calls, segments) = match load {
        Load::Small => (&[1, 5][..], 1, 1),
        Load::Unsummed => (&[5, 900][..], 1, 1),
        Load::Fragmented => (&[4000, 9000][..], 1, 1),
        Load::Big => (&[SEGMENT; 20][..], 20, 1),
        Load::Bundled => (&[SEGMENT; 3][..], 1, 40),
    };
    if segments > 1 {
        set_to(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, SEGMENT as libc::c_int)?;
    }
    for (n, &bytes) in rounds.iter().enumerate() {
        let sent: Vec<Vec<u8>> =
            (0..calls).map(|call| noise(bytes * segments, (n * calls + call) as u64)).collect();
        for one in &sent {
            let length = send(one).with_context(|| format!("send {} bytes", one.len()))?;
            ensure!(length == one.len(), "{length} of {} bytes were sent", one.len());
        }
        let mut missing: BTreeSet<&[u8]> = sent.iter().flat_map(|one| one.chunks(bytes)).collect();
        let count = missing.len();
        while !missing.is_empty() {
            let back = receive().with_context(|| {
                format!("{} of {count} datagrams of {bytes} bytes did not come back", missing.len())
            })?;
            ensure!(missing.remove(&back[..]), "{} bytes came back that were not sent", back.len());
        }
    }
    Ok(seen)
}

fn set(socket: &UdpSocket, level: i32, name: i32) -> Result<()> {
    set_to(socket, level, name, 1)
}

fn set_to(socket: &UdpSocket, level: i32, name: i32, value: libc::c_int) -> Result<()> {
    // SAFETY: the pointer is to an int that lives through the call.
    let failed = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    ensure!(failed == 0, "option {name}: {}", std::io::Error::last_os_error());
    Ok(())
}
