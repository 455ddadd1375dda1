//! What a program does with its own streams and its terminal.

use std::{
    ffi::{c_int, c_ulong},
    io::{self, Read, Write},
    thread,
    time::{Duration, Instant},
};

use crate::{Outcome, http};

const TIOCGWINSZ: c_ulong = 0x5413;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

/// Standard input, back on standard output.
pub fn echo() -> Outcome {
    let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    let mut buffer = [0; 65536];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => return Ok(0),
            Ok(n) => {
                stdout.write_all(&buffer[..n]).and_then(|()| stdout.flush()).map_err(|e| e.to_string())?;
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// Rows and columns of the terminal, and again after each change, so many times.
pub fn size(times: u32) -> Outcome {
    let mut last = None;
    for _ in 0..times {
        let mut now = window()?;
        while last == Some(now) {
            thread::sleep(Duration::from_millis(10));
            now = window()?;
        }
        println!("{} {}", now.0, now.1);
        last = Some(now);
    }
    Ok(0)
}

fn window() -> Result<(u16, u16), String> {
    let mut size = [0u16; 4];
    // SAFETY: TIOCGWINSZ writes four 16-bit numbers to the address, which lives through the call.
    if unsafe { ioctl(0, TIOCGWINSZ, size.as_mut_ptr()) } != 0 {
        return Err("the input is no terminal".to_owned());
    }
    Ok((size[0], size[1]))
}

/// Uses a processor for so many seconds.
pub fn busy(seconds: u64) -> Outcome {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut n = 0u64;
    while Instant::now() < until {
        n = std::hint::black_box(n.wrapping_mul(31).wrapping_add(7));
    }
    Ok(0)
}

/// The HTTP server, on 127.0.0.1 only.
pub fn http_local(port: u16) -> Outcome {
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    http::serve_on(&listener)
}
