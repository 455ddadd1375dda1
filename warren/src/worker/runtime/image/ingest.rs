//! Puts an image's parts into containerd and unpacks its layers. All of it happens under a lease:
//! what is not named by an image when the lease goes is collected.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use containerd_client::{
    services::v1::{
        AddResourceRequest, ApplyRequest, CreateImageRequest, CreateRequest, DeleteRequest, Image,
        ListRequest, ReadContentRequest, Resource, UpdateImageRequest, WriteAction, WriteContentRequest,
        snapshots::{
            CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
        },
    },
    types,
};
use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    ImageError,
    archive::{Archive, Span},
    read::{self, ImageDocument, Manifest},
};
use crate::{
    model::ImageReference,
    worker::runtime::{
        SNAPSHOTTER,
        client::{CallError, Client, LONG, SHORT, UNPACK, already, call, found},
    },
};

const LEASE: &str = "warren-import-";
const COLLECT: &str = "warren-collect-";
const LEASE_LIFE: Duration = Duration::from_secs(24 * 3600);
const CHUNK: usize = 1 << 20;

/// Makes a lease; what is stored under it stays until it ends, or for a day if nobody ends it.
pub(super) async fn begin(client: &Client, prefix: &str) -> Result<String, CallError> {
    let lease = format!("{prefix}{:016x}", rand::random::<u64>());
    let expire = humantime::format_rfc3339_seconds(SystemTime::now() + LEASE_LIFE).to_string();
    let labels = [("containerd.io/gc.expire".to_owned(), expire)].into();
    let r = CreateRequest { id: lease.clone(), labels };
    call(SHORT, client.leases().create(client.request(r))).await?;
    Ok(lease)
}

/// Ends a lease. `sync` waits until what nothing else holds is gone.
pub(super) async fn end(client: &Client, lease: String, sync: bool) {
    let r = DeleteRequest { id: lease, sync };
    if let Err(e) = already(call(LONG, client.leases().delete(client.request(r))).await) {
        tracing::debug!(error = %e, "a lease stays until it expires");
    }
}

/// Waits until what nothing holds is gone from the disk, also that of which containerd has no
/// record: what it stored in the moment in which it was killed, or for a lease that had just ended.
/// It looks for such content and layers only when it removes some that it does know.
pub(super) async fn collect(client: &Client) -> Result<(), ImageError> {
    let lease = begin(client, COLLECT).await?;
    let going = async {
        let content = lease.clone().into_bytes();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&content)));
        write(client, &lease, &digest, Source::Bytes(content), Vec::new()).await?;
        let r = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: lease.clone(),
            parent: String::new(),
            labels: Default::default(),
        };
        Ok::<_, ImageError>(client.prepare_snapshot(r, Some(&lease)).await.map(drop)?)
    }
    .await;
    // On a full disk, say. What it knows of goes all the same.
    if let Err(e) = going {
        tracing::warn!(error = %e, "what containerd has no record of may stay on the disk");
    }
    end(client, lease, true).await;
    Ok(())
}

/// Stores an image of an archive whole and gives it its names.
pub(super) async fn store(
    client: &Client,
    archive: &Archive,
    image: &ImageDocument,
    names: &[ImageReference],
) -> Result<(), ImageError> {
    let lease = begin(client, LEASE).await?;
    let stored = store_leased(client, archive, image, names, &lease).await;
    // After a failure the caller is told when nothing is left; after a success nothing is.
    end(client, lease, stored.is_err()).await;
    stored
}

async fn store_leased(
    client: &Client,
    archive: &Archive,
    image: &ImageDocument,
    names: &[ImageReference],
    lease: &str,
) -> Result<(), ImageError> {
    for (layer, span) in image.layers.iter().zip(&image.spans) {
        let source = Source::Member(archive.clone(), *span);
        write(client, lease, &layer.descriptor.digest, source, Vec::new()).await?;
    }
    for number in 0..image.layers.len() {
        unpack(client, lease, image, number).await?;
    }
    name(client, lease, image, names, &Default::default()).await
}

/// Stores the documents of an image whose layers are unpacked, and gives it its names, with
/// `labels`.
pub(super) async fn name(
    client: &Client,
    lease: &str,
    image: &ImageDocument,
    names: &[ImageReference],
    labels_of_names: &HashMap<String, String>,
) -> Result<(), ImageError> {
    // These labels are how containerd's collection finds what an image needs.
    let mut labels = Vec::new();
    if let Some(top) = image.chain_ids().last() {
        labels.push((format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), top.clone()));
    }
    let config = &image.config_descriptor.digest;
    write(client, lease, config, Source::Bytes(image.config.clone()), labels).await?;
    let mut labels = vec![("containerd.io/gc.ref.content.config".to_owned(), config.clone())];
    for (n, layer) in image.layers.iter().enumerate() {
        labels.push((format!("containerd.io/gc.ref.content.l.{n}"), layer.descriptor.digest.clone()));
    }
    write(client, lease, &image.digest, Source::Bytes(image.manifest.clone()), labels).await?;
    for name in names {
        let record = Image {
            name: name.to_string(),
            labels: labels_of_names.clone(),
            target: Some(types::Descriptor {
                media_type: image.media_type.clone(),
                digest: image.digest.clone(),
                size: i64::try_from(image.manifest.len()).unwrap_or(i64::MAX),
                annotations: Default::default(),
            }),
            ..Image::default()
        };
        let r = CreateImageRequest { image: Some(record.clone()), source_date_epoch: None };
        match call(SHORT, client.images().create(client.request(r))).await {
            Err(CallError::Exists(_)) => {
                let r =
                    UpdateImageRequest { image: Some(record), update_mask: None, source_date_epoch: None };
                call(SHORT, client.images().update(client.request(r))).await?;
            }
            other => {
                other?;
            }
        }
    }
    Ok(())
}

/// Where the bytes of a part are.
enum Source {
    Member(Archive, Span),
    Bytes(Vec<u8>),
}

impl Source {
    fn len(&self) -> u64 {
        match self {
            Self::Member(_, span) => span.len,
            Self::Bytes(b) => b.len() as u64,
        }
    }

    fn read_at(&self, at: u64, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::Member(archive, span) => {
                buffer.resize(CHUNK, 0);
                let n = archive.read_at(*span, at, buffer)?;
                buffer.truncate(n);
            }
            Self::Bytes(b) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(b.len());
                buffer.extend_from_slice(&b[from..(from + CHUNK).min(b.len())]);
            }
        }
        Ok(())
    }
}

/// Writes a part into the content store; one that is there already is put under the lease.
async fn write(
    client: &Client,
    lease: &str,
    digest: &str,
    source: Source,
    labels: Vec<(String, String)>,
) -> Result<(), ImageError> {
    let total = i64::try_from(source.len()).unwrap_or(i64::MAX);
    let (send, messages) = tokio::sync::mpsc::channel(2);
    let (name, expected) = (format!("{lease}-{digest}"), digest.to_owned());
    let reader = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let mut at = 0;
        loop {
            let mut data = Vec::new();
            source.read_at(at, &mut data)?;
            let offset = i64::try_from(at).unwrap_or(i64::MAX);
            at += data.len() as u64;
            let last = at >= source.len();
            let message = WriteContentRequest {
                action: if last { WriteAction::Commit } else { WriteAction::Write }.into(),
                r#ref: name.clone(),
                total,
                expected: expected.clone(),
                offset,
                data,
                labels: if last { labels.iter().cloned().collect() } else { Default::default() },
            };
            // A closed channel: containerd has answered already, and the answer says why.
            if send.blocking_send(message).is_err() || last {
                return Ok(());
            }
        }
    });
    let sent = async {
        let request = client.leased(ReceiverStream::new(messages), lease);
        let mut answers = client.content().write(request).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    let answer = sent.await.map_err(CallError::from);
    reader.await.map_err(|e| ImageError::Io(e.to_string()))??;
    match answer {
        Ok(()) | Err(CallError::Exists(_)) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Unpacks a layer (`number` from 0), whose bytes are in the content store, above those below it,
/// unless that has been done.
pub(super) async fn unpack(
    client: &Client,
    lease: &str,
    image: &ImageDocument,
    number: usize,
) -> Result<(), ImageError> {
    let chains = image.chain_ids();
    let (layer, chain) = (&image.layers[number], chains[number].as_str());
    let parent = number.checked_sub(1).map_or("", |below| chains[below].as_str());
    let number = number + 1;
    let snapshotter = SNAPSHOTTER.to_owned();
    // Held first, looked at then: the container or image that has kept it so far may go meanwhile.
    let resource = Resource { id: chain.to_owned(), r#type: format!("snapshots/{SNAPSHOTTER}") };
    let r = AddResourceRequest { id: lease.to_owned(), resource: Some(resource) };
    call(SHORT, client.leases().add_resource(client.request(r))).await?;
    if snapshot_exists(client, chain).await? {
        return Ok(());
    }
    let key = format!("{lease}-{chain}");
    let r = PrepareSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: key.clone(),
        parent: parent.to_owned(),
        labels: Default::default(),
    };
    let mounts = client.prepare_snapshot(r, Some(lease)).await?;
    let diff = types::Descriptor {
        media_type: layer.descriptor.media_type.clone(),
        digest: layer.descriptor.digest.clone(),
        size: i64::try_from(layer.descriptor.size).unwrap_or(i64::MAX),
        annotations: Default::default(),
    };
    let r = ApplyRequest { diff: Some(diff), mounts, ..ApplyRequest::default() };
    let applied = call(UNPACK, client.diff().apply(client.leased(r, lease))).await;
    let applied = match applied {
        Ok(a) => a.applied.map(|d| d.digest).unwrap_or_default(),
        Err(CallError::Refused(why)) => return Err(ImageError::Layer { number, why }),
        Err(e) => return Err(e.into()),
    };
    if applied != layer.diff_id {
        let why = format!("it unpacks to {applied}, and the image's configuration says {}", layer.diff_id);
        return Err(ImageError::Layer { number, why });
    }
    let r = CommitSnapshotRequest {
        snapshotter: snapshotter.clone(),
        name: chain.to_owned(),
        key: key.clone(),
        labels: Default::default(),
    };
    match call(SHORT, client.snapshots().commit(client.leased(r, lease))).await {
        Err(CallError::Exists(_)) => {
            let r = RemoveSnapshotRequest { snapshotter, key };
            Ok(already(call(SHORT, client.snapshots().remove(client.request(r))).await)?)
        }
        other => {
            other?;
            Ok(())
        }
    }
}

async fn snapshot_exists(client: &Client, name: &str) -> Result<bool, CallError> {
    let r = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: name.to_owned() };
    Ok(found(call(SHORT, client.snapshots().stat(client.request(r))).await)?.is_some())
}

/// Whether the image's uppermost layer, and so every one, is unpacked, and its documents are there.
pub(super) async fn is_unpacked(client: &Client, image: &ImageDocument) -> Result<bool, ImageError> {
    if read_blob(client, &image.config_descriptor.digest).await?.is_none()
        || read_blob(client, &image.digest).await?.is_none()
    {
        return Ok(false);
    }
    Ok(match image.chain_ids().last() {
        Some(top) => snapshot_exists(client, top).await?,
        None => true,
    })
}

/// Reads a document of the content store; `None` when it is not there.
pub(super) async fn read_blob(client: &Client, digest: &str) -> Result<Option<Vec<u8>>, ImageError> {
    let r = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let opened = call(SHORT, client.content().read(client.request(r))).await;
    let Some(mut stream) = found(opened)? else { return Ok(None) };
    let mut bytes = Vec::new();
    loop {
        match stream.message().await.map_err(CallError::from) {
            Ok(Some(part)) => bytes.extend_from_slice(&part.data),
            Ok(None) => return Ok(Some(bytes)),
            Err(CallError::NotFound(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Reads a manifest of the content store.
pub(super) async fn read_manifest(client: &Client, digest: &str) -> Result<Option<Manifest>, ImageError> {
    let bytes = read_blob(client, digest).await?;
    bytes.map(|b| read::parse_manifest(&b)).transpose()
}

/// Ends the leases of imports that were cut off, and with them what they had stored.
pub(super) async fn sweep(client: &Client) -> Result<(), ImageError> {
    let r = ListRequest { filters: Vec::new() };
    let leases = call(SHORT, client.leases().list(client.request(r))).await?.leases;
    for lease in leases.into_iter().filter(|l| l.id.starts_with(LEASE)) {
        let r = DeleteRequest { id: lease.id, sync: true };
        already(call(LONG, client.leases().delete(client.request(r))).await)?;
    }
    Ok(())
}
