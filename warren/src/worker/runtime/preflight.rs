//! What must be there before a node can run containers. Looks, changes nothing.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::client::{Client, call};

/// Programs an own containerd needs, and where the user gets them.
const PROGRAMS: [(&str, &str); 3] =
    [("containerd", "containerd"), ("containerd-shim-runc-v2", "containerd"), ("runc", "runc")];
/// Searched after PATH: services often start with a short one.
pub(super) const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];
/// Where the system's containerd listens.
const SYSTEM_SOCKET: &str = "/run/containerd/containerd.sock";
const ANSWER: Duration = Duration::from_secs(5);

/// Why no container can run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// Programs are missing.
    #[error(
        "{programs} not found; install {packages} (Debian, Ubuntu: apt install {packages}; in Warren's source tree: cargo xtask deps)"
    )]
    Missing {
        /// Their names.
        programs: String,
        /// The Debian packages that have them.
        packages: String,
    },
    /// The socket is not there, or nobody answers.
    #[error("no containerd answers at {socket}: {why}; start it, or leave --containerd out for an own one")]
    Socket {
        /// The path.
        socket: String,
        /// What happened.
        why: String,
    },
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// The program of an own containerd; `None` with a given socket.
    pub containerd: Option<PathBuf>,
    /// Version of the containerd behind a given socket.
    pub version: Option<String>,
}

/// Checks the containerd behind `socket`, or, without one, the programs of an own.
pub async fn preflight(socket: Option<&Path>) -> Result<Preflight, PreflightError> {
    match socket {
        Some(s) => Ok(Preflight { containerd: None, version: Some(answer(s).await?) }),
        None => Ok(Preflight { containerd: Some(programs()?), version: None }),
    }
}

/// The system's containerd, when there is one that answers.
pub async fn discover() -> Option<PathBuf> {
    let socket = Path::new(SYSTEM_SOCKET);
    (socket.exists() && answer(socket).await.is_ok()).then(|| socket.to_owned())
}

/// Asks for the version.
pub(super) async fn answer(socket: &Path) -> Result<String, PreflightError> {
    let failed = |why: String| PreflightError::Socket { socket: socket.display().to_string(), why };
    // Connecting by hand first gives the plain reason.
    tokio::net::UnixStream::connect(socket).await.map_err(|e| failed(e.to_string()))?;
    let client = Client::new(socket, "warren");
    let version = call(ANSWER, client.version().version(client.request(()))).await;
    Ok(version.map_err(|e| failed(e.to_string()))?.version)
}

/// Finds containerd and what it needs; returns containerd.
pub(super) fn programs() -> Result<PathBuf, PreflightError> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(p, _)| lookup(p).is_none()).collect();
    if let (true, Some(containerd)) = (missing.is_empty(), lookup(PROGRAMS[0].0)) {
        return Ok(containerd);
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    Err(PreflightError::Missing { programs: programs.join(", "), packages: packages.join(" ") })
}

fn lookup(program: &str) -> Option<PathBuf> {
    search_path()
        .map(|d| d.join(program))
        .find(|p| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// PATH and then the usual places.
pub(super) fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&path).filter(|p| p.is_absolute()).collect();
    own.into_iter().chain(DIRECTORIES.map(PathBuf::from))
}
