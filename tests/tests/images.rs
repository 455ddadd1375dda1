//! Images come from their registry when a task needs them, with the credentials of whoever asked
//! for the task, which nobody can read afterwards; and they stay as long as a service may need them.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use warren_tests::{Node, eventually, image, node::one_line, program, scenario::OneNode};

const PASSWORD: &str = "a-password-nobody-may-see";
/// `me:` and the password, as registries are told.
const BASIC: &str = "bWU6YS1wYXNzd29yZC1ub2JvZHktbWF5LXNlZQ==";

/// docker-registry on 127.0.0.1:5000 of a node's host.
struct Registry {
    dir: PathBuf,
    child: Child,
}

impl Registry {
    fn start(node: &Node, password: bool) -> Result<Self> {
        let dir = node.dir().join("registry");
        fs::create_dir_all(&dir)?;
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:5000\n",
            dir.join("data").display()
        );
        if password {
            let file = dir.join("htpasswd");
            fs::write(&file, program::host("htpasswd", &["-nbB", "me", PASSWORD])?.trim())?;
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display()));
        }
        fs::write(dir.join("config.yml"), config)?;
        let log = File::create(dir.join("log"))?;
        let child = node
            .host
            .ns
            .command("docker-registry")?
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry is missing: `cargo xtask deps` installs it")?;
        let own = Self { dir, child };
        eventually("the registry answers", Duration::from_secs(20), || {
            node.host.ns.run("curl", &["-s", "-o", "/dev/null", "http://127.0.0.1:5000/v2/"])
        })?;
        Ok(own)
    }

    /// Puts an image there: its blobs, and a tag that names its manifest.
    fn put(&self, repository: &str, tag: &str, image: &image::Image, extra: usize) -> Result<()> {
        let archive = self.dir.join("image.tar");
        image::write_oci(image, &archive)?;
        let mut files: HashMap<String, Vec<u8>> = HashMap::new();
        for entry in tar::Archive::new(File::open(&archive)?).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.insert(path, bytes);
        }
        let index: Value = serde_json::from_slice(&files["index.json"])?;
        let at = |digest: &Value| {
            format!("blobs/sha256/{}", digest.as_str().unwrap_or_default().trim_start_matches("sha256:"))
        };
        let manifest = files.remove(&at(&index["manifests"][0]["digest"])).context("no manifest")?;
        let mut manifest: Value = serde_json::from_slice(&manifest)?;
        let mut config: Value = serde_json::from_slice(&files[&at(&manifest["config"]["digest"])])?;
        for (_, blob) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            self.blob(repository, blob)?;
        }
        if extra > 0 {
            // A layer that takes a while.
            let layer = noise_layer(extra)?;
            let digest = self.blob(repository, &layer)?;
            config["rootfs"]["diff_ids"].as_array_mut().context("no layers")?.push(json!(digest));
            manifest["layers"].as_array_mut().context("no layers")?.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.len(),
            }));
            let config = serde_json::to_vec(&config)?;
            manifest["config"]["digest"] = json!(self.blob(repository, &config)?);
            manifest["config"]["size"] = json!(config.len());
        }
        let digest = self.blob(repository, &serde_json::to_vec(&manifest)?)?;
        let hex = digest.trim_start_matches("sha256:");
        let manifests = format!("repositories/{repository}/_manifests");
        self.link(&format!("{manifests}/revisions/sha256/{hex}"), &digest)?;
        self.link(&format!("{manifests}/tags/{tag}/current"), &digest)?;
        self.link(&format!("{manifests}/tags/{tag}/index/sha256/{hex}"), &digest)
    }

    fn blob(&self, repository: &str, bytes: &[u8]) -> Result<String> {
        let hex = hex::encode(Sha256::digest(bytes));
        let dir = self.root().join("blobs/sha256").join(&hex[..2]).join(&hex);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("data"), bytes)?;
        self.link(&format!("repositories/{repository}/_layers/sha256/{hex}"), &format!("sha256:{hex}"))?;
        Ok(format!("sha256:{hex}"))
    }

    fn root(&self) -> PathBuf {
        self.dir.join("data/docker/registry/v2")
    }

    fn link(&self, dir: &str, digest: &str) -> Result<()> {
        let dir = self.root().join(dir);
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join("link"), digest)?)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn noise_layer(len: usize) -> Result<Vec<u8>> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "noise", bytes.as_slice())?;
    Ok(tar.into_inner()?)
}

/// Files below `dir` in which `needle` is.
fn holding(dir: &Path, needle: &str) -> Result<Vec<String>> {
    let found = program::run(
        Command::new("grep")
            .args(["-rlaF", "--exclude-dir=registry", "--exclude-dir=docker", needle])
            .arg(dir),
        Duration::from_secs(60),
    )?;
    Ok(found.stdout.lines().map(str::to_owned).collect())
}

#[test]
#[ignore = "needs root"]
fn a_private_image_comes_with_the_credentials_of_who_asked() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    let registry = Registry::start(node, true)?;
    registry.put("team/app", "1", &image::Image::web("app:1"), 0)?;
    let config = node.dir().join("docker");
    fs::create_dir_all(&config)?;
    let nobody = node.dir().join("nobody");
    let create = |config: &Path, name: &str, port: &str| {
        let words = [
            "service",
            "create",
            "--image",
            "127.0.0.1:5000/team/app:1",
            "--timeout",
            "60s",
            "-p",
            port,
            name,
        ];
        program::run(node.command()?.env("DOCKER_CONFIG", config).args(words), Duration::from_secs(90))
    };
    let said = create(&nobody, "none", "8081:80")?;
    ensure!(!said.good() && said.stderr.contains("docker login 127.0.0.1:5000"), "{}", said.stderr);
    node.ok(&["service", "rm", "none"])?;

    fs::write(
        config.join("config.json"),
        json!({ "auths": { "127.0.0.1:5000": { "auth": BASIC } } }).to_string(),
    )?;
    create(&config, "app", "8080:80")?.ok()?;
    site.ask(8080, "/")?;
    ensure!(node.running("app")?.len() == 1);

    // Nobody finds the password again: not in the data, the log, or what commands print.
    let key = node.data_dir().join("cluster.key");
    let mode = program::host("stat", &["-c", "%a", &key.display().to_string()])?;
    ensure!(mode.trim() == "600", "{mode}");
    for secret in [PASSWORD, BASIC] {
        let found = holding(node.dir(), secret)?;
        ensure!(found.is_empty(), "{secret} is in {found:?}");
        for words in [&["service", "inspect", "app"][..], &["service", "ps", "app", "--format", "json"]] {
            ensure!(!node.ok(words)?.contains(secret), "{words:?} shows it");
        }
    }

    // With the image here, nobody is asked; and an image that a service names stays.
    node.ok(&["service", "scale", "app=2"])?;
    let kept = |node: &Node| -> Result<Vec<String>> {
        let list = node.json(&["image", "ls"])?;
        let list = list.as_array().context("no list")?;
        Ok(list.iter().filter_map(|i| i["reference"].as_str().map(str::to_owned)).collect())
    };
    let said = one_line(&node.cli(&["image", "prune"])?)?;
    ensure!(said.contains("--force"), "{said}");
    ensure!(node.ok(&["image", "prune", "--dry-run"])?.trim() == "web:1");
    ensure!(kept(node)?.len() == 2, "a dry run removes nothing");
    node.ok(&["image", "prune", "--force"])?;
    ensure!(kept(node)? == ["127.0.0.1:5000/team/app:1"], "{:?}", kept(node)?);
    node.ok(&["service", "rm", "app"])?;
    node.ok(&["image", "prune", "--force"])?;
    ensure!(kept(node)?.is_empty());

    // By hand, with what it says for people and for programs.
    let pull = |extra: &[&str]| {
        let mut command = node.command()?;
        command
            .env("DOCKER_CONFIG", &config)
            .args(["image", "pull", "127.0.0.1:5000/team/app:1"])
            .args(extra);
        program::run(&mut command, Duration::from_secs(60))
    };
    let said = pull(&[])?;
    ensure!(
        said.good() && said.stderr.contains(": done\n") && said.stderr.contains("digest sha256:"),
        "{said:?}"
    );
    let said = pull(&["--quiet"])?;
    ensure!(
        said.good() && said.stderr.is_empty() && said.stdout == "127.0.0.1:5000/team/app:1\n",
        "{said:?}"
    );
    let e = node.refused(&["image", "pull", "-q", "127.0.0.1:5000/team/none:1"])?;
    ensure!(e.contains("registry 127.0.0.1:5000 says: authentication required"), "{e}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_agent_that_dies_while_it_pulls_pulls_on() -> Result<()> {
    let mut site = OneNode::new()?;
    let registry = Registry::start(&site.node, false)?;
    registry.put("big", "1", &image::Image::web("big:1"), 48 << 20)?;
    for (round, wait) in [20, 80, 160, 320].into_iter().enumerate() {
        let name = format!("app{round}");
        let words = ["service", "create", "--detach", "--image", "127.0.0.1:5000/big:1", &name];
        site.node.ok(&words)?;
        std::thread::sleep(Duration::from_millis(wait));
        site.node.kill_agent()?;
        site.node.start_agent()?;
        eventually("it runs", Duration::from_secs(60), || {
            if site.node.running(&name)?.len() == 1 {
                Ok(())
            } else {
                bail!("{}", site.node.ok(&["service", "ps", &name])?)
            }
        })?;
        site.node.ok(&["service", "rm", &name])?;
        site.node.ok(&["image", "prune", "--force"])?;
        // Nothing half-made, and nothing of what came before the kill.
        let root = site.node.data_dir().join("containerd");
        let left = program::host(
            "find",
            &[&root.display().to_string(), "-path", "*content/ingest/*", "-maxdepth", "6"],
        )?;
        ensure!(left.trim().is_empty(), "{left}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_task_that_is_not_wanted_any_more_gives_its_pull_up() -> Result<()> {
    let site = OneNode::new()?;
    // A registry that takes connections and says nothing.
    let silent = site.node.host.ns.enter(|| std::net::TcpListener::bind("127.0.0.1:5000"))??;
    site.node.ok(&["service", "create", "--detach", "--image", "127.0.0.1:5000/x:1", "slow"])?;
    eventually("the task says what it waits for", Duration::from_secs(20), || {
        let tasks = site.node.json(&["service", "ps", "slow"])?;
        let text = tasks.to_string();
        if text.contains("pulling 127.0.0.1:5000/x:1") { Ok(()) } else { bail!("{text}") }
    })?;
    site.node.ok(&["service", "rm", "--timeout", "10s", "slow"])?;
    drop(silent);
    Ok(())
}
