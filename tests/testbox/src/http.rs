//! An HTTP/1.1 server that tells what it sees, and goes out on request: a test asks a container
//! from the outside what it looks like from the inside.
//!
//! | path | answer |
//! |---|---|
//! | `/` | `client`, `host`, `pid`, `path`, one `name=value` a line |
//! | `/client` | the client's address as the server sees it |
//! | `/hostname` `/env` `/cwd` `/args` `/id` | the process's own |
//! | `/files?path=P` | a file's text |
//! | `/slow?ms=N` | answers late |
//! | `/exit?status=N` | the process ends |
//! | `/health` | 200, or 503 while it is sick |
//! | `/sicken` `/cure` | it is sick from now on; it is well again |
//! | `/tcp?to=A:P` | GETs `/client` of another such server and passes the answer on |
//! | `/udp?to=A:P` | sends a datagram to an echo server |
//! | `/ping?to=A` | ICMP echo |
//! | `/dns?server=A:P&name=N` | asks for an A record |

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{Outcome, client, serve::listen, sys};

static SICK: AtomicBool = AtomicBool::new(false);

/// Serves until it is killed.
pub fn serve(port: u16) -> Outcome {
    serve_on(&listen(port)?)
}

/// The same on a socket that listens.
pub fn serve_on(listener: &TcpListener) -> Outcome {
    for stream in listener.incoming() {
        // A full descriptor table must not turn into a busy loop.
        let Ok(stream) = stream else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        thread::spawn(move || connection(&stream));
    }
    Ok(0)
}

const UNWELL: &str = "not well\n";

fn connection(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(peer) = stream.peer_addr() else { return };
    let client = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut keep = true;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            let header = header.trim().to_ascii_lowercase();
            keep &= header != "connection: close";
            if header.is_empty() {
                break;
            }
        }
        let target = request.split(' ').nth(1).unwrap_or("/");
        let (status, body) = match answer(target, client) {
            Ok(body) if body == UNWELL => ("503 Service Unavailable", body),
            Ok(body) => ("200 OK", body),
            Err(e) => ("500 Internal Server Error", format!("{e}\n")),
        };
        let connection = if keep { "keep-alive" } else { "close" };
        let reply = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        let mut out = stream;
        if out.write_all(reply.as_bytes()).is_err() || !keep {
            return;
        }
    }
}

fn answer(target: &str, client: SocketAddr) -> Result<String, String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let value = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v.to_owned()))
            .ok_or(format!("{path} needs ?{name}=…"))
    };
    let to =
        |name: &str| value(name)?.parse::<SocketAddr>().map_err(|_| format!("{name} is not ADDRESS:PORT"));
    let number = |name: &str| value(name)?.parse::<u64>().map_err(|_| format!("{name} is not a number"));
    Ok(match path {
        "/client" => format!("{}\n", client.ip()),
        "/hostname" => format!("{}\n", hostname()),
        "/env" => env::vars_os().map(|(k, v)| format!("{}={}\n", k.display(), v.display())).collect(),
        "/cwd" => format!("{}\n", env::current_dir().map_err(|e| e.to_string())?.display()),
        "/args" => env::args_os().map(|a| format!("{}\n", a.display())).collect(),
        "/id" => sys::identity(),
        "/files" => {
            let file = value("path")?;
            fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?
        }
        "/slow" => {
            thread::sleep(Duration::from_millis(number("ms")?));
            "at last\n".into()
        }
        "/health" if SICK.load(Ordering::Relaxed) => UNWELL.into(),
        "/health" => "well\n".into(),
        "/sicken" | "/cure" => {
            SICK.store(path == "/sicken", Ordering::Relaxed);
            "so be it\n".into()
        }
        "/exit" => process::exit(number("status")? as i32),
        "/tcp" => client::get(to("to")?, "/client")?,
        "/udp" => client::udp(to("to")?)?,
        "/ping" => client::ping(value("to")?.parse::<IpAddr>().map_err(|_| "to is not an address")?, 1)?,
        "/dns" => client::dns(to("server")?, &value("name")?)?,
        _ => format!("client={client}\nhost={}\npid={}\npath={path}\n", hostname(), process::id()),
    })
}

/// The host's name.
pub fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
