//! Whether a node could start here. Looks, and changes nothing.

use std::path::Path;

use super::{
    NodeConfig, NodeError,
    config::Layout,
    identity::{self, DataDir},
    run::net_config,
};
use crate::{
    model::{Id, NodeId, validate},
    net, rpc,
    worker::runtime,
};

/// What keeps a node from starting here, worst first; one sentence each, with its cure. Empty when
/// nothing does.
#[must_use]
pub fn check(config: &NodeConfig) -> Vec<String> {
    let mut problems = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        // Nothing else can be looked at without it.
        return vec!["a node needs root: run it with sudo".to_owned()];
    }
    let identity = match identity::read_identity(&config.data_dir) {
        Ok(identity) => identity,
        Err(e) => {
            problems.push(e.to_string());
            None
        }
    };
    // On an empty directory any name serves to ask the network what it thinks of this machine.
    let node: NodeId = identity.unwrap_or_else(|| Id::from_random(0));
    let layout = Layout::new(&config.data_dir, node);
    problems.extend(data_dir(&config.data_dir));
    problems.extend(net::preflight(&net_config(config, &layout, node, &[])).into_iter().map(|p| p.sentence));
    problems.extend(interfaces(config));
    problems.extend(containerd(config));
    problems.extend(rpc::is_free(&config.socket).err().map(|e| e.to_string()));
    problems.extend(validate::pool(config.pool()).err().map(|e| e.to_string()));
    problems.extend(validate::pool6(config.pool6()).err().map(|e| e.to_string()));
    // Once the cluster exists its pools are settled, and the node's own routes are in them. `run`
    // looks again before it makes one.
    if identity.is_none() {
        problems.extend(pools(config));
    }
    problems
}

fn containerd(config: &NodeConfig) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let outcome = runtime.block_on(async {
        let before = identity::read_runtime_record(&config.data_dir)?;
        let given = config.containerd.choose(before.as_ref()).await?;
        let checked = runtime::preflight(given.as_deref(), &config.data_dir).await;
        checked.map_err(|e| NodeError::Runtime(e.to_string()))
    });
    outcome.err().map(|e| e.to_string())
}

fn interfaces(config: &NodeConfig) -> Vec<String> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    match runtime.block_on(net::misnamed_interfaces(&config.interfaces)) {
        Ok(problems) => problems.into_iter().map(|p| p.sentence).collect(),
        Err(e) => vec![e.to_string()],
    }
}

fn pools(config: &NodeConfig) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    match runtime.block_on(net::pool_conflict(config.pool(), config.pool6())) {
        Ok(conflict) => conflict.map(|p| p.sentence),
        Err(e) => Some(e.to_string()),
    }
}

fn data_dir(path: &Path) -> Option<String> {
    match DataDir::hold_existing(path) {
        Err(e @ (NodeError::InUse(..) | NodeError::DataDir(..))) => Some(e.to_string()),
        _ => None,
    }
}
