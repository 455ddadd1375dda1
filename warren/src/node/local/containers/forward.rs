//! `PortForward`: one TCP connection into a container.

use std::net::IpAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
};
use tonic::{Status, Streaming};

use super::{Answers, Containers, answers, runtime_error};
use crate::{
    proto::v1::{
        PortForwardRequest, PortForwardResponse, port_forward_request::Part as Said,
        port_forward_response::Part,
    },
    worker::runtime::ConnectError,
};

/// Bytes read at a time.
const CHUNK: usize = 32 << 10;

type Answer = mpsc::Sender<Result<PortForwardResponse, Status>>;

fn part(part: Part) -> Result<PortForwardResponse, Status> {
    Ok(PortForwardResponse { part: Some(part) })
}

impl Containers {
    pub(super) async fn forward(
        &self,
        mut parts: Streaming<PortForwardRequest>,
    ) -> Result<Answers<PortForwardResponse>, Status> {
        let Some(PortForwardRequest { part: Some(Said::Open(open)) }) = parts.message().await? else {
            return Err(Status::invalid_argument("the first message says where to"));
        };
        let task = self.running(&open.task)?;
        let port = u16::try_from(open.port).ok().filter(|&p| p != 0);
        let port = port.ok_or_else(|| Status::invalid_argument("a port is from 1 to 65535"))?;
        let addresses = task.attachment.into_iter();
        let addresses = addresses.flat_map(|a| [IpAddr::V4(a.address), IpAddr::V6(a.address6)]).collect();
        let connected = self.containerd.connect(task.id, port, addresses).await;
        let stream = connected.map_err(|e| match e {
            ConnectError::NotRunning(id) => self.stopped(id),
            ConnectError::Unanswered { .. } => Status::unavailable(e.to_string()),
            ConnectError::Runtime(e) => runtime_error(&e),
        })?;
        let (sender, answers) = answers();
        let (from, to) = stream.into_split();
        tokio::spawn(async move {
            tokio::select! {
                // One direction may end long before the other.
                (up, down) = async { tokio::join!(up(parts, to), down(from, &sender)) } => {
                    tracing::debug!(up, down, "a forwarded connection has ended");
                }
                () = sender.closed() => {}
            }
        });
        Ok(answers)
    }
}

/// Client to container; false when the client has gone in the middle.
async fn up(mut parts: Streaming<PortForwardRequest>, mut to: OwnedWriteHalf) -> bool {
    loop {
        match parts.message().await {
            Ok(Some(PortForwardRequest { part: Some(Said::Data(bytes)) })) => {
                if to.write_all(&bytes).await.is_err() {
                    return true;
                }
            }
            Ok(Some(PortForwardRequest { part: Some(Said::Closed(_)) }) | None) => {
                let _ = to.shutdown().await;
                return true;
            }
            Ok(Some(_)) => {}
            Err(_) => return false,
        }
    }
}

/// Container to client; false when the client has gone or the connection broke.
async fn down(mut from: OwnedReadHalf, answer: &Answer) -> bool {
    if answer.send(part(Part::Opened(true))).await.is_err() {
        return false;
    }
    loop {
        let mut bytes = Vec::with_capacity(CHUNK);
        let next = match from.read_buf(&mut bytes).await {
            Ok(0) => part(Part::Closed(true)),
            Ok(_) => part(Part::Data(bytes)),
            Err(e) => Err(Status::aborted(format!("the container broke the connection: {e}"))),
        };
        let last = !matches!(&next, Ok(PortForwardResponse { part: Some(Part::Data(_)) }));
        let good = next.is_ok();
        if answer.send(next).await.is_err() || !good {
            return false;
        }
        if last {
            return true;
        }
    }
}
