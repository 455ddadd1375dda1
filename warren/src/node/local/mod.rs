//! What a user asks of this one node, a file per service; here `NodeLocal`: the node and its network.

mod containers;
mod images;
mod logs;
mod probes;
mod traffic;
mod volumes;

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub(super) use self::{containers::Containers, images::Images, logs::Logs, probes::Probes, volumes::Volumes};

use super::config::Layout;
use crate::{
    model::{NodeId, parse},
    net,
    proto::v1::{self, node_local_server},
};

/// Answers for this node.
pub(super) struct NodeLocal {
    pub(super) node: NodeId,
    pub(super) layout: Layout,
    pub(super) name: String,
    pub(super) containerd_socket: PathBuf,
    pub(super) containerd_pid: Option<watch::Receiver<Option<u32>>>,
    pub(super) net: net::Handle,
}

/// An answer in parts.
type Answers<T> = ReceiverStream<Result<T, Status>>;

/// Parts of an answer on their way to a client.
const QUEUE: usize = 4;

fn answers<T>() -> (mpsc::Sender<Result<T, Status>>, Answers<T>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (sender, ReceiverStream::new(receiver))
}

fn net_error(e: &net::NetError) -> Status {
    Status::internal(e.to_string())
}

fn deny_list(list: &net::DenyList) -> v1::DenyList {
    v1::DenyList { networks: list.iter().map(ToString::to_string).collect() }
}

fn networks(texts: &[String]) -> Result<Vec<IpNet>, Status> {
    let read = |text: &String| parse::network(text).map_err(|e| Status::invalid_argument(e.to_string()));
    texts.iter().map(read).collect()
}

/// The packet that is asked about.
fn question(request: v1::TracePacketRequest) -> Result<net::Question, Status> {
    let no = |why: String| Err(Status::invalid_argument(why));
    let protocol = match request.protocol.as_str() {
        "tcp" => net::TracedProtocol::Tcp,
        "udp" => net::TracedProtocol::Udp,
        "icmp" => net::TracedProtocol::Icmp,
        other => return no(format!("{other:?} cannot be traced: tcp, udp and icmp can")),
    };
    let read = |text: &str| {
        text.parse::<SocketAddr>().map_err(|_| {
            Status::invalid_argument(format!(
                "{text:?} is no address and port: write 192.0.2.1:80 or [2001:db8::1]:80"
            ))
        })
    };
    let (source, destination) = (read(&request.source)?, read(&request.destination)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return no(format!("{source} and {destination} are of different families: no packet has both"));
    }
    if request.size > net::LARGEST_TRACED {
        return no(format!(
            "a packet of {} bytes cannot be tried: {} is the most",
            request.size,
            net::LARGEST_TRACED
        ));
    }
    let Ok(flags) = u8::try_from(request.tcp_flags) else { return no("TCP flags are eight bits".to_owned()) };
    let from = (!request.from.is_empty()).then_some(request.from);
    Ok(net::Question { protocol, source, destination, flags, size: request.size, from })
}

#[tonic::async_trait]
impl node_local_server::NodeLocal for NodeLocal {
    type WatchTrafficStream = Answers<v1::TrafficSample>;

    async fn info(&self, _: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        let containerd_pid = self.containerd_pid.as_ref().and_then(|p| *p.borrow());
        Ok(Response::new(v1::InfoResponse {
            node_id: self.node.to_string(),
            node_name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_dir: self.layout.data_dir.display().to_string(),
            containerd_socket: self.containerd_socket.display().to_string(),
            pins: self.layout.pin_root.display().to_string(),
            pid: std::process::id(),
            containerd_pid: containerd_pid.unwrap_or_default(),
        }))
    }

    async fn list_published(
        &self,
        _: Request<v1::ListPublishedRequest>,
    ) -> Result<Response<v1::ListPublishedResponse>, Status> {
        let ports = self.net.published().await.map_err(|e| net_error(&e))?;
        let ports = ports
            .into_iter()
            .map(|p| v1::Published {
                service: p.service,
                port: Some(p.port.into()),
                backends: p
                    .backends
                    .into_iter()
                    .map(|b| v1::published::Backend {
                        task: b.task.to_string(),
                        address: b.address.ip().to_string(),
                        state: b.state.to_owned(),
                        id: b.id,
                        generation: b.generation,
                        address6: b.address6.map(|a| a.ip().to_string()).unwrap_or_default(),
                    })
                    .collect(),
                table_size: p.table_size,
                sources: p.sources.map(|nets| v1::published::Sources {
                    networks: nets.iter().map(ToString::to_string).collect(),
                }),
            })
            .collect();
        Ok(Response::new(v1::ListPublishedResponse { ports }))
    }

    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> Result<Response<v1::ListFlowsResponse>, Status> {
        let limit = request.into_inner().limit as usize;
        let (flows, truncated) = self.net.flows(limit).await.map_err(|e| net_error(&e))?;
        let flows = flows.into_iter().map(traffic::flow).collect();
        Ok(Response::new(v1::ListFlowsResponse { flows, truncated }))
    }

    async fn watch_traffic(
        &self,
        request: Request<v1::WatchTrafficRequest>,
    ) -> Result<Response<Self::WatchTrafficStream>, Status> {
        self.watch(&request.into_inner()).map(Response::new)
    }

    async fn list_drops(
        &self,
        _: Request<v1::ListDropsRequest>,
    ) -> Result<Response<v1::ListDropsResponse>, Status> {
        let address = |a: Option<SocketAddr>| a.map(|a| a.to_string()).unwrap_or_default();
        let drops = self.net.dropped().await.map_err(|e| net_error(&e))?;
        let drops = drops.into_iter().map(|d| v1::Dropped {
            reason: d.reason.to_owned(),
            meaning: d.meaning.to_owned(),
            packets: d.packets,
            early: d.early,
            last: d.last.map(|p| v1::dropped::Packet {
                ago_ms: p.ago_ms,
                source: address(p.source),
                destination: address(p.destination),
                protocol: p.protocol.into(),
                length: p.length,
                device: p.device,
            }),
        });
        Ok(Response::new(v1::ListDropsResponse { drops: drops.collect() }))
    }

    async fn list_denied(&self, _: Request<v1::ListDeniedRequest>) -> Result<Response<v1::DenyList>, Status> {
        Ok(Response::new(deny_list(&self.net.denied())))
    }

    async fn change_denied(
        &self,
        request: Request<v1::ChangeDeniedRequest>,
    ) -> Result<Response<v1::DenyList>, Status> {
        let request = request.into_inner();
        let list = self.net.deny(&networks(&request.add)?, &networks(&request.remove)?).await;
        let list = list.map_err(|e| match e {
            net::NetError::NotDenied { .. } => Status::not_found(e.to_string()),
            net::NetError::DenyListFull { .. } => Status::failed_precondition(e.to_string()),
            e => net_error(&e),
        })?;
        Ok(Response::new(deny_list(&list)))
    }

    async fn trace_packet(
        &self,
        request: Request<v1::TracePacketRequest>,
    ) -> Result<Response<v1::TracePacketResponse>, Status> {
        let traced = self.net.trace(question(request.into_inner())?).await.map_err(|e| match e {
            net::NetError::NoSuchPlace { .. } | net::NetError::WhichPlace { .. } => {
                Status::not_found(e.to_string())
            }
            e => net_error(&e),
        })?;
        let (source, destination) = traced.shown.unzip();
        Ok(Response::new(v1::TracePacketResponse {
            program: traced.program.to_owned(),
            device: traced.device,
            tag: traced.tag,
            running_tag: traced.running_tag,
            steps: traced
                .steps
                .into_iter()
                .map(|s| v1::trace_packet_response::Step { what: s.what.to_owned(), said: s.said })
                .collect(),
            verdict: traced.end.name().to_owned(),
            reason: traced.reason.unwrap_or_default().to_owned(),
            to_device: traced.to_device.unwrap_or_default(),
            source: source.map(|a| a.to_string()).unwrap_or_default(),
            destination: destination.map(|a| a.to_string()).unwrap_or_default(),
        }))
    }

    async fn check_network(
        &self,
        _: Request<v1::CheckNetworkRequest>,
    ) -> Result<Response<v1::CheckNetworkResponse>, Status> {
        let c = self.net.check().await.map_err(|e| net_error(&e))?;
        Ok(Response::new(v1::CheckNetworkResponse {
            problems: c.problems,
            notes: c.notes,
            map_bytes: c.map_bytes,
            maps: c
                .maps
                .into_iter()
                .map(|m| v1::check_network_response::Map {
                    name: m.name,
                    entries: m.entries,
                    capacity: m.capacity,
                    bytes: m.bytes,
                })
                .collect(),
            programs: c
                .programs
                .into_iter()
                .map(|p| v1::check_network_response::Program {
                    name: p.name,
                    runs: p.runs,
                    run_ns: p.run_ns,
                    verified_instructions: p.verified_instructions,
                    attached: p.attached,
                })
                .collect(),
        }))
    }
}
