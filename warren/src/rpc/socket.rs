//! The node's unix socket.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use nix::sys::stat::{Mode, umask};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// The socket could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens.
    #[error(
        "no node answers on {}: start one with `warren node start`, or name its socket with --socket or WARREN_SOCKET",
        .0.display()
    )]
    Away(PathBuf),
    /// Not allowed to.
    #[error("you may not open {}: run this command as root", .0.display())]
    Denied(PathBuf),
    /// Anything else the kernel says.
    #[error("cannot open {path}: {1}", path = .0.display())]
    Io(PathBuf, io::Error),
    /// Something listens that does not speak as a node does.
    #[error("{} does not answer as a Warren node: name the node's socket with --socket or WARREN_SOCKET", .0.display())]
    NotANode(PathBuf),
}

/// The socket could not be opened for listening.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process answers there.
    #[error("{} is in use by another process: stop it, or give this node its own with --socket", .0.display())]
    InUse(PathBuf),
    /// The path holds something that is no socket.
    #[error("{} exists and is not a socket: remove it, or give this node another with --socket", .0.display())]
    NotASocket(PathBuf),
    /// Anything else the kernel says.
    #[error("cannot listen on {path}: {1}: give another path with --socket", path = .0.display())]
    Io(PathBuf, io::Error),
}

fn endpoint() -> Endpoint {
    // The address is never used: the connector below goes to the socket.
    Endpoint::from_static("http://node.warren.invalid").connect_timeout(Duration::from_secs(5))
}

fn connector(
    path: PathBuf,
) -> impl tower::Service<Uri, Response = TokioIo<UnixStream>, Error = io::Error, Future: Send> + Send + 'static
{
    tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    })
}

/// Connects to the node on `path`.
///
/// # Errors
/// Says who is missing and what to do.
pub async fn dial(path: &Path) -> Result<Channel, DialError> {
    // One plain connection first: its error says more than what the transport makes of it.
    if let Err(e) = UnixStream::connect(path).await {
        let path = path.to_owned();
        return Err(match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => DialError::Away(path),
            io::ErrorKind::PermissionDenied => DialError::Denied(path),
            _ => DialError::Io(path, e),
        });
    }
    endpoint()
        .connect_with_connector(connector(path.to_owned()))
        .await
        .map_err(|_| DialError::NotANode(path.to_owned()))
}

/// A channel to the node on `path` that connects when used, and again whenever it must.
#[must_use]
pub fn dial_lazy(path: &Path) -> Channel {
    endpoint().connect_with_connector_lazy(connector(path.to_owned()))
}

/// Whether [`listen`] would find the path free. Looks, and changes nothing.
///
/// # Errors
/// Says what is in the way.
pub fn is_free(path: &Path) -> Result<(), ListenError> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Ok(m) if !m.file_type().is_socket() => Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(ListenError::InUse(path.to_owned()))
        }
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(ListenError::Io(path.to_owned(), e)),
    }
}

/// Listens on `path`, for root and the socket's group. What a dead node left there is replaced; a
/// live one is not.
///
/// # Errors
/// Says what is in the way.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let io_error = |e| ListenError::Io(path.to_owned(), e);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(io_error)?;
    }
    is_free(path)?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(e)),
        _ => {}
    }
    // Never open to others, not even until the mode is set.
    let before = umask(Mode::from_bits_truncate(0o117));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(io_error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io_error)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_nodes_socket_is_replaced_and_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/s");
        let first = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(ListenError::InUse(_))));
        drop(first);
        let _second = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn nobody_there_is_said_in_a_sentence() {
        let e = dial(Path::new("/nonexistent/warren.sock")).await.unwrap_err();
        assert!(e.to_string().contains("warren node start"), "{e}");
    }
}
