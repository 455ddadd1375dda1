//! Servers, and processes that only live and die.

use std::{
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use crate::Outcome;

/// Sends back every byte of every connection.
pub fn tcp_echo(port: u16) -> Outcome {
    let listener = listen(port)?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let mut buffer = [0; 16384];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        });
    }
    Ok(0)
}

/// Sends back every datagram.
pub fn udp_echo(port: u16) -> Outcome {
    let socket = UdpSocket::bind(("::", port))
        .or_else(|_| UdpSocket::bind(("0.0.0.0", port)))
        .map_err(|e| format!("cannot bind UDP port {port}: {e}"))?;
    let mut buffer = [0; 65536];
    loop {
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}

/// On every address, v6 and v4 where the kernel has both.
pub fn listen(port: u16) -> Result<TcpListener, String> {
    TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .map_err(|e| format!("cannot listen on port {port}: {e}"))
}

/// Does nothing, for ever or for a number of seconds.
pub fn sleep(seconds: Option<u64>) -> Outcome {
    match seconds {
        Some(s) => thread::sleep(Duration::from_secs(s)),
        None => loop {
            thread::sleep(Duration::from_secs(3600));
        },
    }
    Ok(0)
}

/// Ends with `status` after a while.
pub fn exit_after(status: i32, ms: u64) -> Outcome {
    thread::sleep(Duration::from_millis(ms));
    Ok(status)
}
