//! The connection to containerd: made when first needed, made again when containerd came back.

use std::{error::Error as _, future::Future, path::Path, time::Duration};

use containerd_client::{
    services::v1::{
        containers_client::ContainersClient,
        content_client::ContentClient,
        diff_client::DiffClient,
        images_client::ImagesClient,
        leases_client::LeasesClient,
        namespaces_client::NamespacesClient,
        snapshots::{CleanupRequest, PrepareSnapshotRequest, snapshots_client::SnapshotsClient},
        tasks_client::TasksClient,
        version_client::VersionClient,
    },
    types::Mount,
};
use hyper_util::rt::TokioIo;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::failure::one_line;
use crate::worker::executor::RuntimeError;

/// Longest wait for an answer that needs no work.
pub(super) const SHORT: Duration = Duration::from_secs(20);
/// Longest wait for one that starts processes.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// Longest wait for the unpacking of one layer.
pub(super) const UNPACK: Duration = Duration::from_secs(1800);

/// How many bytes one answer may have: a list of containers carries their specs.
const MAX_MESSAGE: usize = 64 << 20;

/// What containerd answered instead of a result.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum CallError {
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// There is one already.
    #[error("{0}")]
    Exists(String),
    /// It can not be done.
    #[error("{0}")]
    Refused(String),
    /// No answer, or "later".
    #[error("containerd does not answer: {0}")]
    Away(String),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let message = one_line(status.message());
        // A status with a source was made on this side, from a broken connection. A lost shim
        // is reported by containerd as an unknown error; what it was doing can be tried again.
        if status.source().is_some() || message.contains("ttrpc: closed") {
            let cause = status.source().map_or(message, |mut e| {
                while let Some(inner) = e.source() {
                    e = inner;
                }
                one_line(&e.to_string())
            });
            return Self::Away(cause);
        }
        match status.code() {
            Code::NotFound => Self::NotFound(message),
            Code::AlreadyExists => Self::Exists(message),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
                Self::Away(message)
            }
            _ => Self::Refused(message),
        }
    }
}

impl From<CallError> for RuntimeError {
    fn from(e: CallError) -> Self {
        match e {
            CallError::Refused(m) => Self::Fatal(format!("containerd refused: {m}")),
            CallError::NotFound(m) | CallError::Exists(m) => {
                Self::Temporary(format!("containerd changed meanwhile: {m}"))
            }
            CallError::Away(_) => Self::Temporary(e.to_string()),
        }
    }
}

/// A lazy connection bound to one namespace. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
}

macro_rules! service {
    ($name:ident, $client:ident) => {
        pub(super) fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
        }
    };
}

impl Client {
    /// Connects when first used. Must be called within a tokio runtime.
    pub(super) fn new(socket: &Path, namespace: &str) -> Self {
        let socket = socket.to_owned();
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(
            tower::service_fn(move |_| {
                let socket = socket.clone();
                async move {
                    Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?))
                }
            }),
        );
        // Namespaces are made of node ids: always ASCII.
        let namespace = namespace.parse().unwrap_or_else(|_| MetadataValue::from_static("warren"));
        Self { channel, namespace }
    }

    service!(containers, ContainersClient);
    service!(content, ContentClient);
    service!(diff, DiffClient);
    service!(images, ImagesClient);
    service!(leases, LeasesClient);
    service!(namespaces, NamespacesClient);
    service!(snapshots, SnapshotsClient);
    service!(tasks, TasksClient);
    service!(version, VersionClient);

    /// A request in this client's namespace.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut r = Request::new(message);
        r.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        r
    }

    /// A request whose new objects belong to a lease, so that they are not collected.
    pub(super) fn leased<T>(&self, message: T, lease: &str) -> Request<T> {
        let mut r = self.request(message);
        if let Ok(lease) = lease.parse() {
            r.metadata_mut().insert("containerd-lease", lease);
        }
        r
    }

    /// Makes a snapshot, of a lease if one is named. A directory that a containerd which died left
    /// without a record stands in the way of the next snapshot of its number, for ever: the
    /// snapshotter clears such ones away when it is told to.
    pub(super) async fn prepare_snapshot(
        &self,
        r: PrepareSnapshotRequest,
        lease: Option<&str>,
    ) -> Result<Vec<Mount>, CallError> {
        let prepare = async || {
            let request = match lease {
                Some(lease) => self.leased(r.clone(), lease),
                None => self.request(r.clone()),
            };
            call(SHORT, self.snapshots().prepare(request)).await
        };
        match prepare().await {
            Err(CallError::Refused(why)) if why.contains("file exists") => {
                tracing::info!("clearing up snapshots that a dead containerd left: {why}");
                let r = CleanupRequest { snapshotter: r.snapshotter.clone() };
                call(LONG, self.snapshots().cleanup(self.request(r))).await?;
                Ok(prepare().await?.mounts)
            }
            other => Ok(other?.mounts),
        }
    }
}

/// Awaits an answer no longer than `limit`. The limit is kept on this side only: containerd would
/// also cut off the work behind a deadline that it was told of.
pub(super) async fn call<T>(
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(r) => Ok(r?.into_inner()),
        Err(_) => Err(CallError::Away(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// Makes "not there" a value.
pub(super) fn found<T>(r: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match r {
        Ok(t) => Ok(Some(t)),
        Err(CallError::NotFound(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes "not there" and "there already" successes.
pub(super) fn already<T>(r: Result<T, CallError>) -> Result<(), CallError> {
    match r {
        Ok(_) | Err(CallError::NotFound(_) | CallError::Exists(_)) => Ok(()),
        Err(e) => Err(e),
    }
}
