//! Images from their registries: asked for once however many want them, brought layer by layer,
//! a few at a time, and unpacked as they come.
//!
//! A pull that is cut off leaves no image, but what it has brought: the next one of the same image
//! goes on from there. What nobody goes on with is removed after [`KEEP`].

mod fetch;
mod progress;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use containerd_client::services::v1::{
    DeleteRequest, ListRequest,
    snapshots::{ListSnapshotsRequest, RemoveSnapshotRequest},
};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

pub use self::progress::{LayerProgress, LayerState, PullProgress};
use super::{
    ImageError, ImageInfo, ImageStore, PullFailure, ingest,
    platform::Platform,
    read::{self, ImageDocument},
    registry::{Document, Registry},
    target,
};
use crate::{
    model::{ImageReference, RegistryAuth},
    worker::runtime::{
        SNAPSHOTTER,
        client::{CallError, LONG, SHORT, already, call},
    },
};

/// Layers that are brought at a time, as Docker does.
const PARALLEL: usize = 3;
/// Begins the names of pulls' leases, and so of their half-made snapshots.
const LEASE: &str = "warren-pull-";
/// How long what a cut-off pull has brought is kept for the next one.
const KEEP: Duration = Duration::from_secs(3600);
/// On an image: the digest that its name stood for when it was pulled. That of an index, when
/// there is one for several machines.
const PULLED: &str = "warren.pulled";

/// Whether a registry is asked for an image that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It is.
    Always,
    /// It is not.
    Missing,
}

type Work = BoxFuture<'static, Result<ImageInfo, ImageError>>;

/// A pull under way. It goes on as long as somebody holds it.
#[derive(Clone)]
pub struct Pull {
    /// How far it is.
    pub progress: watch::Receiver<PullProgress>,
    work: Shared<Work>,
}

impl Pull {
    /// Waits for its end.
    ///
    /// # Errors
    /// What kept the image from coming.
    pub async fn done(&self) -> Result<ImageInfo, ImageError> {
        self.work.clone().await
    }
}

struct Running {
    reference: ImageReference,
    when: When,
    credentials: Option<RegistryAuth>,
    work: WeakShared<Work>,
    progress: watch::Receiver<PullProgress>,
}

/// All pulls of a node.
#[derive(Default)]
pub(super) struct Pulls {
    running: Mutex<Vec<Running>>,
    /// Leases of those that run.
    leases: Mutex<BTreeSet<String>>,
    /// Who brings a layer holds its lock: two images may share it.
    layers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl std::fmt::Debug for Pulls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pulls(…)")
    }
}

// Held only for operations that do not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulls {
    fn layer(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = lock(&self.layers);
        layers.retain(|_, l| l.strong_count() > 0);
        if let Some(held) = layers.get(digest).and_then(Weak::upgrade) {
            return held;
        }
        let new = Arc::default();
        layers.insert(digest.to_owned(), Arc::downgrade(&new));
        new
    }
}

/// A pull's lease; while this lives nobody removes it.
struct Lease {
    id: String,
    pulls: Arc<Pulls>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.pulls.leases).remove(&self.id);
    }
}

impl ImageStore {
    /// Brings an image from its registry, or joins a pull of the same image that is under way.
    #[must_use]
    pub fn pull(&self, reference: &ImageReference, when: When, credentials: Option<&RegistryAuth>) -> Pull {
        let mut running = lock(&self.pulls.running);
        running.retain(|r| r.work.upgrade().is_some_and(|w| w.peek().is_none()));
        let same = |r: &&Running| {
            r.reference == *reference && r.when == when && r.credentials.as_ref() == credentials
        };
        if let Some(r) = running.iter().find(same)
            && let Some(work) = r.work.upgrade()
        {
            return Pull { progress: r.progress.clone(), work };
        }
        let (tell, progress) = watch::channel(PullProgress::default());
        let (own, wanted, credentials) = (self.clone(), reference.clone(), credentials.cloned());
        let asker = credentials.clone();
        let work = async move {
            let image = wanted.familiar();
            let pulled = own.bring(&wanted, when, asker.as_ref(), Arc::new(tell)).await;
            pulled.map_err(|why| ImageError::Pull { image, why })
        };
        let work: Shared<Work> = work.boxed().shared();
        if let Some(weak) = work.downgrade() {
            let (reference, progress) = (reference.clone(), progress.clone());
            running.push(Running { reference, when, credentials, work: weak, progress });
        }
        Pull { progress, work }
    }

    async fn bring(
        &self,
        reference: &ImageReference,
        when: When,
        credentials: Option<&RegistryAuth>,
        tell: Arc<watch::Sender<PullProgress>>,
    ) -> Result<ImageInfo, PullFailure> {
        let here = self.whole(reference).await?;
        if when == When::Missing
            && let Some(info) = here
        {
            return Ok(info);
        }
        let say = tell.clone();
        let registry = Registry::new(reference, &self.registries, credentials, move |m| {
            tracing::info!("{m}");
            say.send_modify(|p| p.messages.push(m));
        })?;
        if let Some(info) = here
            && self.is_current(reference, &registry).await?
        {
            return Ok(info);
        }
        let (source, image) = documents(&registry).await?;
        let prefix = lease_prefix(reference);
        let earlier = self.leases(&prefix).await?;
        let id = ingest::begin(&self.client, &prefix).await?;
        lock(&self.pulls.leases).insert(id.clone());
        let lease = Lease { id, pulls: self.pulls.clone() };
        let brought = self.bring_layers(Arc::new(registry), &lease.id, &image, &tell).await;
        let named = match brought {
            Ok(()) => {
                let _changes = self.changes.lock().await;
                let labels = [(PULLED.to_owned(), source)].into();
                let names = std::slice::from_ref(reference);
                ingest::name(&self.client, &lease.id, &image, names, &labels).await.map_err(Into::into)
            }
            Err(e) => Err(e),
        };
        // What earlier ones have brought is under this lease by now, or of no use.
        for (old, _) in earlier {
            ingest::end(&self.client, old, false).await;
        }
        match named {
            Ok(()) => ingest::end(&self.client, lease.id.clone(), false).await,
            Err(why) => {
                self.remove_unpacking(Some(&lease.id)).await?;
                if !why.may_pass() {
                    ingest::end(&self.client, lease.id.clone(), true).await;
                }
                return Err(why);
            }
        }
        let info = self.whole(reference).await?;
        info.ok_or_else(|| ImageError::Away("it was removed again meanwhile".to_owned()).into())
    }

    /// The image of this name, if nothing of it is missing.
    async fn whole(&self, reference: &ImageReference) -> Result<Option<ImageInfo>, ImageError> {
        let Some(image) = self.get(&reference.to_string()).await? else { return Ok(None) };
        if self.resolve(reference).await?.is_none() {
            return Ok(None);
        }
        self.info(image).await
    }

    /// Whether the image here is the one that its registry has under this name.
    async fn is_current(&self, reference: &ImageReference, registry: &Registry) -> Result<bool, PullFailure> {
        let Some(image) = self.get(&reference.to_string()).await? else { return Ok(false) };
        // Not all registries answer this; those that do not are asked for the document.
        match registry.digest().await {
            Ok(Some(now)) => Ok(image.labels.get(PULLED) == Some(&now) || target(&image) == now),
            Ok(None) => Ok(false),
            Err(e) if e.may_pass() => Err(e.into()),
            Err(_) => Ok(false),
        }
    }

    /// Fetches and unpacks the layers: several are fetched at a time, and each is unpacked as soon
    /// as all below it are.
    async fn bring_layers(
        &self,
        registry: Arc<Registry>,
        lease: &str,
        image: &ImageDocument,
        tell: &Arc<watch::Sender<PullProgress>>,
    ) -> Result<(), PullFailure> {
        tell.send_modify(|p| {
            let layer = |l: &read::Layer| LayerProgress {
                digest: l.descriptor.digest.clone(),
                state: LayerState::Waiting,
                done: 0,
                total: l.descriptor.size,
            };
            p.layers = image.layers.iter().map(layer).collect();
        });
        let turns = Arc::new(Semaphore::new(PARALLEL));
        let mut fetching = Vec::new();
        for (number, layer) in image.layers.iter().enumerate() {
            let fetch = fetch::Fetch {
                client: self.client.clone(),
                registry: registry.clone(),
                lease: lease.to_owned(),
                layer: layer.descriptor.clone(),
                number,
                tell: tell.clone(),
            };
            let (turns, held) = (turns.clone(), self.pulls.layer(&layer.descriptor.digest));
            fetching.push(AbortOnDropHandle::new(tokio::spawn(async move {
                let _turn = turns.acquire_owned().await;
                let _layer = held.lock().await;
                fetch.run().await
            })));
        }
        for (number, fetched) in fetching.into_iter().enumerate() {
            let present = fetched.await.map_err(|e| ImageError::Io(e.to_string()))??;
            tell.send_modify(|p| p.layers[number].state = LayerState::Unpacking);
            ingest::unpack(&self.client, lease, image, number).await?;
            let state = if present { LayerState::Present } else { LayerState::Done };
            tell.send_modify(|p| p.layers[number].state = state);
        }
        Ok(())
    }

    /// Leases that begin so, with the moment they were made.
    async fn leases(&self, prefix: &str) -> Result<Vec<(String, SystemTime)>, CallError> {
        let r = ListRequest { filters: Vec::new() };
        let all = call(SHORT, self.client.leases().list(self.client.request(r))).await?.leases;
        let ours = all.into_iter().filter(|l| l.id.starts_with(prefix));
        Ok(ours
            .map(|l| {
                let made = l.created_at.and_then(|t| SystemTime::try_from(t).ok());
                (l.id, made.unwrap_or(SystemTime::UNIX_EPOCH))
            })
            .collect())
    }

    /// Removes snapshots that were being filled: of one lease, or of all whose pull does not run.
    async fn remove_unpacking(&self, lease: Option<&str>) -> Result<(), CallError> {
        let r = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters: Vec::new() };
        let mut stream = call(SHORT, self.client.snapshots().list(self.client.request(r))).await?;
        let mut half_made = Vec::new();
        while let Some(batch) = stream.message().await.map_err(CallError::from)? {
            half_made.extend(batch.info.into_iter().map(|i| i.name).filter(|n| match lease {
                Some(lease) => n.starts_with(lease),
                None => n.starts_with(LEASE) && !lock(&self.pulls.leases).iter().any(|l| n.starts_with(l)),
            }));
        }
        for key in half_made {
            let r = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
            already(call(SHORT, self.client.snapshots().remove(self.client.request(r))).await)?;
        }
        Ok(())
    }

    /// Removes what cut-off pulls left half-made, and what they had brought if nobody went on with
    /// it for a while.
    pub(super) async fn sweep_pulls(&self) -> Result<(), ImageError> {
        self.remove_unpacking(None).await?;
        self.forget_pulls(KEEP).await
    }

    /// Removes what pulls have brought that were cut off longer ago than this.
    pub(super) async fn forget_pulls(&self, older_than: Duration) -> Result<(), ImageError> {
        for (id, made) in self.leases(LEASE).await? {
            let age = made.elapsed().unwrap_or_default();
            if age < older_than || lock(&self.pulls.leases).contains(&id) {
                continue;
            }
            let r = DeleteRequest { id, sync: true };
            already(call(LONG, self.client.leases().delete(self.client.request(r))).await)?;
        }
        Ok(())
    }
}

/// The same for each pull of an image, so that one finds what another has brought.
fn lease_prefix(reference: &ImageReference) -> String {
    let hash = hex::encode(Sha256::digest(reference.to_string().as_bytes()));
    format!("{LEASE}{}-", &hash[..16])
}

/// Finds this machine's image. Returns the digest that the reference stands for, too.
async fn documents(registry: &Registry) -> Result<(String, ImageDocument), PullFailure> {
    let top = registry.top().await?;
    let source = top.digest.clone();
    let mut found = None;
    let mut other = BTreeSet::new();
    choose(registry, top, read::DEPTH, &mut found, &mut other).await?;
    let Some(image) = found else {
        let want = Platform::own().to_string();
        if other.is_empty() {
            return Err(
                ImageError::Malformed("there is no image in it, but something else".to_owned()).into()
            );
        }
        let has = other.into_iter().collect::<Vec<_>>().join(", ");
        return Err(ImageError::Platform { has, want }.into());
    };
    Ok((source, image))
}

/// Follows indexes to the best image in them.
fn choose<'a>(
    registry: &'a Registry,
    document: Document,
    depth: usize,
    found: &'a mut Option<ImageDocument>,
    other: &'a mut BTreeSet<String>,
) -> BoxFuture<'a, Result<(), PullFailure>> {
    async move {
        let media_type = read::media_type(&document.bytes, &document.media_type)?;
        if read::is_index(&media_type) {
            let index = read::parse_index(&document.bytes)?;
            other.extend(index.platforms());
            for descriptor in index.fitting() {
                if depth == 0 {
                    let why = "its indexes are nested too deeply".to_owned();
                    return Err(ImageError::Malformed(why).into());
                }
                let inner = registry.manifest(&descriptor.digest).await?;
                choose(registry, inner, depth - 1, found, other).await?;
                if found.is_some() {
                    return Ok(());
                }
            }
            return Ok(());
        }
        if !read::is_manifest(&media_type) {
            if media_type.contains("docker.distribution.manifest.v1") {
                let why = "it is in the form of 2015 (schema 1), which nothing reads any more; push it again";
                return Err(ImageError::Malformed(why.to_owned()).into());
            }
            return Ok(());
        }
        let manifest = read::parse_manifest(&document.bytes)?;
        let config = registry.small_blob(&manifest.config.digest).await?;
        match ImageDocument::pulled(document.digest, media_type, document.bytes, config) {
            Ok(image) => *found = Some(image),
            Err(ImageError::Platform { has, .. }) => drop(other.insert(has)),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
    .boxed()
}
