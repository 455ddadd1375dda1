//! Removes every trace of a node's network, whatever state an agent left it in.

use std::{fs, io, path::Path};

use super::{
    Config, NetError,
    attach::{alias::Alias, host_name, link, namespace},
    datapath::{
        bpffs::{self, Lock},
        links,
    },
    home,
    netlink::Netlink,
    reserved::Reserved,
};

/// Removes programs, maps, containers' links and namespaces, and takes reserved ports back. Goes on
/// after an error and reports the first; what is not there is no error.
///
/// # Errors
/// [`NetError::Locked`] while an agent of the node is running, [`NetError::Elsewhere`] in another
/// network namespace than the node's; then nothing was removed.
pub async fn reset(config: &Config) -> Result<(), NetError> {
    let lock = match config.pin_root.is_dir() && bpffs::is_bpffs(&config.pin_root) {
        true => Some(Lock::take(&config.pin_root)?),
        false => None,
    };
    home::leave_old(config)?;
    let mut errors = Vec::new();
    let mut keep = |r: Result<(), NetError>| {
        if let Err(e) = r {
            tracing::warn!("{e}");
            errors.push(e);
        }
    };
    if lock.is_some() {
        keep(pins(&config.pin_root).map_err(|e| NetError::system("remove pins", e)));
    }
    let tasks = link::namespaces(&config.netns_dir);
    let names: Vec<String> = tasks.iter().flatten().map(|t| host_name(*t)).collect();
    let netlink = Netlink::open()?;
    let host = netlink.host().await?;
    for d in &host.devices {
        if links::remove_filter(&d.name) {
            keep(links::remove_empty_clsact(&netlink, d.index).await);
        }
        let its = match d.alias.as_deref().map(str::parse::<Alias>) {
            Some(Ok(alias)) => alias.node == config.node,
            // Made, but the agent died before it could write the alias: the task's namespace is
            // made before its link and removed after it.
            _ => names.contains(&d.name),
        };
        if d.is_ours() && its {
            keep(link::remove_device(&netlink, d.index).await);
        }
    }
    match tasks {
        Ok(tasks) => {
            for task in tasks {
                let path = link::namespace_path(&config.netns_dir, task);
                keep(namespace::remove(&path).map_err(|e| NetError::system("remove a network namespace", e)));
            }
        }
        Err(e) => keep(Err(NetError::system("list network namespaces", e))),
    }
    let restored = Reserved::new(&config.netns_dir).restore();
    keep(restored.map_err(|e| NetError::system("take reserved ports back", e)));
    if errors.is_empty() {
        home::forget(config).map_err(|e| NetError::system("forget the node's network namespace", e))?;
    }
    // Only when nothing else is in it.
    let _ = fs::remove_dir(&config.netns_dir);
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Removes the node's directory of pins: links first, so that no program runs on half of the maps.
fn pins(root: &Path) -> io::Result<()> {
    let node = root.parent().filter(|p| p.file_name().is_some_and(|n| n != "bpf")).unwrap_or(root);
    for version in bpffs::subdirectories(node) {
        let links = version.join("links");
        if links.is_dir() {
            fs::remove_dir_all(links)?;
        }
    }
    fs::remove_dir_all(node)?;
    if let Some(all) = node.parent().filter(|p| *p != Path::new(bpffs::USUAL)) {
        // Only when no other node has pins there.
        let _ = fs::remove_dir(all);
    }
    Ok(())
}
