//! Images and tasks for tests: archives written by hand, as the tools that make them do.

pub mod proxy;
pub mod registry;

use std::{collections::BTreeMap, io::Write};

use sha2::{Digest, Sha256};

use crate::model::{ServiceId, Task, TaskId, TaskSpec, TaskState, TaskStatus, Timestamp};

/// A file of a layer.
#[derive(Debug, Clone)]
pub struct TestFile {
    /// Without a leading slash.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Content.
    pub bytes: Vec<u8>,
}

impl TestFile {
    /// A plain file.
    #[must_use]
    pub fn new(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.to_owned(), mode: 0o644, bytes: bytes.into() }
    }

    /// A program.
    #[must_use]
    pub fn program(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { mode: 0o755, ..Self::new(path, bytes) }
    }
}

/// An image that a test makes.
#[derive(Debug, Clone)]
pub struct TestImage {
    /// Its name; `None` leaves it out of the archive.
    pub name: Option<String>,
    /// `amd64`, …
    pub architecture: String,
    /// The `config` of its configuration (`Entrypoint`, `Env`, …).
    pub config: serde_json::Value,
    /// Whether layers are gzipped.
    pub gzip: bool,
    /// Whether layers are packed with zstd instead.
    pub zstd: bool,
    /// Whether media types are Docker's instead of OCI's.
    pub docker_types: bool,
    layers: Vec<Vec<u8>>,
}

/// A named blob.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: hex::encode(Sha256::digest(&bytes)), bytes }
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> serde_json::Value {
        serde_json::json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

impl TestImage {
    /// An image of this name for this machine, without layers.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            name: Some(name.to_owned()),
            architecture: architecture.to_owned(),
            config: serde_json::json!({}),
            gzip: false,
            zstd: false,
            docker_types: false,
            layers: Vec::new(),
        }
    }

    /// Adds a layer.
    #[must_use]
    pub fn layer(mut self, files: &[TestFile]) -> Self {
        self.layers.push(tar_of(files.iter().map(|f| (f.path.as_str(), f.mode, f.bytes.as_slice()))));
        self
    }

    /// Adds a layer of any bytes, also ones that are no tar.
    #[must_use]
    pub fn raw_layer(mut self, bytes: Vec<u8>) -> Self {
        self.layers.push(bytes);
        self
    }

    /// Sets the `config` of its configuration.
    #[must_use]
    pub fn config(mut self, config: serde_json::Value) -> Self {
        self.config = config;
        self
    }

    fn configuration(&self) -> Blob {
        let diff_ids: Vec<String> =
            self.layers.iter().map(|l| format!("sha256:{}", hex::encode(Sha256::digest(l)))).collect();
        let configuration = serde_json::json!({
            "os": "linux",
            "architecture": self.architecture,
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Blob::new(configuration.to_string().into_bytes())
    }

    fn packed(&self) -> Vec<Blob> {
        let pack = |layer: &Vec<u8>| match (self.gzip, self.zstd) {
            (true, _) => gzip(layer),
            (_, true) => zstd(layer),
            _ => layer.clone(),
        };
        self.layers.iter().map(|l| Blob::new(pack(l))).collect()
    }

    /// As `skopeo copy … oci-archive:` writes it: a tar of an OCI layout.
    #[must_use]
    pub fn oci(&self) -> Vec<u8> {
        oci_archive(std::slice::from_ref(self))
    }

    /// As `docker save` wrote it before version 25.
    #[must_use]
    pub fn docker(&self) -> Vec<u8> {
        let config = self.configuration();
        let mut files = vec![(format!("{}.json", config.digest), config.bytes)];
        let mut layers = Vec::new();
        for (n, layer) in self.packed().into_iter().enumerate() {
            let path = format!("{n}{}/layer.tar", layer.digest);
            layers.push(path.clone());
            files.push((path, layer.bytes));
        }
        let manifest = serde_json::json!([{
            "Config": files[0].0,
            "RepoTags": self.name.as_ref().map(|n| vec![n.clone()]),
            "Layers": layers,
        }]);
        files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        tar_of(files.iter().map(|(p, b)| (p.as_str(), 0o644, b.as_slice())))
    }

    /// As `docker save` writes it since version 25: an OCI layout whose index has bare tags, and
    /// manifest.json beside it with the names.
    #[must_use]
    pub fn docker_with_layout(&self) -> Vec<u8> {
        let (mut files, mut manifest) = self.blobs();
        manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "latest" });
        let config = self.configuration();
        let saved = serde_json::json!([{
            "Config": config.path(),
            "RepoTags": self.name.as_ref().map(|n| vec![n.clone()]),
            "Layers": self.packed().iter().map(Blob::path).collect::<Vec<_>>(),
        }]);
        files.insert("manifest.json".to_owned(), saved.to_string().into_bytes());
        layout(files, &[manifest])
    }

    /// Blobs by path, and the descriptor of the manifest.
    pub(super) fn blobs(&self) -> (BTreeMap<String, Vec<u8>>, serde_json::Value) {
        let config = self.configuration();
        let layers = self.packed();
        let (manifest_type, config_type, layer_type) = if self.docker_types {
            let kind = if self.gzip { ".gzip" } else { "" };
            (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                format!("application/vnd.docker.image.rootfs.diff.tar{kind}"),
            )
        } else {
            let kind = match (self.gzip, self.zstd) {
                (true, _) => "+gzip",
                (_, true) => "+zstd",
                _ => "",
            };
            (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                format!("application/vnd.oci.image.layer.v1.tar{kind}"),
            )
        };
        let manifest = Blob::new(
            serde_json::json!({
                "schemaVersion": 2,
                "mediaType": manifest_type,
                "config": config.descriptor(config_type),
                "layers": layers.iter().map(|l| l.descriptor(&layer_type)).collect::<Vec<_>>(),
            })
            .to_string()
            .into_bytes(),
        );
        let mut descriptor = manifest.descriptor(manifest_type);
        if let Some(name) = &self.name {
            descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
        }
        let blobs = layers.into_iter().chain([config, manifest]);
        (blobs.map(|b| (b.path(), b.bytes)).collect(), descriptor)
    }
}

/// One archive of several images. More than one platform under one name makes an inner index.
#[must_use]
pub fn oci_archive(images: &[TestImage]) -> Vec<u8> {
    let mut files = BTreeMap::new();
    let mut by_name: BTreeMap<Option<String>, Vec<serde_json::Value>> = BTreeMap::new();
    for image in images {
        let (blobs, mut descriptor) = image.blobs();
        files.extend(blobs);
        descriptor["platform"] = serde_json::json!({ "os": "linux", "architecture": image.architecture });
        by_name.entry(image.name.clone()).or_default().push(descriptor);
    }
    let mut top = Vec::new();
    for (name, mut descriptors) in by_name {
        if descriptors.len() == 1 {
            top.append(&mut descriptors);
            continue;
        }
        for d in &mut descriptors {
            d.as_object_mut().map(|o| o.remove("annotations"));
        }
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": descriptors });
        let index = Blob::new(index.to_string().into_bytes());
        let mut descriptor = index.descriptor("application/vnd.oci.image.index.v1+json");
        if let Some(name) = name {
            descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
        }
        files.insert(index.path(), index.bytes);
        top.push(descriptor);
    }
    layout(files, &top)
}

fn layout(mut files: BTreeMap<String, Vec<u8>>, manifests: &[serde_json::Value]) -> Vec<u8> {
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
    files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    files.insert("index.json".to_owned(), index.to_string().into_bytes());
    tar_of(files.iter().map(|(p, b)| (p.as_str(), 0o644, b.as_slice())))
}

/// A tar of plain files.
///
/// # Panics
/// When a path is too long for a tar.
pub fn tar_of<'a>(files: impl Iterator<Item = (&'a str, u32, &'a [u8])>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, path, bytes).expect("a path that fits a tar");
    }
    tar.into_inner().expect("a tar in memory")
}

/// Gzips bytes.
///
/// # Panics
/// Never: memory takes it all.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(bytes).expect("memory");
    z.finish().expect("memory")
}

/// Packs bytes with the `zstd` program.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut zstd = std::process::Command::new("zstd")
        .args(["-q", "-c", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("zstd runs: `cargo xtask deps` installs it");
    let mut stdin = zstd.stdin.take().expect("a pipe");
    let all = bytes.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&all));
    let packed = zstd.wait_with_output().expect("zstd ends").stdout;
    feed.join().expect("no panic").expect("zstd takes it");
    packed
}

/// A task number `n` of a service "test".
#[must_use]
pub fn task(n: u128, spec: TaskSpec) -> Task {
    Task {
        id: TaskId::from_random(n),
        version: 1,
        service: ServiceId::from_random(1),
        service_name: "test".to_owned(),
        slot: 1,
        spec,
        spec_version: 1,
        node: None,
        attachment: None,
        desired: TaskState::Running,
        status: TaskStatus {
            state: TaskState::Assigned,
            at: Timestamp(0),
            message: String::new(),
            container: None,
            health: Default::default(),
        },
        created_at: Timestamp(0),
        start_at: Timestamp(0),
        restarts: Vec::new(),
    }
}
