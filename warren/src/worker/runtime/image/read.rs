//! What the documents of images say: which images an archive holds, for whom, of which parts.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    ImageConfig, ImageError,
    archive::{Archive, Span, compression},
    platform::Platform,
};
use crate::model::ImageReference;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] = [OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"];
/// Indexes may name indexes, but not without end.
pub(super) const DEPTH: usize = 3;

/// A reference to a part by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// A list of images, one for each kind of machine.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Index {
    /// What this machine runs, the best first; those that do not say for whom they are come last.
    pub(super) fn fitting(&self) -> Vec<&Descriptor> {
        let own = Platform::own();
        let rank = |d: &Descriptor| d.platform.as_ref().map_or(Some(u32::MAX), |p| own.fit(p));
        let mut list: Vec<_> = self.manifests.iter().filter_map(|d| Some((rank(d)?, d))).collect();
        list.sort_by_key(|(rank, _)| *rank);
        list.into_iter().map(|(_, d)| d).collect()
    }

    /// The machines it has images for, as words.
    pub(super) fn platforms(&self) -> BTreeSet<String> {
        let all = self.manifests.iter().filter_map(|d| d.platform.as_ref());
        // Attestations are listed as for an unknown machine.
        all.filter(|p| p.os != "unknown").map(ToString::to_string).collect()
    }
}

/// An image's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    pub(super) config: Descriptor,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

/// An image's configuration.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Configuration {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    pub(super) config: ImageConfig,
    #[serde(default)]
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) diff_ids: Vec<String>,
}

/// An entry of docker-save's manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// An image of an archive, with every part found and verified.
#[derive(Debug, Clone)]
pub(super) struct ImageDocument {
    /// Digest of `manifest`.
    pub(super) digest: String,
    pub(super) media_type: String,
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) config_descriptor: Descriptor,
    /// In order, the lowest first.
    pub(super) layers: Vec<Layer>,
    /// Where each layer is in an archive; empty for an image of a registry.
    pub(super) spans: Vec<Span>,
    names: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) descriptor: Descriptor,
    /// Digest of the unpacked layer.
    pub(super) diff_id: String,
}

impl ImageDocument {
    /// An image of a registry, of its documents.
    pub(super) fn pulled(
        digest: String,
        media_type: String,
        manifest: Vec<u8>,
        config: Vec<u8>,
    ) -> Result<Self, ImageError> {
        let parsed = parse_manifest(&manifest)?;
        let configuration = parse_config(&config)?;
        let mut other = BTreeSet::new();
        if !is_ours(&configuration, &mut other) {
            let has = other.into_iter().collect::<Vec<_>>().join(", ");
            return Err(ImageError::Platform { has, want: Platform::own().to_string() });
        }
        let diff_ids = configuration.rootfs.diff_ids;
        same_count(diff_ids.len(), parsed.layers.len())?;
        let layers = parsed.layers.into_iter().zip(diff_ids);
        let layers = layers.map(|(descriptor, diff_id)| Layer { descriptor, diff_id });
        Ok(Self {
            digest,
            media_type,
            manifest,
            config,
            config_descriptor: parsed.config,
            layers: layers.collect(),
            spans: Vec::new(),
            names: Vec::new(),
        })
    }

    /// What the archive calls it.
    pub(super) fn names(&self) -> Result<Vec<ImageReference>, ImageError> {
        if self.names.is_empty() {
            return Err(ImageError::Unnamed);
        }
        Ok(self.names.iter().map(|n| n.parse()).collect::<Result<_, _>>()?)
    }

    /// Names of the snapshots of its layers, the lowest first.
    pub(super) fn chain_ids(&self) -> Vec<String> {
        chain_ids(&self.layers.iter().map(|l| l.diff_id.clone()).collect::<Vec<_>>())
    }
}

/// Names of snapshots: each layer's digest folded with those below.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for id in diff_ids {
        chain.push(match chain.last() {
            None => id.clone(),
            Some(below) => digest(format!("{below} {id}").as_bytes()),
        });
    }
    chain
}

pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub(super) fn parse_manifest(bytes: &[u8]) -> Result<Manifest, ImageError> {
    parse("its manifest", bytes)
}

pub(super) fn parse_index(bytes: &[u8]) -> Result<Index, ImageError> {
    parse("its index", bytes)
}

/// What a document is: what it says of itself, else what its sender said.
pub(super) fn media_type(bytes: &[u8], said: &str) -> Result<String, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        #[serde(default)]
        media_type: String,
    }
    let typed: Typed = parse("its manifest", bytes)?;
    Ok(if typed.media_type.is_empty() { said.to_owned() } else { typed.media_type })
}

pub(super) fn parse_config(bytes: &[u8]) -> Result<Configuration, ImageError> {
    parse("its configuration", bytes)
}

fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Malformed(format!("{what}: {e}")))
}

/// All images of the archive that are for this machine.
pub(super) fn images(archive: &Archive) -> Result<Vec<ImageDocument>, ImageError> {
    let saved: Vec<Saved> = match archive.member("manifest.json") {
        Some(span) => parse("manifest.json", &archive.document("manifest.json", span)?)?,
        None => Vec::new(),
    };
    let mut other = BTreeSet::new();
    let mut found = Vec::new();
    if let Some(span) = archive.member("index.json") {
        let index: Index = parse("index.json", &archive.document("index.json", span)?)?;
        for descriptor in &index.manifests {
            let names = names_of(descriptor);
            select(archive, descriptor, &names, DEPTH, &mut found, &mut other)?;
        }
        // docker save writes bare tags into the index and whole names beside it.
        for image in found.iter_mut().filter(|i| i.names.is_empty()) {
            let hex = image.config_descriptor.digest.trim_start_matches("sha256:").to_owned();
            let beside = saved.iter().filter(|s| s.config.contains(&hex));
            image.names = beside.flat_map(|s| s.repo_tags.clone().unwrap_or_default()).collect();
        }
    } else if !saved.is_empty() {
        for entry in &saved {
            found.extend(legacy(archive, entry, &mut other)?);
        }
    } else {
        return Err(ImageError::NotAnArchive("neither index.json nor manifest.json is in it".to_owned()));
    }
    if found.is_empty() {
        let want = Platform::own().to_string();
        if other.is_empty() {
            return Err(ImageError::NotAnArchive("it holds no image".to_owned()));
        }
        let has = other.into_iter().collect::<Vec<_>>().join(", ");
        return Err(ImageError::Platform { has, want });
    }
    Ok(found)
}

/// What an index calls an image: whole names only. A bare tag names nothing.
fn names_of(descriptor: &Descriptor) -> Vec<String> {
    let of = |key: &str| descriptor.annotations.as_ref().and_then(|a| a.get(key)).cloned();
    let whole = of("io.containerd.image.name");
    let name = of("org.opencontainers.image.ref.name").filter(|n| n.contains(['/', ':']));
    whole.or(name).into_iter().collect()
}

/// Whether it lists images.
pub(super) fn is_index(media_type: &str) -> bool {
    INDEXES.contains(&media_type)
}

/// Whether it is an image's manifest.
pub(super) fn is_manifest(media_type: &str) -> bool {
    MANIFESTS.contains(&media_type)
}

/// Follows a descriptor of an index to this machine's image.
fn select(
    archive: &Archive,
    descriptor: &Descriptor,
    names: &[String],
    depth: usize,
    found: &mut Vec<ImageDocument>,
    other: &mut BTreeSet<String>,
) -> Result<(), ImageError> {
    if let Some(p) = &descriptor.platform
        && Platform::own().fit(p).is_none()
    {
        // Attestations are listed as for an unknown machine.
        if p.os != "unknown" {
            other.insert(p.to_string());
        }
        return Ok(());
    }
    if is_index(&descriptor.media_type) {
        if depth == 0 {
            return Err(ImageError::Malformed("its indexes are nested too deeply".to_owned()));
        }
        let index: Index = parse("an index", &blob(archive, descriptor)?)?;
        let before = found.len();
        let fitting = index.fitting();
        if fitting.is_empty() {
            other.extend(index.platforms());
        }
        for inner in fitting {
            select(archive, inner, names, depth - 1, found, other)?;
            // One image per name: the best.
            if found.len() > before {
                break;
            }
        }
        return Ok(());
    }
    if !is_manifest(&descriptor.media_type) {
        return Ok(());
    }
    let bytes = blob(archive, descriptor)?;
    let manifest = parse_manifest(&bytes)?;
    let config = blob(archive, &manifest.config)?;
    let configuration = parse_config(&config)?;
    if !is_ours(&configuration, other) {
        return Ok(());
    }
    let diff_ids = &configuration.rootfs.diff_ids;
    same_count(diff_ids.len(), manifest.layers.len())?;
    let (mut layers, mut spans) = (Vec::new(), Vec::new());
    for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let span = find(archive, layer)?;
        if archive.digest(span)? != layer.digest {
            return Err(ImageError::Damaged(layer.digest.clone()));
        }
        layers.push(Layer { descriptor: layer.clone(), diff_id: diff_id.clone() });
        spans.push(span);
    }
    found.push(ImageDocument {
        digest: descriptor.digest.clone(),
        media_type: descriptor.media_type.clone(),
        manifest: bytes,
        config,
        config_descriptor: manifest.config,
        layers,
        spans,
        names: names.to_vec(),
    });
    Ok(())
}

fn is_ours(config: &Configuration, other: &mut BTreeSet<String>) -> bool {
    let ours = (config.os.is_empty() || config.os == "linux")
        && (config.architecture.is_empty() || config.architecture == Platform::own().architecture);
    if !ours {
        other.insert(format!("{}/{}", config.os, config.architecture));
    }
    ours
}

fn same_count(diff_ids: usize, layers: usize) -> Result<(), ImageError> {
    if diff_ids == layers {
        return Ok(());
    }
    Err(ImageError::Malformed(format!("its configuration names {diff_ids} layers and its manifest {layers}")))
}

/// Finds a part by digest.
fn find(archive: &Archive, descriptor: &Descriptor) -> Result<Span, ImageError> {
    let hex = descriptor.digest.strip_prefix("sha256:").filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
    let hex = hex.ok_or_else(|| ImageError::Malformed(format!("bad digest \"{}\"", descriptor.digest)))?;
    let span = archive.member(&format!("blobs/sha256/{hex}"));
    let span = span.ok_or_else(|| ImageError::Incomplete(format!("{} is missing", descriptor.digest)))?;
    if span.len != descriptor.size {
        return Err(ImageError::Damaged(descriptor.digest.clone()));
    }
    Ok(span)
}

/// Reads a document by digest, verified.
fn blob(archive: &Archive, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let bytes = archive.document(&descriptor.digest, find(archive, descriptor)?)?;
    if digest(&bytes) != descriptor.digest {
        return Err(ImageError::Damaged(descriptor.digest.clone()));
    }
    Ok(bytes)
}

/// An image as docker-save wrote it before it also wrote an index. It has no manifest: one is
/// made, the same from the same archive.
fn legacy(
    archive: &Archive,
    entry: &Saved,
    other: &mut BTreeSet<String>,
) -> Result<Option<ImageDocument>, ImageError> {
    let missing = |name: &str| ImageError::Incomplete(format!("{name} is missing"));
    let span = archive.member(&entry.config).ok_or_else(|| missing(&entry.config))?;
    let config = archive.document(&entry.config, span)?;
    // The configuration is named by its digest: `<hex>.json`.
    let name = entry.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if name.len() == 64 && digest(&config) != format!("sha256:{name}") {
        return Err(ImageError::Damaged(entry.config.clone()));
    }
    let configuration = parse_config(&config)?;
    if !is_ours(&configuration, other) {
        return Ok(None);
    }
    let paths = entry.layers.clone().unwrap_or_default();
    let diff_ids = configuration.rootfs.diff_ids;
    same_count(diff_ids.len(), paths.len())?;
    let (mut layers, mut spans) = (Vec::new(), Vec::new());
    for (path, diff_id) in paths.iter().zip(diff_ids) {
        let span = archive.member(path).ok_or_else(|| missing(path))?;
        let packed = compression(archive, span)?;
        let digest = archive.digest(span)?;
        // Unpacked layers are named by what they must be; of packed ones it is found out later.
        if packed.is_empty() && digest != diff_id {
            return Err(ImageError::Damaged(path.clone()));
        }
        let media_type = format!("{OCI_LAYER}{packed}");
        let descriptor = Descriptor { media_type, digest, size: span.len, platform: None, annotations: None };
        layers.push(Layer { descriptor, diff_id });
        spans.push(span);
    }
    let config_descriptor = Descriptor {
        media_type: OCI_CONFIG.to_owned(),
        digest: digest(&config),
        size: config.len() as u64,
        platform: None,
        annotations: None,
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config: config_descriptor.clone(),
        layers: layers.iter().map(|l| l.descriptor.clone()).collect(),
    };
    let manifest = serde_json::to_vec(&manifest).map_err(|e| ImageError::Malformed(e.to_string()))?;
    Ok(Some(ImageDocument {
        digest: digest(&manifest),
        media_type: OCI_MANIFEST.to_owned(),
        manifest,
        config,
        config_descriptor,
        layers,
        spans,
        names: entry.repo_tags.clone().unwrap_or_default(),
    }))
}
