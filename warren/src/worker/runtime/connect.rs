//! Connections to a port of a container, made inside its network namespace: what listens on its
//! loopback only is reached too.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::{Containerd, containerd::blocking};
use crate::{model::TaskId, worker::executor::RuntimeError};

/// How long one address may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The task has no running container here.
    #[error("task {0} is not running")]
    NotRunning(TaskId),
    /// No address of the container took it; what the last one said.
    #[error("nothing answers on port {port} of task {task}: {source}")]
    Unanswered {
        /// The task.
        task: TaskId,
        /// The port.
        port: u16,
        /// What the container's loopback, or its last address, said.
        source: io::Error,
    },
    /// containerd is away, or the namespace cannot be entered.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Containerd {
    /// Connects to a port of a task's container: on its loopback, else on `addresses`.
    ///
    /// # Errors
    /// There is no connection then.
    pub async fn connect(
        &self,
        task: TaskId,
        port: u16,
        addresses: Vec<IpAddr>,
    ) -> Result<tokio::net::TcpStream, ConnectError> {
        let running = async || self.running(task).await.map_err(RuntimeError::from);
        let pid = running().await?.ok_or(ConnectError::NotRunning(task))?;
        let namespace = blocking(move || File::open(format!("/proc/{pid}/ns/net"))).await?;
        if running().await? != Some(pid) {
            return Err(ConnectError::NotRunning(task)); // the number may be another's by now
        }
        let (answer, connected) = oneshot::channel();
        let mut to = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        to.extend(addresses);
        // A thread that has entered a namespace does nothing else and ends.
        let thread = std::thread::Builder::new()
            .name("connect".to_owned())
            .spawn(move || drop(answer.send(connect_inside(&namespace, &to, port))));
        let system = |e: io::Error| RuntimeError::Temporary(format!("the container's network: {e}"));
        thread.map_err(system)?;
        let connected = connected.await.map_err(|e| system(io::Error::other(e)))?;
        let stream = connected.map_err(|source| ConnectError::Unanswered { task, port, source })?;
        stream.set_nonblocking(true).map_err(system)?;
        Ok(tokio::net::TcpStream::from_std(stream).map_err(system)?)
    }
}

fn connect_inside(namespace: &File, to: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let mut first = None;
    for address in to {
        match TcpStream::connect_timeout(&SocketAddr::new(*address, port), PATIENCE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => first = first.or(Some(e)),
        }
    }
    Err(first.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable)))
}
