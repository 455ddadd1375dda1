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
    doors: Vec<Child>,
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
        let mut registry = Self { doors: Vec::new(), dir, address };
        registry.open(host, &registry.address.clone(), None)?;
        let url = format!("http://{}/v2/", registry.address);
        eventually("the registry answers", Duration::from_secs(20), || host.curl(&url))
            .with_context(|| fs::read_to_string(registry.dir.join("log")).unwrap_or_default())?;
        Ok(registry)
    }

    /// Gives what it holds at another address (`ADDRESS:PORT`), too; with TLS when certificate and
    /// key (PEM) are given.
    ///
    /// # Errors
    /// docker-registry is not installed.
    pub fn open(&mut self, host: &Host, address: &str, tls: Option<(&str, &str)>) -> Result<()> {
        let door = self.dir.join(format!("door{}", self.doors.len()));
        fs::create_dir(&door)?;
        let mut http = format!("addr: \"{address}\"");
        if let Some((certificate, key)) = tls {
            let (certificate_file, key_file) = (door.join("certificate"), door.join("key"));
            fs::write(&certificate_file, certificate)?;
            fs::write(&key_file, key)?;
            let (certificate, key) = (certificate_file.display(), key_file.display());
            http.push_str(&format!(", tls: {{certificate: {certificate}, key: {key}}}"));
        }
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}}}\nhttp: {{{http}}}\n",
            self.dir.display()
        );
        fs::write(door.join("config.yml"), config)?;
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        let child = host
            .ns
            .command(PROGRAM)?
            .arg("serve")
            .arg(door.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry: run `cargo xtask deps`")?;
        self.doors.push(child);
        Ok(())
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
        for door in &mut self.doors {
            let _ = door.kill();
            let _ = door.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
