//! Images on this node: brought as archives or from registries, unpacked, named, listed, removed.

mod archive;
mod ingest;
mod platform;
mod pull;
mod read;
mod registry;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use containerd_client::services::v1::{DeleteImageRequest, GetImageRequest, Image, ListImagesRequest};
use tokio::io::AsyncRead;

use self::{archive::Archive, pull::Pulls, read::ImageDocument};
pub use self::{
    pull::{LayerProgress, LayerState, Pull, PullProgress, When},
    registry::{Registries, RegistriesError, RegistryError},
    room::{Disk, Watermarks},
};
use super::client::{CallError, Client, LONG, SHORT, call, found};
use super::failure::one_line;
pub use super::spec::ImageConfig;
use crate::{
    model::{ImageReference, ImageReferenceError, Timestamp},
    worker::executor::RuntimeError,
};

/// Why an image could not be brought, found or removed. Each is a sentence for the user.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The bytes are something else.
    #[error(
        "this is not an image archive ({}); make one with `docker save`, `skopeo copy … oci-archive:FILE` or `buildah push`",
        one_line(.0)
    )]
    NotAnArchive(String),
    /// It ends too early, or parts are missing.
    #[error("the archive is incomplete: {}; copy or save it again", one_line(.0))]
    Incomplete(String),
    /// A part is not what its name says.
    #[error("the archive is damaged: {} does not have the digest it is named by; copy or save it again", one_line(.0))]
    Damaged(String),
    /// A part is not understood.
    #[error("the image can not be read: {}", one_line(.0))]
    Malformed(String),
    /// It is for other machines.
    #[error("the image is for {}; this node is {want}", one_line(has))]
    Platform {
        /// Platforms in the archive.
        has: String,
        /// This node's.
        want: String,
    },
    /// Nothing in it says what the image is called.
    #[error(
        "the archive does not say what its image is called; name it: `warren image import FILE --name NAME[:TAG]`"
    )]
    Unnamed,
    /// A name was given for more than one image.
    #[error("the archive holds {0} images; leave the name out, or save them one by one")]
    Several(usize),
    /// A name in it is none.
    #[error("the archive names its image wrongly: {0}")]
    Reference(#[from] ImageReferenceError),
    /// There is no such image.
    #[error("no such image: {0}; `warren image ls` shows those there are")]
    NotFound(String),
    /// A task needs it.
    #[error("image {0} is in use by a task; remove its service first (`warren service rm`)")]
    InUse(String),
    /// A layer could not be unpacked.
    #[error("layer {number} of the image can not be unpacked: {}", one_line(why))]
    Layer {
        /// From 1.
        number: usize,
        /// What containerd said.
        why: String,
    },
    /// The sender or the disk failed.
    #[error("the archive could not be read: {}", one_line(.0))]
    Io(String),
    /// Its registry did not give it, or what came is of no use.
    #[error("cannot pull {image}: {why}")]
    Pull {
        /// Its name.
        image: String,
        /// Why.
        why: PullFailure,
    },
    /// containerd refused.
    #[error("containerd refused: {}", one_line(.0))]
    Refused(String),
    /// containerd does not answer.
    #[error("{0}; try again")]
    Away(String),
}

/// Why an image could not be pulled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullFailure {
    /// What the registry said or did.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What was wrong with the image, or on this node.
    #[error(transparent)]
    Image(Box<ImageError>),
}

impl From<ImageError> for PullFailure {
    fn from(e: ImageError) -> Self {
        Self::Image(Box::new(e))
    }
}

impl From<CallError> for PullFailure {
    fn from(e: CallError) -> Self {
        ImageError::from(e).into()
    }
}

impl PullFailure {
    /// Whether the same pull may work later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Registry(e) => e.may_pass(),
            Self::Image(e) => matches!(**e, ImageError::Away(_)),
        }
    }
}

impl From<CallError> for ImageError {
    fn from(e: CallError) -> Self {
        match e {
            CallError::Away(_) => Self::Away(e.to_string()),
            CallError::NotFound(m) | CallError::Exists(m) | CallError::Refused(m) => Self::Refused(m),
        }
    }
}

impl From<std::io::Error> for ImageError {
    fn from(e: std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Incomplete("it ends too early".to_owned()),
            std::io::ErrorKind::StorageFull => Self::Io("the disk of this node is full".to_owned()),
            _ => Self::Io(e.to_string()),
        }
    }
}

impl From<ImageError> for RuntimeError {
    fn from(e: ImageError) -> Self {
        match e {
            ImageError::Away(_) => Self::Temporary(e.to_string()),
            ImageError::Pull { ref why, .. } if why.may_pass() => Self::Temporary(e.to_string()),
            _ => Self::Fatal(e.to_string()),
        }
    }
}

/// An image, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name.
    pub reference: ImageReference,
    /// Digest of its manifest.
    pub digest: String,
    /// Digest of its configuration: what Docker calls the image's id.
    pub id: String,
    /// Bytes of configuration and layers, as stored.
    pub size: u64,
    /// When it was brought.
    pub created_at: Timestamp,
}

/// What is needed of an image to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Digest of its manifest.
    pub digest: String,
    /// The snapshot of its uppermost layer; empty for an image without layers.
    pub chain_id: String,
    /// How it wants to be run.
    pub config: ImageConfig,
}

/// What a pruning removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// The images.
    pub images: Vec<ImageInfo>,
    /// Bytes of their configurations and layers, as stored, that no other image has, too.
    pub reclaimed: u64,
}

/// An imported image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its name.
    pub reference: ImageReference,
    /// Digest of its manifest.
    pub digest: String,
    /// Whether it was not here before, under this name.
    pub new: bool,
}

/// The images of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore {
    client: Client,
    /// Where archives are put while they are read.
    spool: PathBuf,
    /// One change at a time: what one import found present no removal may take away.
    changes: Arc<tokio::sync::Mutex<()>>,
    registries: Arc<Registries>,
    pulls: Arc<Pulls>,
}

impl ImageStore {
    pub(super) fn new(client: Client, spool: PathBuf) -> Self {
        Self { client, spool, changes: Arc::default(), registries: Arc::default(), pulls: Arc::default() }
    }

    pub(super) fn with_registries(self, registries: Registries) -> Self {
        Self { registries: Arc::new(registries), ..self }
    }

    /// Brings the images of an archive: OCI layout or `docker save`, as a tar, perhaps gzipped.
    /// `reference` names the image of an archive of one. Memory use does not depend on the
    /// archive's size. On an error nothing stays.
    pub async fn import(
        &self,
        archive: impl AsyncRead + Send + Unpin,
        reference: Option<&ImageReference>,
    ) -> Result<Vec<Imported>, ImageError> {
        let archive = Archive::receive(archive, &self.spool).await?;
        let documents = archive.images().await?;
        if reference.is_some() && documents.len() != 1 {
            return Err(ImageError::Several(documents.len()));
        }
        let mut named = Vec::new();
        for document in documents {
            let names = match reference {
                Some(r) => vec![r.clone()],
                None => document.names()?,
            };
            named.push((names, document));
        }
        let _changes = self.changes.lock().await;
        let mut done = Vec::new();
        for (names, document) in named {
            let missing = self.not_yet(&names, &document).await?;
            if !missing.is_empty() {
                ingest::store(&self.client, &archive, &document, &missing).await?;
            }
            done.extend(names.into_iter().map(|reference| Imported {
                new: missing.contains(&reference),
                reference,
                digest: document.digest.clone(),
            }));
        }
        Ok(done)
    }

    /// The names under which this very image is not whole here yet.
    async fn not_yet(
        &self,
        names: &[ImageReference],
        document: &ImageDocument,
    ) -> Result<Vec<ImageReference>, ImageError> {
        let mut missing = Vec::new();
        for name in names {
            let there = match self.get(&name.to_string()).await? {
                Some(image) if target(&image) == document.digest => {
                    ingest::is_unpacked(&self.client, document).await?
                }
                _ => false,
            };
            if !there {
                missing.push(name.clone());
            }
        }
        Ok(missing)
    }

    async fn get(&self, name: &str) -> Result<Option<Image>, CallError> {
        let r = GetImageRequest { name: name.to_owned() };
        let r = call(SHORT, self.client.images().get(self.client.request(r))).await;
        Ok(found(r)?.and_then(|g| g.image))
    }

    /// All images, by name.
    pub async fn list(&self) -> Result<Vec<ImageInfo>, ImageError> {
        let r = ListImagesRequest { filters: Vec::new() };
        let images = call(SHORT, self.client.images().list(self.client.request(r))).await?.images;
        let mut list = Vec::new();
        for image in images {
            list.extend(self.info(image).await?);
        }
        list.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(list)
    }

    async fn info(&self, image: Image) -> Result<Option<ImageInfo>, ImageError> {
        let Ok(reference) = image.name.parse() else { return Ok(None) };
        let digest = target(&image);
        let Some(manifest) = ingest::read_manifest(&self.client, &digest).await? else { return Ok(None) };
        let at = image.created_at.unwrap_or_default();
        let millis = at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos) / 1_000_000);
        Ok(Some(ImageInfo {
            reference,
            digest,
            size: manifest.config.size + manifest.layers.iter().map(|l| l.size).sum::<u64>(),
            id: manifest.config.digest,
            created_at: Timestamp(u64::try_from(millis).unwrap_or_default()),
        }))
    }

    /// Removes a name, and the image when it was its last. Refused while `in_use` names it, which
    /// is asked for only when nothing else is between the answer and the removal.
    pub async fn remove(
        &self,
        reference: &ImageReference,
        in_use: impl FnOnce() -> BTreeSet<ImageReference> + Send,
    ) -> Result<(), ImageError> {
        let _changes = self.changes.lock().await;
        let name = reference.to_string();
        if self.get(&name).await?.is_none() {
            return Err(ImageError::NotFound(reference.familiar()));
        }
        if in_use().contains(reference) {
            return Err(ImageError::InUse(reference.familiar()));
        }
        // Synchronous: layers and content are gone from the disk when it returns.
        self.delete(reference, true).await
    }

    /// Removes every image that `in_use` does not name, and what pulls have left that were cut
    /// off; with `dry_run` only says which.
    pub async fn prune(
        &self,
        in_use: impl FnOnce() -> BTreeSet<ImageReference> + Send,
        dry_run: bool,
    ) -> Result<Pruned, ImageError> {
        let _changes = self.changes.lock().await;
        let all = self.list().await?;
        let in_use = in_use();
        let (kept, images): (Vec<_>, Vec<_>) = all.into_iter().partition(|i| in_use.contains(&i.reference));
        let mut shared: BTreeSet<String> = BTreeSet::new();
        for image in &kept {
            shared.extend(self.parts(image).await?.into_keys());
        }
        let mut going = BTreeMap::new();
        for image in &images {
            going.extend(self.parts(image).await?.into_iter().filter(|(part, _)| !shared.contains(part)));
        }
        if !dry_run {
            for image in &images {
                self.delete(&image.reference, false).await?;
            }
            self.forget_pulls(Duration::ZERO).await?;
            ingest::collect(&self.client).await?;
        }
        Ok(Pruned { images, reclaimed: going.into_values().sum() })
    }

    /// Sizes of configuration and layers, by digest.
    async fn parts(&self, image: &ImageInfo) -> Result<BTreeMap<String, u64>, ImageError> {
        let Some(manifest) = ingest::read_manifest(&self.client, &image.digest).await? else {
            return Ok(BTreeMap::new());
        };
        Ok(manifest.layers.into_iter().chain([manifest.config]).map(|d| (d.digest, d.size)).collect())
    }

    async fn delete(&self, reference: &ImageReference, sync: bool) -> Result<(), ImageError> {
        let r = DeleteImageRequest { name: reference.to_string(), sync, target: None };
        match call(LONG, self.client.images().delete(self.client.request(r))).await {
            Err(CallError::NotFound(_)) => Err(ImageError::NotFound(reference.familiar())),
            other => Ok(other?),
        }
    }

    /// What is needed to run the image of this name; `None` when it is not here, or not whole.
    pub async fn resolve(&self, reference: &ImageReference) -> Result<Option<ResolvedImage>, ImageError> {
        let Some(image) = self.get(&reference.to_string()).await? else { return Ok(None) };
        let digest = target(&image);
        let Some(manifest) = ingest::read_manifest(&self.client, &digest).await? else { return Ok(None) };
        let Some(config) = ingest::read_blob(&self.client, &manifest.config.digest).await? else {
            return Ok(None);
        };
        let config = read::parse_config(&config)?;
        Ok(Some(ResolvedImage {
            digest,
            chain_id: read::chain_ids(&config.rootfs.diff_ids).pop().unwrap_or_default(),
            config: config.config,
        }))
    }

    /// Removes what an import left that was cut off when the agent died. To be called before the
    /// first import of a process.
    pub async fn sweep(&self) -> Result<(), ImageError> {
        let _changes = self.changes.lock().await;
        ingest::sweep(&self.client).await?;
        self.sweep_pulls().await?;
        ingest::collect(&self.client).await
    }
}

fn target(image: &Image) -> String {
    image.target.as_ref().map(|t| t.digest.clone()).unwrap_or_default()
}
