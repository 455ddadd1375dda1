//! Taking a node apart until nothing is left.

use std::{io, path::Path};

use super::{
    NodeConfig, NodeError,
    config::{Containerd, Layout, LogFormat},
    identity::DataDir,
    run::net_config,
};
use crate::{net, worker::runtime};

/// Removes the node of `data_dir`: containers, network, data and socket. A directory that is of no
/// node is left alone. May be repeated until it succeeds.
///
/// # Errors
/// When the node still runs, or something of it will not go.
pub fn reset(data_dir: &Path, socket: &Path) -> Result<(), NodeError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(NodeError::Preflight("a reset needs root: run it with sudo".to_owned()));
    }
    let Some(held) = DataDir::hold_existing(data_dir)? else {
        return Ok(());
    };
    let Some(node) = held.node()? else {
        return Ok(());
    };
    let layout = Layout::new(data_dir, node);
    let external = held.runtime_record()?.and_then(|r| r.socket);
    let config = NodeConfig {
        data_dir: data_dir.to_owned(),
        socket: socket.to_owned(),
        containerd: Containerd::Found,
        interfaces: Vec::new(),
        pool: None,
        pool6: None,
        name: None,
        labels: Default::default(),
        log_level: String::new(),
        log_format: LogFormat::Text,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        // Containers before their links: a namespace in use would only be half gone.
        let own = external.is_none().then(|| layout.supervisor());
        let at = external.unwrap_or_else(|| layout.supervisor().socket());
        runtime::reset(&layout.runtime(node, at), own.as_ref())
            .await
            .map_err(|e| NodeError::Runtime(e.to_string()))?;
        net::reset(&net_config(&config, &layout, node, None)).await?;
        Ok::<_, NodeError>(())
    })?;
    remove_tree(&layout.state_dir)?;
    // Only when no other node of this kernel has anything there.
    let _ = std::fs::remove_dir("/run/warren");
    // The socket may be another node's by now.
    if std::os::unix::net::UnixStream::connect(socket).is_err() {
        match std::fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    // The identity goes last: until then a reset that was cut off can be repeated.
    held.clear()
}

fn remove_tree(path: &Path) -> Result<(), NodeError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}
