//! The `Images` service: what there is to run on this node.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    model::{ImageReference, NodeId},
    proto::v1::{self, images_server, import_image_request::Part},
    store::Store,
    worker::runtime::image::{ImageError, ImageStore, LayerProgress, Pull, PullFailure, RegistryError, When},
};

/// Between two reports of a pull's progress.
const REPORT: std::time::Duration = std::time::Duration::from_millis(200);

/// Answers for this node's images.
#[derive(Clone)]
pub(in crate::node) struct Images {
    pub(in crate::node) node: NodeId,
    pub(in crate::node) images: ImageStore,
    pub(in crate::node) store: Store,
}

fn image_error(e: &ImageError) -> Status {
    let code = match e {
        ImageError::NotFound(_) => tonic::Code::NotFound,
        ImageError::InUse(_) => tonic::Code::FailedPrecondition,
        ImageError::Away(_) => tonic::Code::Unavailable,
        ImageError::Pull { why, .. } => match why {
            PullFailure::Registry(RegistryError::LogIn { .. }) => tonic::Code::PermissionDenied,
            PullFailure::Registry(RegistryError::Says { status: 404, .. }) => tonic::Code::NotFound,
            _ if why.may_pass() => tonic::Code::Unavailable,
            _ => tonic::Code::FailedPrecondition,
        },
        ImageError::Io(_) | ImageError::Refused(_) | ImageError::Layer { .. } => tonic::Code::Internal,
        _ => tonic::Code::InvalidArgument,
    };
    Status::new(code, e.to_string())
}

fn reference(text: &str) -> Result<ImageReference, Status> {
    text.parse().map_err(|e: crate::model::ImageReferenceError| Status::invalid_argument(e.to_string()))
}

impl Images {
    /// Images that a service, what it can be rolled back to, or a task of this node names.
    pub(in crate::node) fn in_use(&self) -> BTreeSet<ImageReference> {
        let view = self.store.view();
        let specs = view.services().flat_map(|s| std::iter::once(&s.spec).chain(&s.previous));
        let services = specs.map(|s| s.task.image.clone());
        let tasks = view.tasks_of_node(self.node).filter(|t| !t.status.state.is_final());
        services.chain(tasks.map(|t| t.spec.image.clone())).collect()
    }
}

#[tonic::async_trait]
impl images_server::Images for Images {
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

    type PullImageStream = ReceiverStream<Result<v1::PullImageProgress, Status>>;

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let v1::PullImageRequest { reference: named, registry_auth } = request.into_inner();
        let reference = reference(&named)?;
        let credentials = registry_auth.map(crate::model::RegistryAuth::from);
        let pull = self.images.pull(&reference, When::Always, credentials.as_ref());
        let (send, receive) = tokio::sync::mpsc::channel(4);
        tokio::spawn(follow(pull, send));
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn prune_images(
        &self,
        request: Request<v1::PruneImagesRequest>,
    ) -> Result<Response<v1::PruneImagesResponse>, Status> {
        let dry_run = request.into_inner().dry_run;
        let pruned = self.images.prune(|| self.in_use(), dry_run).await.map_err(|e| image_error(&e))?;
        Ok(Response::new(v1::PruneImagesResponse {
            images: pruned.images.into_iter().map(image).collect(),
            reclaimed: pruned.reclaimed,
        }))
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
        self.images.remove(&reference, || self.in_use()).await.map_err(|e| image_error(&e))?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }
}

/// Tells how a pull goes, until its end or until nobody listens: then it ends, too.
async fn follow(mut pull: Pull, send: Sender<Result<v1::PullImageProgress, Status>>) {
    let (mut told, mut layers) = (0, Vec::new());
    let done = pull.clone();
    let done = done.done();
    tokio::pin!(done);
    loop {
        let ended = tokio::select! {
            () = send.closed() => return,
            ended = &mut done => Some(ended),
            () = tokio::time::sleep(REPORT) => None,
        };
        let now = pull.progress.borrow_and_update().clone();
        for message in now.messages.iter().skip(told) {
            let message = v1::PullImageProgress { message: message.clone(), ..Default::default() };
            if send.send(Ok(message)).await.is_err() {
                return;
            }
        }
        told = now.messages.len();
        let changed = now.layers.iter().filter(|l| !layers.contains(*l)).map(layer).collect::<Vec<_>>();
        layers = now.layers;
        if !changed.is_empty() {
            let message = v1::PullImageProgress { layers: changed, ..Default::default() };
            if send.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if let Some(ended) = ended {
            let last = ended.map(|i| v1::PullImageProgress { image: Some(image(i)), ..Default::default() });
            let _ = send.send(last.map_err(|e| image_error(&e))).await;
            return;
        }
    }
}

fn layer(l: &LayerProgress) -> v1::pull_image_progress::Layer {
    v1::pull_image_progress::Layer {
        digest: l.digest.clone(),
        state: l.state.name().to_owned(),
        done: l.done,
        total: l.total,
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
