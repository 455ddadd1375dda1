//! Who listens on a port already.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use procfs::{
    FromReadSI, ProcResult, current_system_info,
    net::{TcpNetEntries, TcpState, UdpNetEntries},
    process::{FDTarget, all_processes},
};

use crate::model::Protocol;

/// The sockets of this network namespace that wait for clients.
#[derive(Debug)]
pub struct Listeners {
    /// With the inode, which tells whose it is.
    sockets: Vec<(Protocol, SocketAddr, u64)>,
}

impl Listeners {
    /// Those that there are now. What cannot be read is left out: this is for advice.
    #[must_use]
    pub fn look() -> Self {
        let tcp = tcp().into_iter().flatten().map(|(at, inode)| (Protocol::Tcp, at, inode));
        let udp = udp().into_iter().flatten().map(|(at, inode)| (Protocol::Udp, at, inode));
        Self { sockets: tcp.chain(udp).collect() }
    }

    /// The process that has the port, on this address or (`None`) on any: its name and pid. A
    /// listener on every address is in everyone's way.
    #[must_use]
    pub fn owner(&self, port: u16, protocol: Protocol, ip: Option<IpAddr>) -> Option<String> {
        let inodes: BTreeSet<u64> = self
            .sockets
            .iter()
            .filter(|(p, at, _)| *p == protocol && at.port() == port && in_the_way(at.ip(), ip))
            .map(|(_, _, inode)| *inode)
            .collect();
        (!inodes.is_empty()).then(|| name_of(&inodes))
    }

    /// The ports they wait on.
    #[must_use]
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        self.sockets.iter().map(|(protocol, at, _)| (*protocol, at.port())).collect()
    }
}

fn in_the_way(listener: IpAddr, wanted: Option<IpAddr>) -> bool {
    let listener = listener.to_canonical();
    let Some(wanted) = wanted.map(|w| w.to_canonical()) else { return true };
    match listener {
        // Most of these take IPv4, too; which ones do not is not to be seen.
        IpAddr::V6(ip) if ip.is_unspecified() => true,
        _ => {
            listener.is_ipv4() == wanted.is_ipv4()
                && (listener.is_unspecified() || wanted.is_unspecified() || listener == wanted)
        }
    }
}

/// The files of the thread's own namespace; `/proc/net` is that of the process's first thread.
fn read<T: FromReadSI>(file: &str) -> ProcResult<T> {
    T::from_file(format!("/proc/thread-self/net/{file}"), current_system_info())
}

fn tcp() -> [Vec<(SocketAddr, u64)>; 2] {
    ["tcp", "tcp6"].map(|file| {
        // Without IPv6 there is no tcp6.
        let entries = read::<TcpNetEntries>(file).map(|e| e.0).unwrap_or_default();
        entries
            .into_iter()
            .filter(|e| e.state == TcpState::Listen)
            .map(|e| (e.local_address, e.inode))
            .collect()
    })
}

fn udp() -> [Vec<(SocketAddr, u64)>; 2] {
    ["udp", "udp6"].map(|file| {
        let entries = read::<UdpNetEntries>(file).map(|e| e.0).unwrap_or_default();
        entries
            .into_iter()
            // A connected socket takes only its peer's packets.
            .filter(|e| e.remote_address.port() == 0)
            .map(|e| (e.local_address, e.inode))
            .collect()
    })
}

fn name_of(inodes: &BTreeSet<u64>) -> String {
    let owner = all_processes().into_iter().flatten().flatten().find(|p| {
        p.fd().into_iter().flatten().flatten().any(|fd| match fd.target {
            FDTarget::Socket(inode) => inodes.contains(&inode),
            _ => false,
        })
    });
    match owner {
        Some(p) => {
            let name = p.stat().map_or_else(|_| "a process".to_owned(), |s| s.comm);
            format!("{name} (pid {})", p.pid)
        }
        // A socket of the kernel, or of a process that we may not look into.
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn port_owner(port: u16, protocol: Protocol, ip: Option<IpAddr>) -> Option<String> {
        Listeners::look().owner(port, protocol, ip)
    }

    #[test]
    fn a_listener_is_named_to_those_it_is_in_the_way_of() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ip = |s: &str| Some(s.parse().unwrap());
        let me = format!("(pid {})", std::process::id());
        for wanted in [None, ip("127.0.0.1"), ip("0.0.0.0")] {
            let owner = port_owner(port, Protocol::Tcp, wanted).unwrap();
            assert!(owner.ends_with(&me), "{wanted:?}: {owner}");
        }
        assert_eq!(port_owner(port, Protocol::Tcp, ip("127.0.0.2")), None);
        assert_eq!(port_owner(port, Protocol::Tcp, ip("::")), None);
        assert_eq!(port_owner(port, Protocol::Udp, None), None);
        assert!(Listeners::look().ports().contains(&(Protocol::Tcp, port)));
        drop(listener);
        assert_eq!(port_owner(port, Protocol::Tcp, None), None);
    }

    #[test]
    fn a_wildcard_listener_is_in_everyones_way() {
        let everywhere = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
        let port = everywhere.local_addr().unwrap().port();
        assert!(port_owner(port, Protocol::Tcp, Some("127.0.0.2".parse().unwrap())).is_some());
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        assert!(port_owner(port, Protocol::Udp, Some("127.0.0.2".parse().unwrap())).is_some());
    }
}
