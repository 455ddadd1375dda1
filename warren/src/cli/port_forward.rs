//! `warren port-forward`: ports of a running task, reached from here.

use std::{fmt, net::IpAddr, str::FromStr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use super::{Context, output::print, target};
use crate::proto::v1::{
    PortForwardRequest, PortForwardResponse,
    containers_client::ContainersClient,
    port_forward_request::{Open, Part},
    port_forward_response::Part as Told,
};

/// Bytes read at a time.
const CHUNK: usize = 32 << 10;

/// Reach ports of a running task from here.
///
/// Also ports that are not published, and programs that listen on the container's loopback only.
/// Runs until interrupted.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    address: IpAddr,
    /// A task's id, the beginning of one, SERVICE.SLOT, or a service (its first running task).
    #[arg(value_name = "TASK|SERVICE")]
    target: String,
    /// A port here (0 for any) and one of the task; one number for both.
    #[arg(required = true, value_name = "LOCAL:TARGET")]
    ports: Vec<Pair>,
}

/// Two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    local: u16,
    target: u16,
}

/// Not two ports.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not LOCAL:TARGET, two ports of which only LOCAL may be 0; for example 8080:80")]
struct PairError(String);

impl FromStr for Pair {
    type Err = PairError;

    fn from_str(text: &str) -> Result<Self, PairError> {
        let (local, target) = text.split_once(':').unwrap_or((text, text));
        match (local.parse(), target.parse()) {
            (Ok(local), Ok(target)) if target != 0 => Ok(Self { local, target }),
            _ => Err(PairError(text.to_owned())),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.local, self.target)
    }
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let task = target::one(context, &args.target).await?.id.to_string();
    let node = context.containers().await?;
    let mut listeners = Vec::new();
    for pair in &args.ports {
        let listener = TcpListener::bind((args.address, pair.local)).await;
        let listener = listener
            .map_err(|e| anyhow::anyhow!("cannot listen on port {} of {}: {e}", pair.local, args.address))?;
        listeners.push((listener, pair.target));
    }
    // All or none: a caller who reads one line may use every port.
    for (listener, port) in &listeners {
        print(&format!("{} -> {port}\n", listener.local_addr()?))?;
    }
    let (failed, mut failures) = mpsc::channel::<Status>(16);
    for (listener, port) in listeners {
        tokio::spawn(accept(listener, port, task.clone(), node.clone(), failed.clone()));
    }
    while let Some(status) = failures.recv().await {
        // Without the task there is nothing to wait for.
        if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) {
            return Err(status.into());
        }
        eprintln!("warren: {}", super::sentence(&status.into()));
    }
    Ok(())
}

async fn accept(
    listener: TcpListener,
    port: u16,
    task: String,
    node: ContainersClient<Channel>,
    failed: mpsc::Sender<Status>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many files are open: some will be closed.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (task, node, failed) = (task.clone(), node.clone(), failed.clone());
        tokio::spawn(async move {
            if let Err(status) = forward(stream, port, task, node).await {
                let _ = failed.send(status).await;
            }
        });
    }
}

fn part(part: Part) -> PortForwardRequest {
    PortForwardRequest { part: Some(part) }
}

/// Carries one connection until both directions have ended.
async fn forward(
    stream: TcpStream,
    port: u16,
    task: String,
    mut node: ContainersClient<Channel>,
) -> Result<(), Status> {
    let _ = stream.set_nodelay(true);
    let (say, said) = mpsc::channel(4);
    let open = Open { task, port: port.into() };
    let _ = say.send(part(Part::Open(open))).await;
    let mut told = node.port_forward(ReceiverStream::new(said)).await?.into_inner();
    let (mut from, mut to) = stream.into_split();
    let up = tokio::spawn(async move {
        loop {
            let mut bytes = Vec::with_capacity(CHUNK);
            match from.read_buf(&mut bytes).await {
                Ok(0) => {
                    let _ = say.send(part(Part::Closed(true))).await;
                    // The conversation stays open for what still comes back.
                    say.closed().await;
                    return;
                }
                // Broken here: so it is there, without a polite end.
                Err(_) => return,
                Ok(_) => {
                    if say.send(part(Part::Data(bytes))).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    let down = async {
        loop {
            match told.message().await? {
                Some(PortForwardResponse { part: Some(Told::Data(bytes)) }) => {
                    if to.write_all(&bytes).await.is_err() {
                        return Ok(false);
                    }
                }
                Some(PortForwardResponse { part: Some(Told::Closed(_)) }) => {
                    let _ = to.shutdown().await;
                    return Ok(true);
                }
                Some(_) => {}
                None => return Ok(false),
            }
        }
    };
    let down: Result<bool, Status> = down.await;
    if matches!(down, Ok(true)) {
        // The other direction may go on until the node has nobody to send to.
        while let Ok(Some(_)) = told.message().await {}
    }
    up.abort();
    match down {
        // Broken by the container: whoever is connected sees that.
        Err(e) if e.code() == Code::Aborted => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_ports() {
        for (text, local, target) in [("8080:80", 8080, 80), ("0:80", 0, 80), ("80", 80, 80)] {
            assert_eq!(text.parse::<Pair>().unwrap(), Pair { local, target });
        }
        for bad in ["", "a", "80:0", "0", ":80", "80:", "1:2:3", "70000:80"] {
            assert!(bad.parse::<Pair>().is_err(), "{bad}");
        }
    }
}
