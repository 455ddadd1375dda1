//! The `NodeLocal` service: what a user asks of this one node.

use std::{collections::BTreeSet, path::PathBuf};

use futures::TryStreamExt as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::config::Layout;
use crate::{
    model::{ImageReference, NodeId},
    net,
    proto::v1::{self, import_image_request::Part, node_local_server},
    store::Store,
    worker::runtime::{ImageError, ImageStore},
};

/// Answers for this node.
pub(super) struct NodeLocal {
    pub(super) node: NodeId,
    pub(super) layout: Layout,
    pub(super) name: String,
    pub(super) containerd_socket: PathBuf,
    pub(super) containerd_pid: Option<watch::Receiver<Option<u32>>>,
    pub(super) images: ImageStore,
    pub(super) net: net::Handle,
    pub(super) store: Store,
}

fn image_error(e: &ImageError) -> Status {
    let code = match e {
        ImageError::NotFound(_) => tonic::Code::NotFound,
        ImageError::InUse(_) => tonic::Code::FailedPrecondition,
        ImageError::Away(_) => tonic::Code::Unavailable,
        ImageError::Io(_) | ImageError::Refused(_) | ImageError::Layer { .. } => tonic::Code::Internal,
        _ => tonic::Code::InvalidArgument,
    };
    Status::new(code, e.to_string())
}

fn reference(text: &str) -> Result<ImageReference, Status> {
    text.parse().map_err(|e: crate::model::ImageReferenceError| Status::invalid_argument(e.to_string()))
}

fn net_error(e: &net::NetError) -> Status {
    Status::internal(e.to_string())
}

impl NodeLocal {
    /// Images that a service or a task of this node names.
    fn images_in_use(&self) -> BTreeSet<ImageReference> {
        let view = self.store.view();
        let services = view.services().map(|s| s.spec.task.image.clone());
        let tasks = view.tasks_of_node(self.node).filter(|t| !t.status.state.is_final());
        services.chain(tasks.map(|t| t.spec.image.clone())).collect()
    }
}

#[tonic::async_trait]
impl node_local_server::NodeLocal for NodeLocal {
    async fn import_image(
        &self,
        request: Request<Streaming<v1::ImportImageRequest>>,
    ) -> Result<Response<v1::ImportImageResponse>, Status> {
        let mut parts = request.into_inner();
        let Some(v1::ImportImageRequest { part: Some(Part::Reference(named)) }) = parts.message().await?
        else {
            return Err(Status::invalid_argument("an import begins with the reference, which may be empty"));
        };
        let named = if named.is_empty() { None } else { Some(reference(&named)?) };
        let chunks = parts.map_err(std::io::Error::other).try_filter_map(|m| async move {
            Ok(match m.part {
                Some(Part::Chunk(bytes)) => Some(bytes::Bytes::from(bytes)),
                _ => None,
            })
        });
        let archive = tokio_util::io::StreamReader::new(Box::pin(chunks));
        let imported = self.images.import(archive, named.as_ref()).await.map_err(|e| image_error(&e))?;
        let all = self.images.list().await.map_err(|e| image_error(&e))?;
        let images = all
            .into_iter()
            .filter(|i| imported.iter().any(|n| n.reference == i.reference))
            .map(image)
            .collect();
        Ok(Response::new(v1::ImportImageResponse { images }))
    }

    async fn list_images(
        &self,
        _: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let all = self.images.list().await.map_err(|e| image_error(&e))?;
        Ok(Response::new(v1::ListImagesResponse { images: all.into_iter().map(image).collect() }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let reference = reference(&request.into_inner().reference)?;
        self.images.remove(&reference, || self.images_in_use()).await.map_err(|e| image_error(&e))?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

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
                    })
                    .collect(),
                table_size: p.table_size,
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
        let flows = flows
            .into_iter()
            .map(|f| v1::Flow {
                protocol: f.protocol.to_owned(),
                client: f.client.to_string(),
                published: f.published.map(|p| p.to_string()).unwrap_or_default(),
                container: f.container.to_string(),
                task: f.task.map(|t| t.to_string()).unwrap_or_default(),
                state: f.state.to_owned(),
                idle_ms: f.idle_ms,
                kind: f.kind.to_owned(),
            })
            .collect();
        Ok(Response::new(v1::ListFlowsResponse { flows, truncated }))
    }

    async fn check_network(
        &self,
        _: Request<v1::CheckNetworkRequest>,
    ) -> Result<Response<v1::CheckNetworkResponse>, Status> {
        let c = self.net.check().await.map_err(|e| net_error(&e))?;
        Ok(Response::new(v1::CheckNetworkResponse {
            problems: c.problems,
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

fn image(i: crate::worker::runtime::ImageInfo) -> v1::Image {
    v1::Image {
        reference: i.reference.to_string(),
        digest: i.digest,
        size: i.size,
        created_at_ms: i.created_at.0,
    }
}
