//! A real registry (Debian's docker-registry) on loopback, and what lies in it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use super::{Blob, TestImage};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What a registry wants and how it speaks.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Name and password, by htpasswd.
    pub password: Option<(String, String)>,
    /// Realm and certificate (PEM) of a token server, whose tokens are for the service `test` by
    /// the issuer `test`.
    pub token: Option<(String, String)>,
    /// Certificate and key (PEM).
    pub tls: Option<(String, String)>,
}

/// A registry of a test's own; gone when this is.
#[derive(Debug)]
pub struct TestRegistry {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    dir: PathBuf,
    child: Child,
}

impl TestRegistry {
    /// One that wants nothing and speaks plain HTTP.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&Options::default())
    }

    /// One that wants what `options` say.
    ///
    /// # Panics
    /// When docker-registry is missing (`cargo xtask deps` installs it) or does not start.
    #[must_use]
    pub fn with(options: &Options) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("warren-registry-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let port = free_port();
        let mut http = format!("  addr: 127.0.0.1:{port}\n");
        if let Some((certificate, key)) = &options.tls {
            let (cert_file, key_file) = (write(&dir, "cert.pem", certificate), write(&dir, "key.pem", key));
            http.push_str(&format!("  tls:\n    certificate: {cert_file}\n    key: {key_file}\n"));
        }
        let mut auth = String::new();
        if let Some((name, password)) = &options.password {
            let line = Command::new("htpasswd")
                .args(["-nbB", name, password])
                .output()
                .expect("htpasswd runs: `cargo xtask deps` installs it")
                .stdout;
            let file = write(&dir, "htpasswd", String::from_utf8_lossy(&line).trim());
            auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {file}\n");
        }
        if let Some((realm, certificate)) = &options.token {
            let file = write(&dir, "token.pem", certificate);
            auth = format!(
                "auth:\n  token:\n    realm: {realm}\n    service: test\n    issuer: test\n    rootcertbundle: {file}\n"
            );
        }
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: false\nhttp:\n{http}{auth}",
            dir.join("data").display()
        );
        let config = write(&dir, "config.yml", &config);
        let log = fs::File::create(dir.join("log")).expect("a log");
        let child = Command::new("docker-registry")
            .args(["serve", &config])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("docker-registry runs: `cargo xtask deps` installs it");
        let own = Self { port, dir, child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not start: {}", own.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        own
    }

    /// The name of an image there: `127.0.0.1:PORT/NAME`.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// What it wrote, requests among it.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(self.dir.join("log")) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    /// Requests it has answered whose line has all of these.
    #[must_use]
    pub fn requests(&self, parts: &[&str]) -> usize {
        // The line in Apache's form, one for each request.
        let log = self.log();
        log.lines().filter(|l| l.contains(" HTTP/1.1\" ") && parts.iter().all(|p| l.contains(p))).count()
    }

    /// Puts an image there; returns the digest of its manifest.
    pub fn put(&self, name: &str, tag: &str, image: &TestImage) -> String {
        let (files, descriptor) = image.blobs();
        for (path, bytes) in files {
            self.blob(name, path.rsplit('/').next().unwrap_or_default(), &bytes);
        }
        let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
        self.revision(name, &digest);
        self.tag(name, tag, &digest);
        digest
    }

    /// Puts one name for several images there, each for its platform (`linux/arm/v7`); returns
    /// the digest of the index.
    pub fn put_index(&self, name: &str, tag: &str, images: &[(&str, &TestImage)]) -> String {
        let mut list = Vec::new();
        for (platform, image) in images {
            let digest = self.put(name, "part", image);
            let (_, mut descriptor) = image.blobs();
            let parts: Vec<&str> = platform.split('/').collect();
            descriptor["platform"] = serde_json::json!({ "os": parts[0], "architecture": parts[1] });
            if let Some(variant) = parts.get(2) {
                descriptor["platform"]["variant"] = (*variant).into();
            }
            assert_eq!(descriptor["digest"], digest);
            list.push(descriptor);
        }
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": list });
        let index = Blob::new(index.to_string().into_bytes());
        self.blob(name, &index.digest, &index.bytes);
        let digest = format!("sha256:{}", index.digest);
        self.revision(name, &digest);
        self.tag(name, tag, &digest);
        digest
    }

    /// Where the bytes of a blob are: a test may spoil them.
    #[must_use]
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.root().join("blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    fn root(&self) -> PathBuf {
        self.dir.join("data/docker/registry/v2")
    }

    fn blob(&self, name: &str, hex: &str, bytes: &[u8]) {
        let file = self.blob_file(hex);
        fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
        fs::write(file, bytes).expect("a blob");
        self.link(&format!("repositories/{name}/_layers/sha256/{hex}"), hex);
    }

    fn revision(&self, name: &str, digest: &str) {
        let hex = digest.trim_start_matches("sha256:");
        self.link(&format!("repositories/{name}/_manifests/revisions/sha256/{hex}"), hex);
    }

    fn tag(&self, name: &str, tag: &str, digest: &str) {
        let hex = digest.trim_start_matches("sha256:");
        let at = format!("repositories/{name}/_manifests/tags/{tag}");
        self.link(&format!("{at}/current"), hex);
        self.link(&format!("{at}/index/sha256/{hex}"), hex);
    }

    fn link(&self, dir: &str, hex: &str) {
        let dir = self.root().join(dir);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("link"), format!("sha256:{hex}")).expect("a link");
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A port of loopback that nobody has right now.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    let mut out = fs::File::create(&file).expect("a file");
    out.write_all(text.as_bytes()).expect("a file");
    file.display().to_string()
}
