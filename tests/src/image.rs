//! Images made by ourselves: `testbox` and a few text files, as an OCI archive or as `docker save`
//! writes them.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What an image says of itself.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name it is stored under, `NAME:TAG`.
    pub reference: String,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Command.
    pub cmd: Vec<String>,
    /// Environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: String,
    /// User, `NAME`, `UID` or `UID:GID`.
    pub user: String,
    /// `HEALTHCHECK`, as images have it; null for none.
    pub healthcheck: Value,
}

impl Image {
    /// `testbox http` under a name, with nothing else set.
    #[must_use]
    pub fn web(reference: &str) -> Self {
        Self {
            reference: reference.into(),
            entrypoint: vec!["/testbox".into()],
            cmd: vec!["http".into(), "80".into()],
            env: vec!["PATH=/".into()],
            workdir: String::new(),
            user: String::new(),
            healthcheck: Value::Null,
        }
    }
}

/// The static binary: `WARREN_TESTBOX`, else what `cargo xtask test` builds.
///
/// # Errors
/// It has not been built.
pub fn testbox() -> Result<PathBuf> {
    let file = match env::var_os("WARREN_TESTBOX") {
        Some(file) => file.into(),
        None => target_dir()?.join("release/testbox"),
    };
    if !file.is_file() {
        bail!("{} is missing: run `cargo xtask test`, which builds it", file.display());
    }
    Ok(file)
}

/// The target directory we were built in.
///
/// # Errors
/// We do not lie in one.
pub fn target_dir() -> Result<PathBuf> {
    let ours = env::current_exe()?;
    let found = ours.ancestors().find(|d| d.join("CACHEDIR.TAG").exists());
    Ok(found.with_context(|| format!("{} lies in no target directory", ours.display()))?.to_owned())
}

/// Writes an OCI archive.
///
/// # Errors
/// `testbox` is missing or the file cannot be written.
pub fn write_oci(image: &Image, file: &Path) -> Result<()> {
    let layer = layer()?;
    let config = serde_json::to_vec(&config(image, std::slice::from_ref(&layer)))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let tag = image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    listed["annotations"] = json!({
        "io.containerd.image.name": full(&image.reference),
        "org.opencontainers.image.ref.name": tag,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    });
    let mut out = Builder::new(create(file)?);
    put(&mut out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    put(&mut out, "index.json", &serde_json::to_vec(&index)?, 0o644)?;
    for blob in [&layer, &config, &manifest] {
        put(&mut out, &format!("blobs/sha256/{}", digest(blob)), blob, 0o644)?;
    }
    out.into_inner()?;
    Ok(())
}

/// Writes what `docker save` writes.
///
/// # Errors
/// As [`write_oci`].
pub fn write_docker(image: &Image, file: &Path) -> Result<()> {
    let layer = layer()?;
    let config = serde_json::to_vec(&config(image, std::slice::from_ref(&layer)))?;
    let (config_name, layer_name) =
        (format!("{}.json", digest(&config)), format!("{}/layer.tar", digest(&layer)));
    let manifest = json!([{ "Config": config_name, "RepoTags": [image.reference], "Layers": [layer_name] }]);
    let mut out = Builder::new(create(file)?);
    put(&mut out, &config_name, &config, 0o644)?;
    put(&mut out, &layer_name, &layer, 0o644)?;
    put(&mut out, "manifest.json", &serde_json::to_vec(&manifest)?, 0o644)?;
    out.into_inner()?;
    Ok(())
}

fn create(file: &Path) -> Result<File> {
    File::create(file).with_context(|| format!("{}", file.display()))
}

/// The configuration of an image of these layers.
#[must_use]
pub fn config(image: &Image, layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", digest(l))).collect();
    json!({
        "architecture": match env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": image.entrypoint,
            "Cmd": image.cmd,
            "Env": image.env,
            "WorkingDir": image.workdir,
            "User": image.user,
            "Healthcheck": image.healthcheck,
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": vec![json!({ "created": "1970-01-01T00:00:00Z", "created_by": "warren tests" }); layers.len()],
    })
}

fn full(reference: &str) -> String {
    if reference.contains('/') { reference.to_owned() } else { format!("docker.io/library/{reference}") }
}

/// How a manifest names a blob.
#[must_use]
pub fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", digest(blob)), "size": blob.len() })
}

/// SHA-256, as hexadecimal digits.
#[must_use]
pub fn digest(blob: &[u8]) -> String {
    hex::encode(Sha256::digest(blob))
}

/// A layer of one file of so many bytes that cannot be compressed.
///
/// # Errors
/// Memory does not take it.
pub fn padding(bytes: usize) -> Result<Vec<u8>> {
    // A generator of the simplest kind is random enough for gzip.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ bytes as u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let noise: Vec<u8> = words.flatten().take(bytes).collect();
    let mut out = Builder::new(Vec::new());
    put(&mut out, "padding", &noise, 0o644)?;
    Ok(out.into_inner()?)
}

/// One layer: the binary, users, and a directory of a user's own.
///
/// # Errors
/// `testbox` has not been built.
pub fn layer() -> Result<Vec<u8>> {
    let mut out = Builder::new(Vec::new());
    for (dir, mode, uid) in
        [("etc/", 0o755, 0), ("tmp/", 0o1777, 0), ("home/", 0o755, 0), ("home/app/", 0o750, 1000)]
    {
        let mut h = header(0, mode);
        h.set_entry_type(EntryType::Directory);
        h.set_uid(uid);
        h.set_gid(uid);
        out.append_data(&mut h, dir, &[][..])?;
    }
    put(
        &mut out,
        "etc/passwd",
        b"root:x:0:0:root:/:/testbox\napp:x:1000:1000:app:/home/app:/testbox\n",
        0o644,
    )?;
    put(&mut out, "etc/group", b"root:x:0:\napp:x:1000:\naudio:x:29:app\n", 0o644)?;
    put(&mut out, "etc/greeting", b"hello from the image\n", 0o644)?;
    put(&mut out, "testbox", &fs::read(testbox()?)?, 0o755)?;
    Ok(out.into_inner()?)
}

fn put<W: std::io::Write>(out: &mut Builder<W>, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    out.append_data(&mut header(bytes.len() as u64, mode), name, bytes)?;
    Ok(())
}

/// Without times and names of owners, so that the same content is the same image.
fn header(size: u64, mode: u32) -> Header {
    let mut h = Header::new_gnu();
    h.set_size(size);
    h.set_mode(mode);
    h.set_mtime(0);
    h
}
