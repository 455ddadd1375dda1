//! Docker's engine, for comparison, and to see that both get on with each other.

use std::{
    env, fs,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{Host, eventually, image, netns::unique, process, program};
use anyhow::{Context, Result};

const DAEMON: &str = "/usr/sbin/dockerd";
/// Not whatever else is called so in `PATH`.
const CLIENT: &str = "/usr/bin/docker";

/// An engine, with the image `web:1`.
#[derive(Debug)]
pub struct Engine {
    dir: PathBuf,
    child: Child,
}

/// An engine in a host of its own.
#[derive(Debug)]
pub struct Docker {
    engine: Engine,
    /// Where it runs.
    pub host: Host,
}

impl Docker {
    /// Starts one.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(host: Host) -> Result<Self> {
        Ok(Self { engine: Engine::start(&host)?, host })
    }
}

impl Deref for Docker {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

/// Whether it is installed.
pub fn installed() -> bool {
    [DAEMON, CLIENT].iter().all(|p| Path::new(p).is_file())
}

impl Engine {
    /// Starts one in a host, which may have other things in it: its own processes and mounts, so that
    /// ending its first process ends all.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(host: &Host) -> Result<Self> {
        let dir = env::temp_dir().join(unique("docker"));
        for sub in ["data", "etc", "run/containerd", "run/netns", "run/docker"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let d = dir.display();
        let script = format!(
            "for r in containerd netns docker; do mkdir -p /run/$r; mount --bind {d}/run/$r /run/$r || exit 1; done
             if [ -d /etc/docker ]; then mount --bind {d}/etc /etc/docker || exit 1; fi
             exec {DAEMON} --data-root {d}/data --exec-root /run/docker/x --pidfile {d}/pid -H unix://{d}/s \
               --bip 198.19.101.1/24 --default-address-pool base=198.19.201.0/24,size=26 --cgroup-parent /{}",
            Self::cgroup(&dir)
        );
        let log = fs::File::create(dir.join("log"))?;
        let child = host
            .ns
            .command("unshare")?
            .args(["-m", "-u", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let docker = Self { dir, child };
        eventually("Docker's engine answers", Duration::from_secs(60), || docker.run(&["version"]))
            .with_context(|| fs::read_to_string(docker.dir.join("log")).unwrap_or_default())?;
        let archive = docker.dir.join("image.tar");
        image::write_docker(&image::Image::web("web:1"), &archive)?;
        docker.run(&["load", "-i", &archive.display().to_string()])?;
        Ok(docker)
    }

    fn cgroup(dir: &Path) -> String {
        dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// `docker` with these words.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut c = Command::new(CLIENT);
        c.arg("-H").arg(format!("unix://{}", self.dir.join("s").display())).args(words);
        program::run(&mut c, Duration::from_secs(300))?.ok()
    }

    /// The number here of a process that the engine, in its own PID namespace, calls `pid`.
    #[must_use]
    pub fn outside(&self, pid: i64) -> Option<i64> {
        let pid = pid.to_string();
        process::tree(self.child.id().cast_signed()).into_iter().map(i64::from).find(|p| {
            let status = fs::read_to_string(format!("/proc/{p}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
            // Here, in the engine's, in the container's.
            numbers.split_whitespace().nth(1) == Some(&pid)
        })
    }

    /// Engine, containerd, shims and proxies; not the containers.
    pub fn processes(&self) -> Vec<i32> {
        process::tree(self.child.id().cast_signed())
            .into_iter()
            .filter(|p| {
                process::one(*p).is_some_and(|p| {
                    ["dockerd", "containerd", "docker-proxy"].iter().any(|n| p.name.starts_with(n))
                })
            })
            .collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        process::end(&process::tree(self.child.id().cast_signed()));
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
        // Its control groups, in every hierarchy, children first.
        let name = Self::cgroup(&self.dir);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_groups(&hierarchy.path().join(&name));
        }
        remove_groups(&Path::new("/sys/fs/cgroup").join(&name));
        // Where ours was mounted: stays when it is another engine's.
        let _ = fs::remove_dir("/run/docker");
    }
}

fn remove_groups(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            remove_groups(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
