//! What must be there before a node can run containers. Looks, changes nothing.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::client::{Client, call};

/// Programs an own containerd needs, and where the user gets them.
const PROGRAMS: [(&str, &str); 3] =
    [("containerd", "containerd"), ("containerd-shim-runc-v2", "containerd"), ("runc", "runc")];
/// Searched after PATH: services often start with a short one.
pub(super) const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];
/// Where the system's containerd listens.
const SYSTEM_SOCKET: &str = "/run/containerd/containerd.sock";
const ANSWER: Duration = Duration::from_secs(5);
/// The oldest runc that does what containers are told: the first with all of cgroup2.
const RUNC: (u32, u32) = (1, 1);

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
    /// runc is there and is of no use.
    #[error("{path} {why}; Warren needs runc {}.{} or newer: install the package of a newer system, or the program from runc's own releases", RUNC.0, RUNC.1)]
    Runc {
        /// The program.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing can be executed where the node's files are.
    #[error(
        "{0} is on a file system mounted noexec, and the program that keeps containers' output must run from there: mount it without noexec, or name another --data-dir"
    )]
    NoExec(String),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// The program of an own containerd; `None` with a given socket.
    pub containerd: Option<PathBuf>,
    /// Version of the containerd behind a given socket.
    pub version: Option<String>,
}

/// Checks the containerd behind `socket`, or, without one, the programs of an own; and the place
/// of `data_dir`, which need not be there yet.
pub async fn preflight(socket: Option<&Path>, data_dir: &Path) -> Result<Preflight, PreflightError> {
    executable(data_dir)?;
    match socket {
        Some(s) => Ok(Preflight { containerd: None, version: Some(answer(s).await?) }),
        None => {
            let containerd = programs()?;
            if let Some(runc) = lookup("runc") {
                check_runc(&runc)?;
            }
            Ok(Preflight { containerd: Some(containerd), version: None })
        }
    }
}

fn executable(data_dir: &Path) -> Result<(), PreflightError> {
    let there = data_dir.ancestors().find_map(|d| statvfs(d).ok());
    if there.is_some_and(|fs| fs.flags().contains(FsFlags::ST_NOEXEC)) {
        return Err(PreflightError::NoExec(data_dir.display().to_string()));
    }
    Ok(())
}

fn check_runc(runc: &Path) -> Result<(), PreflightError> {
    let said = Command::new(runc).arg("--version").output();
    useless(said).map_or(Ok(()), |why| Err(PreflightError::Runc { path: runc.display().to_string(), why }))
}

/// What is wrong with a runc that was asked for its version.
fn useless(said: io::Result<Output>) -> Option<String> {
    match said {
        Err(e) => Some(format!("cannot be run ({e})")),
        Ok(said) if !said.status.success() => Some(format!("cannot say its version ({})", said.status)),
        Ok(said) => match runc_version(&String::from_utf8_lossy(&said.stdout)) {
            Some(found) if found < RUNC => Some(format!("is runc {}.{}, which is too old", found.0, found.1)),
            // Another program of that name numbers its versions as it likes.
            _ => None,
        },
    }
}

/// The first two numbers of runc's version.
fn runc_version(said: &str) -> Option<(u32, u32)> {
    let version = said.lines().next()?.strip_prefix("runc version ")?.trim_start_matches('v');
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
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

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };

    use super::*;

    #[test]
    fn a_runc_that_is_of_no_use_is_named() {
        let said = |status: i32, text: &str| {
            let status = ExitStatus::from_raw(status << 8);
            useless(Ok(Output { status, stdout: text.into(), stderr: Vec::new() }))
        };
        let old = |version| Some(format!("is runc {version}, which is too old"));
        for (text, wrong) in [
            ("runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1\n", None),
            ("runc version v2.0\n", None),
            ("runc version 1.0.3\n", old("1.0")),
            ("runc version 1.0.0-rc93\n", old("1.0")),
            ("runc version 0.1.1\n", old("0.1")),
            ("crun version 0.17\n", None),
            ("", None),
        ] {
            assert_eq!(said(0, text), wrong, "{text}");
        }
        assert_eq!(said(3, "").as_deref(), Some("cannot say its version (exit status: 3)"));
        let absent = check_runc(Path::new("/no/such/runc")).unwrap_err().to_string();
        assert!(absent.starts_with("/no/such/runc cannot be run (No such file or directory"), "{absent}");
        assert!(absent.contains("; Warren needs runc 1.1 or newer: "), "{absent}");
    }

    #[test]
    #[ignore = "needs root"]
    fn a_place_where_nothing_can_be_executed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("not/there/yet");
        assert_eq!(executable(&data), Ok(()));
        let said = std::thread::scope(|s| {
            let mounted = s.spawn(|| {
                // The mount is this thread's only.
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
                mount(Some("none"), dir.path(), Some("tmpfs"), MsFlags::MS_NOEXEC, none).unwrap();
                executable(&data).unwrap_err().to_string()
            });
            mounted.join().unwrap()
        });
        assert!(
            said.starts_with(&format!("{} is on a file system mounted noexec", data.display())),
            "{said}"
        );
    }
}
