//! A registry: Debian's docker-registry on a host's loopback, with an image put into it through
//! its own API.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    Host, eventually,
    image::{self, Image},
    netns::unique,
};

const PROGRAM: &str = "docker-registry";

/// A running registry. Goes with what it holds.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    dir: PathBuf,
    /// `ADDRESS:PORT`, plain HTTP.
    pub address: String,
}

impl Registry {
    /// Starts one on a host's loopback.
    ///
    /// # Errors
    /// docker-registry is not installed, or does not answer.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let dir = std::env::temp_dir().join(unique("registry"));
        fs::create_dir(&dir)?;
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}}}\nhttp: {{addr: \"{address}\"}}\n",
            dir.display()
        );
        fs::write(dir.join("config.yml"), config)?;
        let log = fs::File::create(dir.join("log"))?;
        let child = host
            .ns
            .command(PROGRAM)?
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry: run `cargo xtask deps`")?;
        let registry = Self { child, dir, address };
        let url = format!("http://{}/v2/", registry.address);
        eventually("the registry answers", Duration::from_secs(20), || host.curl(&url))
            .with_context(|| fs::read_to_string(registry.dir.join("log")).unwrap_or_default())?;
        Ok(registry)
    }

    /// Puts an image in, with `padding` bytes that cannot be compressed as a further layer.
    ///
    /// # Errors
    /// The registry refuses something.
    pub fn push(
        &self,
        host: &Host,
        image: &Image,
        repository: &str,
        tag: &str,
        padding: usize,
    ) -> Result<()> {
        let mut layers = vec![image::layer()?];
        if padding > 0 {
            layers.push(image::padding(padding)?);
        }
        let config = serde_json::to_vec(&image::config(image, &layers))?;
        for blob in layers.iter().chain([&config]) {
            self.blob(host, repository, blob)?;
        }
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let described: Vec<_> = layers.iter().map(|l| image::descriptor(kind, l)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": image::descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": described,
        });
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        self.put(host, &url, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())
    }

    fn blob(&self, host: &Host, repository: &str, blob: &[u8]) -> Result<()> {
        let url = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let args = ["-sS", "-f", "-o", "/dev/null", "-D", "-", "-X", "POST", &url];
        let said = host.ns.run("curl", &args)?;
        let place = said
            .lines()
            .find_map(|l| l.to_ascii_lowercase().starts_with("location:").then(|| l[9..].trim().to_owned()))
            .with_context(|| format!("an upload has a location: {said}"))?;
        let join = if place.contains('?') { '&' } else { '?' };
        let place = if place.starts_with('/') { format!("http://{}{place}", self.address) } else { place };
        let url = format!("{place}{join}digest=sha256:{}", image::digest(blob));
        self.put(host, &url, "application/octet-stream", blob)
    }

    fn put(&self, host: &Host, url: &str, kind: &str, body: &[u8]) -> Result<()> {
        let file = self.dir.join("body");
        fs::File::create(&file)?.write_all(body)?;
        let (header, data) = (format!("Content-Type: {kind}"), format!("@{}", file.display()));
        host.ns.run("curl", &["-sS", "-f", "-X", "PUT", "-H", &header, "--data-binary", &data, url])?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
