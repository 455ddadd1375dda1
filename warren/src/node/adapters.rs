//! What the engines need of each other, each in the words of who needs it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    model::{Assignment, Attachment, PortSpec, Protocol, TaskId},
    net,
    worker::executor::{Gate, Network, NetworkError, NetworkNamespace},
};

/// The worker's network: the node's.
pub(super) struct WorkerNetwork(pub(super) net::Handle);

fn sentence(e: net::NetError) -> NetworkError {
    NetworkError(e.to_string())
}

#[async_trait]
impl Network for WorkerNetwork {
    async fn list(&self) -> Result<Vec<TaskId>, NetworkError> {
        self.0.list().await.map_err(sentence)
    }

    async fn attach(&self, task: TaskId, attachment: &Attachment) -> Result<NetworkNamespace, NetworkError> {
        let path = self.0.attach(task, attachment).await.map_err(sentence)?;
        Ok(NetworkNamespace { path })
    }

    async fn serve(&self, task: TaskId, attachment: &Attachment, gate: Gate) -> Result<(), NetworkError> {
        let gate = match gate {
            Gate::Open => net::Gate::Open,
            Gate::Draining => net::Gate::Draining,
            Gate::Held => net::Gate::Held,
        };
        self.0.serve(task, attachment, gate).await.map_err(sentence)
    }

    async fn detach(&self, task: TaskId) -> Result<(), NetworkError> {
        self.0.detach(task).await.map_err(sentence)
    }
}

/// The API's view of the host's listeners.
pub(super) struct HostListeners;

#[async_trait]
impl api::HostPorts for HostListeners {
    async fn owner(&self, ports: Vec<PortSpec>) -> Option<(PortSpec, String)> {
        let look = move || {
            let listeners = net::Listeners::look();
            let owner = |p: &PortSpec| listeners.owner(p.published, p.protocol, p.host_ip);
            ports.into_iter().find_map(|p| owner(&p).map(|owner| (p, owner)))
        };
        // The look walks /proc; it is advice, so a failed look is no owner.
        tokio::task::spawn_blocking(look).await.ok().flatten()
    }

    async fn listening(&self) -> BTreeSet<(Protocol, u16)> {
        let look = || net::Listeners::look().ports();
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    fn has_address(&self, address: IpAddr) -> bool {
        // The kernel knows best: it lets a socket have only what the node has.
        UdpSocket::bind((address, 0)).is_ok()
    }
}

/// Hands the worker's assignments to the network. The worker needs the network to start and the
/// network needs the worker's assignments: this is the second half of the circle.
pub(super) async fn forward(
    mut from: watch::Receiver<Option<Arc<Assignment>>>,
    to: watch::Sender<Option<Arc<Assignment>>>,
    cancel: CancellationToken,
) {
    loop {
        let latest = from.borrow_and_update().clone();
        to.send_replace(latest);
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = from.changed() => if changed.is_err() { return },
        }
    }
}
