//! Where a container is reached, and connections to it.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::oneshot,
};

use crate::model::{NetworkMode, Task};

/// Where a container's ports are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// At an address that the node reaches.
    At(IpAddr),
    /// At 127.0.0.1 of this network namespace.
    Inside(PathBuf),
}

impl Place {
    /// Of a task whose first process is `pid`.
    pub(super) fn of(task: &Task, pid: u32) -> Self {
        match (task.spec.network, task.attachment) {
            (NetworkMode::Cluster, Some(a)) => Self::At(a.address.into()),
            (NetworkMode::Host, _) => Self::At(Ipv4Addr::LOCALHOST.into()),
            (NetworkMode::None, _) | (NetworkMode::Cluster, None) => {
                Self::Inside(format!("/proc/{pid}/ns/net").into())
            }
        }
    }

    /// The address that is connected to.
    pub(super) fn address(&self, port: u16) -> SocketAddr {
        match self {
            Self::At(address) => (*address, port).into(),
            Self::Inside(_) => (Ipv4Addr::LOCALHOST, port).into(),
        }
    }

    /// Connects.
    pub(super) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let to = self.address(port);
        let stream = match self {
            Self::At(_) => TcpStream::connect(to).await?,
            Self::Inside(ns) => socket_inside(ns).await?.connect(to).await?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A socket of another network namespace: it stays there, whoever uses it. Made on a thread that
/// does nothing else and ends: one that has entered a namespace must not go back to others' work.
async fn socket_inside(ns: &Path) -> io::Result<TcpSocket> {
    let ns = File::open(ns)?;
    let (tell, made) = oneshot::channel();
    std::thread::Builder::new().name("probe".into()).spawn(move || {
        let make = || {
            setns(&ns, CloneFlags::CLONE_NEWNET)?;
            TcpSocket::new_v4()
        };
        // Nobody may be waiting any more.
        drop(tell.send(make()));
    })?;
    made.await.unwrap_or_else(|_| Err(io::Error::other("the thread that makes the socket panicked")))
}
