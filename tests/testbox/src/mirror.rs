//! A server that tells whom it sees and sends everything back, over TCP and UDP of one port, and
//! takes and sends datagrams in the kernel's bundles (`UDP_GRO`, `UDP_SEGMENT`).

use std::{
    io::{self, Read, Write},
    mem,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
};

use crate::{Outcome, http::hostname};

/// A datagram of these bytes asks who is seen.
const WHO: &[u8] = b"who?";

/// Room for one control message with an int in it.
type Control = [u64; 8];

/// Serves until it is killed; with `v4`, an application that knows no IPv6.
pub fn serve(port: u16, v4: bool) -> Outcome {
    let at: SocketAddr = if v4 { ([0, 0, 0, 0], port).into() } else { ([0u16; 8], port).into() };
    let say = |e: io::Error| format!("{at}: {e}");
    let socket = UdpSocket::bind(at).map_err(say)?;
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to an int that lives through the call.
    let failed = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw const on).cast(), 4)
    };
    if failed != 0 {
        return Err(say(io::Error::last_os_error()));
    }
    let listener = TcpListener::bind(at).map_err(say)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || connection(stream));
        }
    });
    let mut buffer = vec![0; 1 << 16];
    loop {
        if let Err(e) = datagrams(&socket, &mut buffer) {
            eprintln!("testbox: {e}");
        }
    }
}

fn who(peer: SocketAddr) -> String {
    format!("client={} host={}\n", peer.ip().to_canonical(), hostname())
}

fn connection(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(who(stream.peer_addr()?).as_bytes())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// Takes one datagram or one bundle of them, and sends it back in the same form.
fn datagrams(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: all zeroes is a value of both.
    let (mut peer, mut message): (libc::sockaddr_in6, libc::msghdr) = unsafe { mem::zeroed() };
    let mut control: Control = [0; 8];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut peer).cast();
    message.msg_namelen = size_of_val(&peer) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points at what lives through the call.
    let taken = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the control messages as far as `msg_controllen` says.
    let size = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        let bundle =
            !first.is_null() && ((*first).cmsg_level, (*first).cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO);
        if bundle { libc::CMSG_DATA(first).cast::<libc::c_int>().read_unaligned() } else { 0 }
    };
    if buffer[..taken] == *WHO {
        // The one the message is from, as the standard library has it.
        let from = address(&peer);
        return socket.send_to(who(from).as_bytes(), from).map(|_| ());
    }
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: taken };
    message.msg_iov = &raw mut part;
    let bundle = u16::try_from(size).ok().filter(|&size| size > 0 && usize::from(size) < taken);
    // SAFETY: the buffer has room for the one message, which is written whole.
    unsafe {
        match bundle {
            Some(size) => {
                let first = message.msg_control.cast::<libc::cmsghdr>();
                message.msg_controllen = libc::CMSG_SPACE(2) as _;
                (*first).cmsg_level = libc::SOL_UDP;
                (*first).cmsg_type = libc::UDP_SEGMENT;
                (*first).cmsg_len = libc::CMSG_LEN(2) as _;
                libc::CMSG_DATA(first).cast::<u16>().write_unaligned(size);
            }
            None => message.msg_controllen = 0,
        }
    }
    // SAFETY: as above.
    if unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What the kernel has written is of the family it says.
fn address(raw: &libc::sockaddr_in6) -> SocketAddr {
    if raw.sin6_family == libc::AF_INET as libc::sa_family_t {
        // SAFETY: by its family it is the smaller of the two.
        let raw = unsafe { &*(&raw const *raw).cast::<libc::sockaddr_in>() };
        return (raw.sin_addr.s_addr.to_ne_bytes(), u16::from_be(raw.sin_port)).into();
    }
    std::net::SocketAddrV6::new(
        raw.sin6_addr.s6_addr.into(),
        u16::from_be(raw.sin6_port),
        0,
        raw.sin6_scope_id,
    )
    .into()
}
