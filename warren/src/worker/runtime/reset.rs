//! Removes every trace of a node's containers.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use containerd_client::services::v1::{
    DeleteImageRequest, DeleteNamespaceRequest, ListImagesRequest,
    snapshots::{ListSnapshotsRequest, RemoveSnapshotRequest},
};
use nix::sys::signal::Signal;

use super::{
    Containerd, RuntimeConfig, SNAPSHOTTER,
    client::{CallError, Client, LONG, SHORT, already, call},
    preflight::answer,
    remains,
    supervisor::{SupervisorConfig, end},
};
use crate::worker::executor::{Runtime, RuntimeError};

/// Something would not go.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// A file, mount or cgroup.
    #[error("the node's containers can not be removed: {0}")]
    Io(#[from] io::Error),
    /// What is in a containerd that is not ours.
    #[error("the node's containers can not be removed from {socket}: {why}")]
    Containerd {
        /// Its socket.
        socket: PathBuf,
        /// What it said.
        why: String,
    },
}

/// Removes a node's containers, images, mounts and cgroups, and its own containerd with all it
/// has. Nothing there is no error. The agent must not run.
///
/// With `own`, everything goes by force and needs no containerd that answers. Without, the node's
/// namespace in the containerd behind `config.socket` is emptied.
pub async fn reset(config: &RuntimeConfig, own: Option<&SupervisorConfig>) -> Result<(), ResetError> {
    match own {
        Some(own) => by_force(config, own).await,
        None => by_request(config).await,
    }?;
    let config = config.clone();
    tokio::task::spawn_blocking(move || {
        remains::remove_cgroup(&config.cgroup_parent)?;
        remains::remove_empty_parent(&config.cgroup_parent);
        remains::remove_dir(&config.tasks_dir())?;
        remains::remove_dir(&config.import_dir())?;
        remains::remove_dir(&config.exec_dir())?;
        remains::remove_dir(config.logs.dir())?;
        remains::remove_dir(&config.volumes_dir)?;
        remains::remove_dir(&config.runc_root())
    })
    .await
    .map_err(io::Error::other)??;
    Ok(())
}

async fn by_force(config: &RuntimeConfig, own: &SupervisorConfig) -> Result<(), ResetError> {
    // containerd first, or it would clean up after what is killed while we do.
    end(own).await;
    let (config, own) = (config.clone(), own.clone());
    tokio::task::spawn_blocking(move || {
        remains::remove_cgroup(&config.cgroup_parent)?;
        for shim in remains::shims(&config, None) {
            shim.signal(Signal::SIGKILL);
        }
        // The sockets of shims are named after what is in these directories.
        let bundles = own.state().join("io.containerd.runtime.v2.task").join(&config.namespace);
        let runc = config.runc_root().join(&config.namespace);
        let mut tasks = BTreeSet::new();
        for dir in [bundles, runc, config.tasks_dir()] {
            tasks.extend(fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name()));
        }
        for task in tasks {
            let _ = fs::remove_file(remains::shim_socket(&config, &task.to_string_lossy()));
        }
        let trees = [own.state(), own.root(), config.runc_root()];
        let within = |p: &str| trees.iter().any(|t| PathBuf::from(p).starts_with(t));
        remains::unmount(&remains::mount_points(within));
        for tree in &trees {
            remains::remove_dir(tree)?;
        }
        let socket = own.socket();
        let ttrpc = PathBuf::from(format!("{}.ttrpc", socket.display()));
        for file in [socket, ttrpc, own.file(), own.log(), own.log().with_extension("log.1")] {
            match fs::remove_file(&file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    })
    .await
    .map_err(io::Error::other)?
    .map_err(ResetError::Io)
}

async fn by_request(config: &RuntimeConfig) -> Result<(), ResetError> {
    let failed = |why: String| ResetError::Containerd { socket: config.socket.clone(), why };
    answer(&config.socket).await.map_err(|e| failed(e.to_string()))?;
    let containerd = Containerd::new(config.clone());
    let gone = |e: RuntimeError| failed(e.to_string());
    for (task, _) in containerd.list().await.map_err(gone)? {
        containerd.remove(task).await.map_err(gone)?;
    }
    containerd.images().sweep().await.map_err(|e| failed(e.to_string()))?;
    empty(&Client::new(&config.socket, &config.namespace), &config.namespace)
        .await
        .map_err(|e| failed(e.to_string()))
}

async fn empty(client: &Client, namespace: &str) -> Result<(), CallError> {
    let r = ListImagesRequest { filters: Vec::new() };
    for image in call(SHORT, client.images().list(client.request(r))).await?.images {
        let r = DeleteImageRequest { name: image.name, sync: true, target: None };
        already(call(LONG, client.images().delete(client.request(r))).await)?;
    }
    // The collection has run; snapshots of which nobody knows any more go from the top down.
    loop {
        let r = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.to_owned(), filters: Vec::new() };
        let mut names = Vec::new();
        let mut parents = BTreeSet::new();
        let mut stream = call(SHORT, client.snapshots().list(client.request(r))).await?;
        while let Some(batch) = stream.message().await? {
            for info in batch.info {
                names.push(info.name);
                parents.insert(info.parent);
            }
        }
        names.retain(|n| !parents.contains(n));
        if names.is_empty() {
            break;
        }
        for key in names {
            let r = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key };
            already(call(LONG, client.snapshots().remove(client.request(r))).await)?;
        }
    }
    let r = DeleteNamespaceRequest { name: namespace.to_owned() };
    already(call(SHORT, client.namespaces().delete(client.request(r))).await)
}
