//! Taking a node apart until nothing is left.

use std::{io, path::Path};

use super::{
    NodeConfig, NodeError,
    config::{Containerd, Layout, LogFormat},
    identity::DataDir,
    run::net_config,
};
use crate::{model::PublishDefault, net, worker::runtime};

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
    // A damaged file must not keep a node from being removed: either names the node, and without
    // a record the containers are taken to be in the node's own containerd.
    let record = held.runtime_record();
    let node = match (held.node(), &record) {
        (Ok(None), _) => return Ok(()),
        (Ok(Some(node)), _) => node,
        (Err(damaged), Ok(Some(record))) => record.node.parse().map_err(|_| damaged)?,
        (Err(damaged), _) => return Err(NodeError::Nameless(data_dir.to_owned(), damaged.to_string())),
    };
    let layout = Layout::new(data_dir, node);
    let external = record.unwrap_or_default().and_then(|r| r.socket);
    let config = NodeConfig {
        data_dir: data_dir.to_owned(),
        socket: socket.to_owned(),
        containerd: Containerd::Found,
        interfaces: Vec::new(),
        publish_default: PublishDefault::Any,
        guard: net::Guard::Tc,
        pool: None,
        pool6: None,
        name: None,
        labels: Default::default(),
        registry_mirrors: Vec::new(),
        insecure_registries: Vec::new(),
        registry_authorities: Vec::new(),
        watermarks: Default::default(),
        log_level: String::new(),
        log_format: LogFormat::Text,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // Before anything goes: from elsewhere, the containers would go and their network stay.
    net::check_home(&net_config(&config, &layout, node, &[]))?;
    runtime.block_on(async {
        // Containers before their links: a namespace in use would only be half gone.
        let own = layout.supervisor();
        if let Some(socket) = external {
            let asked = runtime::reset(&layout.runtime(node, socket.clone()), None).await;
            if let Err(e) = asked {
                eprintln!(
                    "{e}; the containers are removed all the same, but the containerd at {} may still list them in its namespace warren-{node}",
                    socket.display()
                );
            }
        }
        // By force, whatever is left of them: also what is of a containerd that was asked.
        let force = layout.runtime(node, own.socket());
        runtime::reset(&force, Some(&own)).await.map_err(|e| NodeError::Runtime(e.to_string()))?;
        net::reset(&net_config(&config, &layout, node, &[])).await?;
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
